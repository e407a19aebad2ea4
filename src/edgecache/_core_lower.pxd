"""Root: the RAM tier over a lower tier that is a Python object (layout "files").

`CoreBase.lower` is None or has these methods (`edgecache.files.FileTier`); a hash is the 16 bytes
of `lower_hash`, a key the bytes that are hashed:

    lock(hash) -> context manager       of a key: its versions here and in RAM change together
    contains(hash) -> bool              no I/O
    exists(hash) -> bool                as that, and not expired; no I/O
    sequence(hash) -> int               of the current version; 0: there is none
    get(hash, key) -> (value, meta, expiry_us, sequence) | None
    write(hash, key, value, meta, expiry_us, flags) -> ticket        the new version, not yet seen
    enter(ticket) -> bool               make it the current one (under the lock); False: shed
    drop(ticket)                        give it up, unless it was entered
    delete(hash, was_in_ram) -> bool             whether there was a live one (under the lock)
    sync(), flush(), clear(), checkpoint(), close(), abandon(), counters() -> dict, check() -> list

Lock order: the lock of a key, then the lock of a shard. Python code runs under the first, never
under the second.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._core_base cimport CoreBase
from edgecache._xxhash cimport Hash128

# The key hash as its name on disk.
cdef bytes lower_hash(Hash128 hash)
# Version of the key's RAM item; 0: there is none.
cdef uint32_t lower_ram_version(CoreBase store, Hash128 hash, const char* key,
                                uint32_t key_len) noexcept
# Make a value the RAM tier's, or only remove what it has when there is no room for it. Whoever
# calls holds the key's lock.
cdef bint lower_store_ram(CoreBase store, Hash128 hash, const char* key, uint32_t key_len,
                          const char* value, uint64_t value_len, const char* meta,
                          uint32_t meta_len, int64_t expiry_us) except -1
