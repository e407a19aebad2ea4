"""The tier: what a store's `Core` asks for what is not in RAM (the contract: `_core_lower.pxd`).

A put writes its object into a directory of `tmp` at once and enters it into the index; the
publisher makes it durable and moves it to its place. Until then it is read where it lies, and a
crash takes it, as it takes what lies in a write buffer of the other layout.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from edgecache._files import CORRUPT, KEEP_BODY_FILE_BYTES, STRIPS_BODY_MIN, ObjectFiles
from edgecache._io import IoEngine
from edgecache.files import names
from edgecache.files.publisher import Publisher
from edgecache.files.report import tier_counters
from edgecache.files.root_file import open_root
from edgecache.files.startup import NOT_AN_OBJECT, load_tree
from edgecache.files.state import (
    FLAG_COMPOSITE,
    FLAG_OBJECT,
    FLAG_PART,
    FLAG_TAGGED,
    FULL,
    TierState,
)
from edgecache.files.upkeep import scrub_objects, walk_keys
from edgecache.files.writer import ObjectWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgecache.files.startup import Progress

# Lookups without a lock before one with it.
READ_TRIES = 3
# A shorter body is put again rather than linked: it may be in RAM, where its meta is, too.
RELABEL_BYTES_MIN = 262144
# Evicted ahead of need, as a part of the budget: removing takes a round of the publisher.
AHEAD_DIVISOR = 64
# The same where the device is full before the budget is used up, as a part of what there is.
FULL_DIVISOR = 16
# Source: docs/objects.md, "Head".
OBJECT_HEAD_BYTES = 96
Found = tuple[bytes, bytes, int, int]
# (meta, expiry in us) of a version -> (meta, expiry, whether it has tags) of the next; None: none.
Relabelling = Callable[[bytes, int], tuple[bytes, int, bool] | None]


class Ticket:
    """A version that is written and not entered yet."""

    __slots__ = (
        "body_len", "expected", "expiry_us", "flags", "hash16", "is_entered", "leaves", "linked",
        "place", "reserved", "sequence", "shed", "space",
    )  # fmt: skip

    def __init__(self, hash16: bytes, body_len: int, expiry_us: int, flags: int) -> None:
        self.hash16 = hash16
        self.body_len = body_len
        self.expiry_us = expiry_us
        self.flags = flags
        self.place = self.sequence = self.space = self.reserved = 0
        # Of a version with the body of another one: which it must replace, and what both have.
        self.expected = self.linked = 0
        self.leaves: tuple[bytes, ...] = ()
        self.shed = ""
        self.is_entered = False


class FileTier:
    """The objects of one root.

    Args:
        engine: An I/O engine over the locked root; it is closed with the tier.
        budget_bytes: Of the device, directories and inodes included.
        namespace: Of the store; decides which keys are its own.
        flush_interval_s: How long a put may wait to be published.
        block_timeout_s: How long a put waits for room; 0: not at all.
        order_interval_s: Time between two writes of the order file.
        root: The directory, for `open_body`; None: the tree is in RAM.
        progress: Called with (done, total) while the tree is read.

    Raises:
        FormatVersionError: The root has the other layout, or another version.
        DiskIOError, NoSpaceError: A new root cannot be written.

    *Thread-safety*: every method, any thread. *Cost*: opening reads the head of every object.
    """

    def __init__(
        self,
        engine: IoEngine,
        *,
        budget_bytes: int,
        namespace: bytes = b"",
        flush_interval_s: float = 0.1,
        block_timeout_s: float = 1.0,
        order_interval_s: float = 60.0,
        root: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine
        self._root = root
        self._block_timeout_s = block_timeout_s
        found = open_root(engine)
        self.seed = found.seed
        self.is_reformatted = found.is_reformatted
        self._files = ObjectFiles(engine, found.seed)
        self.state = TierState(self._files, budget_bytes)
        self._space = len(namespace).to_bytes(4, "little") + namespace if namespace else b""
        load_tree(self.state, progress)
        self._is_closed = False
        self._publisher = Publisher(self.state, flush_interval_s, order_interval_s)
        self._evict(0)

    @property
    def value_bytes_max(self) -> int:
        """The largest value of one directory: one that a quarter of the budget holds."""
        return min(int(KEEP_BODY_FILE_BYTES), self.state.budget_bytes // 4)

    # Life

    def close(self) -> None:
        """Publish, sync and stop; idempotent. What cannot be written is lost and logged."""
        if not self._is_closed:
            self._is_closed = True
            is_clean = self._publisher.stop(flush=True)
            if self._publisher.save_order() == 0 and is_clean:
                self._files.unlink(names.OPEN_MARK)
            self._engine.close()

    def abandon(self) -> None:
        """Stop as a crash would: for tests."""
        if not self._is_closed:
            self._is_closed = True
            self._publisher.stop(flush=False)
            self._engine.close()

    def sync(self) -> None:
        """Return when everything put or deleted so far is durable. Raises: see `Publisher.sync`."""
        self._publisher.sync()

    def flush(self) -> None:
        """Have everything published soon."""
        self._publisher.kick(urgent=True)

    def checkpoint(self) -> None:
        """Write the order of eviction down."""
        self._publisher.save_order()

    # What Core asks

    def lock(self, hash16: bytes) -> threading.RLock:
        """Return the lock of a key: its versions here and in RAM change under it."""
        return self.state.key_lock(hash16)

    def lock_all(self) -> contextlib.AbstractContextManager[None]:
        """Hold the locks of all keys."""
        return self.state.all_key_locks()

    def contains(self, hash16: bytes) -> bool:
        """Say whether there is an object, perhaps an expired one. No I/O."""
        return hash16 in self.state.index

    def exists(self, hash16: bytes) -> bool:
        """Say whether there is a live object. No I/O."""
        entry = self.state.index.get(hash16)
        return entry is not None and not _is_past(entry[1])

    def sequence(self, hash16: bytes) -> int:
        """Return the number of the current version; 0: there is none."""
        return int(self.state.index.sequence_of(hash16))

    def object_head(self, hash16: bytes, key: bytes) -> bytes | None:
        """Return the fixed part of an object's head; None when the key has no head of one.

        *Cost*: none for other entries. The caller holds the key's lock.
        """
        entry = self.state.index.get(hash16)
        if entry is None or not entry[5] & FLAG_OBJECT:
            return None
        # Expired ones, too: their parts are to go as well.
        found = self._files.read_object(self.state.name_of(hash16, entry[4]))
        if isinstance(found, int) or found[1] != key:
            return None
        return found[7][:OBJECT_HEAD_BYTES]

    def get(self, hash16: bytes, key: bytes) -> Found | None:
        """Return (value, meta, expiry_us, sequence) of a live object, fresh or stale."""
        found = self._read(hash16, key, lambda name, _: self._files.read_object(name))
        return None if found is None else (found[7], found[8], found[3], found[2])

    def read_range(self, hash16: bytes, key: bytes, offset: int, length: int) -> bytes | None:
        """Return a part of a body, clipped at its end. *Cost*: see `ObjectFiles.read_range`."""
        found = self._read(hash16, key, functools.partial(self._range, hash16, offset, length))
        return None if found is None else found[3]

    def find_large(
        self, hash16: bytes, key: bytes, size: int
    ) -> tuple[int, int, bytes, int] | None:
        """Return (body's sequence, size, meta, expiry_us) of a live object above `size` bytes.

        *Cost*: none for shorter ones; else its head and meta are read, nothing of the body.
        """
        entry = self.state.index.get(hash16)
        if entry is None or entry[3] <= size or entry[5] & (FLAG_PART | FLAG_OBJECT):
            return None
        found = self._read(hash16, key, self._files.read_facts)
        if found is None or found[4] <= size:
            return None
        return found[6], found[4], found[3], found[5]

    def read_large(
        self, hash16: bytes, key: bytes, size: int, offset: int, length: int
    ) -> bytes | None:
        """As `read_range`, of what `find_large` finds only."""
        entry = self.state.index.get(hash16)
        if entry is None or entry[3] <= size or entry[5] & (FLAG_PART | FLAG_OBJECT):
            return None
        return self.read_range(hash16, key, offset, length)

    def read_part(
        self, hash16: bytes, key: bytes, body_sequence: int, offset: int, length: int
    ) -> bytes | None:
        """As `read_range`, of this very body; None when the key has another one, or none."""
        found = self._read(hash16, key, functools.partial(self._range, hash16, offset, length))
        return None if found is None or found[4] != body_sequence else found[3]

    def has_body(self, hash16: bytes, key: bytes, body_sequence: int) -> bool:
        """Whether the key still has that body, perhaps with another meta. *Cost*: as `read_range`
        of nothing."""
        return self.read_part(hash16, key, body_sequence, 0, 0) is not None

    def _range(self, hash16: bytes, offset: int, length: int, name: bytes, sequence: int) -> Any:
        found = self._files.read_range(name, offset, length, sequence)
        if isinstance(found, int):
            return found
        return (hash16, found[1], found[0], found[2], found[3])

    def _read(self, hash16: bytes, key: bytes, read: Any) -> Any:
        """Return what `read` of the object's directory gives, or None for a miss."""
        for _ in range(READ_TRIES):
            found = self._read_once(hash16, read)
            if not isinstance(found, int) or found == 0:
                break
        else:
            # Under the lock nothing moves: what fails now is the object's fault or the device's.
            with self.lock(hash16):
                found = self._read_once(hash16, read)
                if isinstance(found, int) and found != 0:
                    self._note_unreadable(hash16, found)
        if isinstance(found, int):
            return None
        if found[1] != key:
            return None  # another key of the same hash
        self.state.index.touch(hash16)
        return found

    def _read_once(self, hash16: bytes, read: Any) -> Any:
        """One try: what was read; 0: there is none; -errno: it failed, or moved meanwhile."""
        entry = self.state.index.get(hash16)
        if entry is None:
            return 0
        if _is_past(entry[1]):
            self._expire(hash16, entry[0])
            return 0
        found = read(self.state.name_of(hash16, entry[4]), entry[0])
        if not isinstance(found, int) and found[2] != entry[0]:
            return -errno.EAGAIN
        return found

    def _note_unreadable(self, hash16: bytes, code: int) -> None:
        """Count a failed read; what is damaged goes, so that it is not read again."""
        if code in NOT_AN_OBJECT:
            self.state.counters.corrupt += 1
            self.state.forget(hash16)
            self._publisher.kick()
        else:
            self.state.counters.read_errors += 1
            self.state.last_errno = -code

    def _expire(self, hash16: bytes, sequence: int) -> None:
        with self.lock(hash16):
            if self.state.index.sequence_of(hash16) == sequence:
                self.state.forget(hash16)
                self.state.counters.expired += 1
        self._publisher.kick()

    # Writing

    def write(
        self, hash16: bytes, key: bytes, value: Buffer, meta: bytes, expiry_us: int, flags: int,
        may_retry: bool = True,
    ) -> Ticket:  # fmt: skip
        """Write a version that nobody sees yet; it is to be given to `enter` or `drop`.

        On a device that has less space than the budget, older objects make room as they do for it.

        *Cost*: writes the object's files; may wait for room. Take no lock before.
        """
        size = memoryview(value).nbytes
        ticket = Ticket(hash16, size, expiry_us, flags)
        needed = (
            names.blocks(size)
            + names.blocks(len(key) + 256 + size // 250_000)
            + names.blocks(len(meta))
            + names.blocks(size // 2048)
            + names.overhead_bytes(bool(meta), True)
            + 2 * names.FAN_OUT_BYTES
        )
        ticket.shed = self.reserve(needed)
        if ticket.shed:
            return ticket
        ticket.reserved = needed
        with self.state.mutex:
            ticket.place = self.state.places.take()
        ticket.sequence = self.state.index.take_sequence()
        space = self._files.write_object(
            self.state.places.name(ticket.place), hash16, key, value, meta, ticket.sequence,
            expiry_us, time.time_ns() // 1000, flags,
        )  # fmt: skip
        if -space in FULL and may_retry and self.make_room(needed):
            self.release(needed)
            return self.write(hash16, key, value, meta, expiry_us, flags, may_retry=False)
        if space < 0:
            self.state.note_failure(-space, time.monotonic())
            ticket.shed = "no_space" if -space in FULL else "io_error"
            ticket.place = 0
        has_sums = size > STRIPS_BODY_MIN
        ticket.space = space + names.overhead_bytes(bool(meta), has_sums)
        ticket.leaves = (
            names.BODY, names.HEAD, *((names.SUMS,) if has_sums else ()),
            *((names.META,) if meta else ()),
        )  # fmt: skip
        return ticket

    def enter(self, ticket: Ticket) -> bool:
        """Make a written version the current one. False: it was shed, and the older one went too.

        The caller holds the key's lock.
        """
        state = self.state
        if ticket.expected and state.index.sequence_of(ticket.hash16) != ticket.expected:
            return False  # not shed: the body is not that of the key any more
        ticket.is_entered = True
        self.release(ticket.reserved)
        if ticket.shed:
            state.counters.count_shed(ticket.shed)
            state.forget(ticket.hash16)
            self._publisher.kick()
            return False
        old = state.index.put(
            ticket.hash16, ticket.sequence, ticket.expiry_us, ticket.space, ticket.body_len,
            ticket.place, ticket.flags,
        )  # fmt: skip
        old_space, old_place = (old[2], old[4]) if old is not None else (0, 0)
        state.change_to(
            ticket.hash16, ticket.place, ticket.sequence, ticket.space, ticket.leaves,
            old_space, old_place, ticket.linked,
        )  # fmt: skip
        state.counters.puts += 1
        state.counters.put_bytes += ticket.body_len
        self._publisher.kick()
        return True

    def drop(self, ticket: Ticket) -> None:
        """Give a written version up, unless it was entered."""
        if ticket.is_entered:
            return
        ticket.is_entered = True
        self.release(ticket.reserved)
        if ticket.place:
            with self.state.mutex:
                self.state.discards.append((ticket.place, ticket.space))
                self.state.trash_bytes += ticket.space
            self._publisher.kick()

    def put(
        self, key: bytes, value: Buffer, meta: bytes = b"", expiry_us: int = 0, flags: int = 0
    ) -> bool:
        """Write and enter a version of a stored key."""
        hash16 = self.hash_of(key, flags)
        ticket = self.write(hash16, key, value, meta, expiry_us, flags)
        with self.lock(hash16):
            return self.enter(ticket)

    def hash_of(self, key: bytes, flags: int = 0) -> bytes:
        """Return the 16 bytes that name a stored key."""
        found: bytes = self._files.hash_of(key, bool(flags & FLAG_COMPOSITE))
        return found

    def relabel(self, hash16: bytes, key: bytes, relabelling: Relabelling) -> Ticket | bool | None:
        """Write a version with the same body and another head and meta; nobody sees it yet.

        Returns:
            A ticket for `enter`, which takes it only while the key still has that body; False:
            `relabelling` wants nothing; None: there is no such object here, its body is short, or
            it cannot be linked (by the file system, or because it is of an older version): put it
            again, if there is any.

        *Cost*: two small files, whatever the size of the body, which gets a second name.
        """
        entry = self.state.index.get(hash16)
        if entry is None or entry[3] <= RELABEL_BYTES_MIN or entry[5] & (FLAG_PART | FLAG_OBJECT):
            return None
        found = self._read(hash16, key, self._files.read_facts)
        if found is None:
            return None
        change = relabelling(found[3], found[5])
        if change is None:
            return False
        meta, expiry_us, is_tagged = change
        flags = (entry[5] & ~FLAG_TAGGED) | (FLAG_TAGGED if is_tagged else 0)
        ticket = Ticket(hash16, found[4], expiry_us, flags)
        ticket.expected = found[2]
        needed = (
            names.blocks(len(key) + 256 + found[4] // 250_000)
            + names.blocks(len(meta))
            + names.overhead_bytes(True, True)
        )
        ticket.shed = self.reserve(needed)
        if ticket.shed:
            return ticket
        ticket.reserved = needed
        with self.state.mutex:
            ticket.place = self.state.places.take()
        ticket.sequence = self.state.index.take_sequence()
        if not self._link(ticket, meta):
            self.release(needed)
            return None
        return ticket

    def _link(self, ticket: Ticket, meta: bytes) -> bool:
        """Make the directory of a relabelled version; False: there are no links."""
        state = self.state
        # Under the lock nothing moves the directory whose files are linked.
        with self.lock(ticket.hash16):
            entry = state.index.get(ticket.hash16)
            if entry is None or entry[0] != ticket.expected:
                ticket.place, ticket.expected = 0, -1  # replaced meanwhile: `enter` refuses it
                return True
            linked = self._files.link_object(
                state.name_of(ticket.hash16, entry[4]), state.places.name(ticket.place),
                ticket.expected, meta, ticket.sequence, ticket.expiry_us, ticket.flags,
            )  # fmt: skip
        if linked == -errno.EOPNOTSUPP:
            return False
        if isinstance(linked, int):
            ticket.place = 0
            state.note_failure(-linked, time.monotonic())
            ticket.shed = "no_space" if -linked in FULL else "io_error"
            return True
        space, ticket.linked, leaves = linked
        ticket.space = space + ticket.linked + names.overhead_bytes(bool(meta), True)
        ticket.leaves = (*leaves, names.HEAD, *((names.META,) if meta else ()))
        return True

    def delete(self, hash16: bytes, was_in_ram: bool = False) -> bool:
        """Remove an object; whether there was a live one. The caller holds the key's lock."""
        old = self.state.forget(hash16)
        is_live = old is not None and not _is_past(old[1])
        self.state.counters.deletes += is_live or was_in_ram
        if old is not None:
            self._publisher.kick()
        return is_live

    def clear(self) -> None:
        """Remove every object. The caller holds all locks."""
        for hash16 in self.state.index.hashes():
            self.state.forget(hash16)
        self._publisher.kick(urgent=True)

    def begin(self, key: bytes, flags: int = 0) -> ObjectWriter:
        """Start an object that is written in pieces, in any order."""
        return ObjectWriter(self, key, self.hash_of(key, flags), flags)

    # Room

    def reserve(self, size_bytes: int) -> str:
        """Set room aside, evicting for it; the reason why there is none, or "".

        *Cost*: waits until the publisher has removed enough, at most `block_timeout_s`.
        """
        state = self.state
        if size_bytes > state.budget_bytes:
            return "too_large"
        if state.is_read_only:
            now_s = time.monotonic()
            with state.mutex:
                if now_s < state.next_probe_s:
                    return "read_only"
                state.next_probe_s = now_s + 1.0
        deadline_s = 0.0
        while True:
            self._evict(size_bytes)
            with state.room:
                if state.used_bytes + size_bytes <= state.budget_bytes:
                    state.reserved_bytes += size_bytes
                    return ""
                now_s = time.monotonic()
                deadline_s = deadline_s or now_s + self._block_timeout_s
                if state.is_stuck:
                    self._publisher.kick(urgent=True)
                    return "io_error"
                if now_s >= deadline_s:
                    return "backpressure"
                self._publisher.kick(urgent=True)
                state.room.wait(deadline_s - now_s)
                state.counters.waits += 1
                state.counters.wait_us += int((time.monotonic() - now_s) * 1e6)

    def release(self, size_bytes: int) -> None:
        """Give room back that was set aside."""
        if size_bytes:
            with self.state.room:
                self.state.reserved_bytes -= size_bytes
                self.state.room.notify_all()

    def _evict(self, size_bytes: int) -> None:
        """Have objects removed until what stays leaves room, and some more."""
        state = self.state
        excess = state.kept_bytes + size_bytes - state.budget_bytes
        if excess > 0:
            self._evict_bytes(excess + state.budget_bytes // AHEAD_DIVISOR)

    def make_room(self, size_bytes: int) -> bool:
        """Evict on a device that has less space than the budget, for so many bytes and some more.

        Returns:
            Whether there was something to evict.

        *Cost*: waits until the publisher has removed it, at most `block_timeout_s`.
        """
        state = self.state
        if not self._evict_bytes(size_bytes + state.kept_bytes // FULL_DIVISOR):
            return False
        deadline_s = time.monotonic() + self._block_timeout_s
        with state.room:
            while state.trash_bytes and not state.is_stuck:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                self._publisher.kick(urgent=True)
                state.room.wait(left_s)
        return True

    def _evict_bytes(self, excess: int) -> int:
        """Have the next victims removed until they take so many bytes; how many there were."""
        state = self.state
        count = 0
        while excess > 0:
            victim = state.index.victim()
            if victim is None:
                break
            with self.lock(victim):
                old = state.forget(victim)
            if old is not None:
                count += 1
                state.counters.evictions += 1
                state.counters.evicted_bytes += old[2]
                excess -= old[2]
                # Mostly its parent goes with it, unless there are more objects than parents.
                excess -= names.FAN_OUT_BYTES if len(state.index) < names.FAN_OUT_COUNT else 0
        self._publisher.kick(urgent=True)
        return count

    # Everything

    def walk(
        self, prefix: bytes | None, tag: bytes | None, progress: Progress | None = None
    ) -> list[bytes]:
        """Return the keys of live objects that have the prefix and the tag.

        *Cost*: reads the head of every object; for a tag only of those with one.
        """
        return walk_keys(self, prefix, tag, progress)

    def keys(self) -> Iterable[bytes]:
        """Return the keys of all live objects."""
        return self.walk(None, None)

    def plain_key(self, stored: bytes, flags: int) -> bytes | None:
        """Return the caller's part of a stored key; None: it belongs to another namespace."""
        if bool(flags & FLAG_COMPOSITE) != bool(self._space):
            return None
        if not self._space:
            return stored
        start = len(self._space) + 4
        return stored[start:-4] if stored.startswith(self._space) else None

    def heal(self, hash16: bytes, sequence: int) -> None:
        """Remove an object that does not verify."""
        with self.lock(hash16):
            if self.state.index.sequence_of(hash16) == sequence:
                self._note_unreadable(hash16, CORRUPT)

    def scrub(self, progress: Progress | None = None) -> tuple[int, int, int]:
        """Verify every object; (objects, bytes on the device, damaged and removed)."""
        return scrub_objects(self, progress)

    def open_body(self, hash16: bytes, key: bytes, body_sequence: int) -> int | None:
        """Return a descriptor of a body, ready for sendfile(2); the caller closes it.

        It stays with that body, whatever becomes of the object. Nothing is verified here. None: the
        key has another body or none, it lies in several files, or the tree is in RAM.
        """
        if self._root is None:
            return None
        with self.lock(hash16):
            entry = self.state.index.get(hash16)
            if entry is None or not self.has_body(hash16, key, body_sequence):
                return None
            name = os.fsdecode(self.state.name_of(hash16, entry[4]) + b"/" + names.BODY)
            path = os.path.join(self._root, name)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return None
        if os.fstat(descriptor).st_size == entry[3]:
            return descriptor
        os.close(descriptor)
        return None

    def counters(self) -> dict[str, Any]:
        """Return counters and gauges by the names that `Core.counters` uses."""
        return tier_counters(self.state, self.is_reformatted)

    def check(self) -> list[str]:
        """Verify the invariants of the index; for tests."""
        broken = self.state.index.check()
        return [f"file index: invariant {broken}"] if broken else []


def _is_past(expiry_us: int) -> bool:
    return expiry_us != 0 and expiry_us <= time.time_ns() // 1000
