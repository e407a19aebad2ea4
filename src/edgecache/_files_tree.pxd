"""Writing, reading and verifying the files of objects on an I/O engine, without the GIL.

Unless another result is named, functions return 0 or a negative errno; -EBADMSG is whatever does
not verify. A `directory` and a `name` are relative to the root of the engine.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._files_format cimport FILE_CHUNK_STRIPS, FileHead
from edgecache._io cimport IoEngineOps
from edgecache._xxhash cimport XxhashApi

cdef enum:
    OBJECT_NAME_BYTES = 192
    # Of one system call, so that a killed process or a fault does not wait for more.
    TRANSFER_BYTES = 8388608
    BODY_FILES_MAX = 64
    STRIP_SLOTS = 512                   # 1 MiB, of the whole store

cdef struct Tree:                       # process-local
    const IoEngineOps* ops
    void* engine
    const XxhashApi* api
    uint64_t seed

cdef struct KnownStrips:                # sums that were verified; body_sequence 0: none
    uint64_t body_sequence
    uint64_t number                     # of the chunk
    uint64_t[FILE_CHUNK_STRIPS] sums

# Direct-mapped by body and chunk; a body is the same as long as its sequence is. *Thread-safety*:
# the lock guards the slots.
cdef struct StripTable:                 # zeroed: empty
    uint32_t lock
    uint32_t zero
    KnownStrips* slots                  # STRIP_SLOTS, made with the first one

cdef int64_t tree_write(const Tree* tree, uint32_t file, uint64_t offset, const char* data,
                        uint64_t size_bytes) noexcept nogil
# -EBADMSG also when the file ends before.
cdef int64_t tree_read(const Tree* tree, uint32_t file, uint64_t offset, char* data,
                       uint64_t size_bytes) noexcept nogil
# Read a whole file of at most `limit_bytes` into memory of malloc (perhaps also when it fails); its
# size or a negative errno.
cdef int64_t tree_load(const Tree* tree, const char* name, uint64_t limit_bytes,
                       char** out) noexcept nogil
# A zeroed head with key, meta and sizes filled in; NULL without memory. To be freed.
cdef FileHead* tree_new_head(const Tree* tree, const char* key, uint32_t key_len,
                             uint64_t body_len, const char* meta, uint32_t meta_len) noexcept nogil
# Read and verify a head into memory of malloc (perhaps also when it fails).
cdef int64_t tree_load_head(const Tree* tree, const char* directory,
                            FileHead** out) noexcept nogil
# Have the files of the body the sizes that the head says?
cdef int64_t tree_check_body_size(const Tree* tree, const char* directory,
                                  const FileHead* head) noexcept nogil
# Read and verify head.meta_len bytes of meta.
cdef int64_t tree_read_meta(const Tree* tree, const char* directory, const FileHead* head,
                            char* out) noexcept nogil
# Read and verify whole chunks [first, end) of the body.
cdef int64_t tree_read_chunks(const Tree* tree, const char* directory, const FileHead* head,
                              uint64_t first, uint64_t end, char* data) noexcept nogil
# Read and verify a part of the body: of a large one the strips that cover it, and their sums where
# the table has them not. 0 < length, and the part lies in the body.
cdef int64_t tree_read_part(const Tree* tree, const char* directory, const FileHead* head,
                            StripTable* table, uint64_t offset, uint64_t length,
                            char* target) noexcept nogil
cdef void strip_table_free(StripTable* table) noexcept nogil
# The sums of the strips of a chunk; how many.
cdef uint32_t tree_strip_sums(const Tree* tree, const char* data, uint64_t size_bytes,
                              uint64_t* sums) noexcept nogil
# The sum of a chunk that has these.
cdef void tree_sum_of_strips(const Tree* tree, const uint64_t* sums, uint32_t count,
                             char* out) noexcept nogil
# Seal the head and write it and the meta; the space both take, or a negative errno.
cdef int64_t tree_write_metas(const Tree* tree, const char* directory, FileHead* head,
                              const char* meta) noexcept nogil
# Write a whole object; the space it takes, or a negative errno with nothing left behind.
cdef int64_t tree_write_object(const Tree* tree, const char* directory, FileHead* head,
                               const char* body, const char* meta) noexcept nogil
# Remove an object directory and the files that an object has; one that is not there is fine.
cdef int tree_unlink_object(const Tree* tree, const char* directory) noexcept nogil
