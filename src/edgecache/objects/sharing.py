"""Equal chunks of several objects, kept once (`share_chunks`).

A shared chunk is a part whose name is its content hash; an object refers to it by its table of
hashes. Equal hashes are not trusted: bytes are compared before a chunk is taken instead of a new
one, and one that differs is stored as the object's own, like all that follow it.

Nothing on disk counts references: heads are what refers. Who refers to what is known here, for
each chunk by the ids of its objects, so that giving up twice, or for an object that never counted,
does no harm. After a clean close all of it is found again (`save`), after a crash not: then chunks
of earlier lives stay, whoever is deleted, until a `sweep` has looked at all heads. So what is lost
may keep a chunk too long, and never takes one that is needed.

Invariants (under `_mutex`):

1. A chunk is deleted only when nobody in `_refs` refers to it, and it is known that nobody else
   does: `_is_complete`, or it was stored by this life of the store.
2. UNKNOWN among its referrers says that heads that were not looked at may refer to it.
3. Who refers is entered before the chunk is looked for, so it cannot go in between.
4. The mutex is never waited for by who gives up: that may be the collector, in a thread that holds
   it. What is given up is queued, and whoever has the mutex carries it out before going on.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import xxhash

from edgecache.errors import EdgeCacheError
from edgecache.objects.backend import PART_META, Backend
from edgecache.objects.counters import Counters
from edgecache.objects.head import HASH_BYTES, NO_HASH, Head, content_hash
from edgecache.objects.keys import OBJECT_ID_BYTES, part_key, shared_name
from edgecache.objects.parts import Settled, Writing

UNKNOWN = b""
# The table is cleaned of chunks that were evicted whenever it has doubled.
PRUNE_MIN = 4096
# Saved at a clean close, in pages: parts of a name that no content has, numbered from 1.
SAVED_NAME = shared_name(NO_HASH)
SAVED_MAGIC = 0x53434345  # "ECCS"
SAVED_FIXED = struct.Struct("<IIII16s")
COUNT = struct.Struct("<I")
PAGE_BYTES = 65536
PAGES_MAX = 1 << 20


class Sharing:
    """See the module. *Thread-safety*: every method, any thread.

    Args:
        is_enabled: Whether new objects share chunks; what older ones share is kept track of anyhow.
        is_complete: Whether there are no chunks of earlier lives: the store is empty.
        sync: Makes what was deleted durable; raises where it cannot.

    *Cost*: about 200 bytes of memory for each shared chunk, and one comparison of its bytes
    whenever an equal one is written; writers of shared chunks take turns.
    """

    def __init__(
        self,
        backend: Backend,
        counters: Counters,
        sync: Callable[[], None],
        *,
        is_enabled: bool,
        is_complete: bool,
    ) -> None:
        self.is_enabled = is_enabled
        self._backend = backend
        self._counters = counters
        self._sync = sync
        self._mutex = threading.Lock()
        self._refs: dict[bytes, set[bytes]] = {}
        self._given_up: deque[tuple[bytes, Iterable[bytes]]] = deque()
        self._arriving: dict[bytes, Writing] = {}
        self._is_complete = is_complete
        self._is_loaded = is_complete
        self._prune_at = PRUNE_MIN
        # While a sweep looks at heads: objects that were given up, and heads that were moved.
        self._gone: set[bytes] | None = None
        self._moving_lock = threading.Lock()
        self._moving: dict[object, Head] = {}
        self._moved: list[Head] = []

    def _leave(self) -> None:
        """Give the mutex back, and carry out what was given up meanwhile."""
        try:
            self._carry_out()
        finally:
            self._mutex.release()
        while self._given_up and self._mutex.acquire(blocking=False):
            try:
                self._carry_out()
            finally:
                self._mutex.release()

    # Writing

    def begin(self, object_id: bytes, data: memoryview) -> Writing | None:
        """Store a chunk for an object, or find it stored; None: another one has its hash.

        *Cost*: a chunk that is there is read, to compare it.
        """
        digest = content_hash(data)
        self._mutex.acquire()
        try:
            self._load()
            self._drop_arrived()
            was_known = bool(self._refs.get(digest))
            known = self._refs.setdefault(digest, set())
            known.add(object_id)
            found = self._find(digest, data)
            if found is None:
                return self._store(digest, object_id, data)
            if found is False:
                known.discard(object_id)
                if not was_known:
                    known.add(UNKNOWN)  # it is not ours: leave it to the next sweep
                self._counters.add("share_collisions")
                return None
            if not was_known and not self._is_complete:
                known.add(UNKNOWN)
            self._counters.add("shared_chunks")
            self._counters.add("shared_bytes", len(data))
            return found
        finally:
            self._leave()

    def _store(self, digest: bytes, object_id: bytes, data: memoryview) -> Writing:
        writing = self._backend.begin_part(shared_name(digest), 0, data)
        if not writing.is_done:
            self._arriving[digest] = writing
        if writing.has_failed:
            self._refs[digest].discard(object_id)
        if len(self._refs) > self._prune_at:
            self._prune()
        return writing

    def _find(self, digest: bytes, data: memoryview) -> Writing | Literal[False] | None:
        """The chunk of a hash that is stored, or on its way; False: it is not these bytes."""
        name = shared_name(digest)
        arriving = self._arriving.get(digest)
        if arriving is not None and not arriving.has_failed:
            part = arriving.peek(0, len(data) + 1)
            if part is not None:
                return arriving if part == data else False
        if not self._backend.has_part(name, 0):
            return None
        # All of it, however long: of two that differ in length only one could be read.
        part = self._backend.get_parts(name, [0])[0]
        if part is None:
            return None
        if part == data:
            return Settled(True, digest)
        if content_hash(part) != digest:
            # Damaged, or not what it is called: nobody can use it, so these bytes replace it.
            self._counters.add("hash_mismatches")
            return None
        return False

    def _drop_arrived(self) -> None:
        for digest, writing in self._arriving.copy().items():
            if writing.is_done:
                self._arriving.pop(digest, None)
                self._delete_if_unused(digest)

    def _prune(self) -> None:
        """Forget chunks that were evicted. Who refers to one of them may go without a word."""
        for digest in list(self._refs):
            if digest not in self._arriving and not self._backend.has_part(shared_name(digest), 0):
                del self._refs[digest]
        self._prune_at = max(PRUNE_MIN, 2 * len(self._refs))

    # Giving up

    def release(self, object_id: bytes, hashes: Iterable[bytes]) -> None:
        """An object is gone, or its write is: chunks that nobody else needs go. Never blocks for
        others: who is at it meanwhile carries it out."""
        self._given_up.append((object_id, hashes))
        if self._mutex.acquire(blocking=False):
            self._leave()

    def _carry_out(self) -> None:
        while self._given_up:
            object_id, hashes = self._given_up.popleft()
            self._load()
            if self._gone is not None:
                self._gone.add(object_id)
            for digest in hashes:
                known = self._refs.get(digest)
                if known is None and self._is_complete:
                    known = self._refs[digest] = set()
                if known is not None:
                    known.discard(object_id)
                    self._delete_if_unused(digest)

    def _delete_if_unused(self, digest: bytes) -> bool:
        known = self._refs.get(digest)
        if known is None or known:
            return False
        arriving = self._arriving.get(digest)
        if arriving is not None and not arriving.is_done:
            return False  # a delete would overtake it; it is looked at again when it is there
        self._arriving.pop(digest, None)
        del self._refs[digest]
        self._backend.delete_parts(shared_name(digest), [0])
        return True

    def hold(self, object_id: bytes, hashes: Iterable[bytes]) -> None:
        """An object refers to these, with a head or without one that is still read."""
        self._mutex.acquire()
        try:
            self._load()
            self._hold(object_id, hashes)
        finally:
            self._leave()

    def _hold(self, object_id: bytes, hashes: Iterable[bytes]) -> None:
        for digest in hashes:
            known = self._refs.get(digest)
            if known is None:
                known = self._refs[digest] = set() if self._is_complete else {UNKNOWN}
            known.add(object_id)

    def cleared(self) -> None:
        """The store was cleared, of all but what was stored meanwhile."""
        self._mutex.acquire()
        try:
            self._load()
            self._prune()
        finally:
            self._leave()

    # The sweep

    @property
    def needs_sweep(self) -> bool:
        """Whether there may be chunks here that nobody refers to."""
        return self.is_enabled or bool(self._refs)

    def begin_move(self, head: Head) -> object:
        """The head of an object is about to be stored again, elsewhere; give `end_move` this."""
        token = object()
        with self._moving_lock:
            self._moving[token] = head
            if self._gone is not None:
                self._moved.append(head)
        return token

    def end_move(self, token: object) -> None:
        """It was."""
        with self._moving_lock:
            del self._moving[token]

    def sweep(
        self,
        find_chunks: Callable[[], Iterable[bytes]],
        find_heads: Callable[[], Iterator[Head]],
        hashes_of: Callable[[Head], Iterable[bytes]],
    ) -> int:
        """Look at every head, then delete chunks that none refers to; how many.

        Args:
            find_chunks: The hashes of all shared chunks that are stored. It is called first.
            find_heads: The heads of all published objects that share chunks. One that is moved
                meanwhile may be left out.
            hashes_of: The hashes of the shared chunks of an object.
        """
        self._mutex.acquire()
        try:
            self._load()
            with self._moving_lock:
                if self._gone is not None:
                    return 0  # another one is at it
                self._gone = set()
                self._moved = list(self._moving.values())
        finally:
            self._leave()
        try:
            stored = [digest for digest in find_chunks() if digest != NO_HASH]
            for head in find_heads():
                self.hold(head.object_id, hashes_of(head))
        except BaseException:
            self._gone = None
            raise
        self._mutex.acquire()
        try:
            with self._moving_lock:
                moved, self._moved = self._moved, []
                gone, self._gone = self._gone, None
            for head in moved:
                self._hold(head.object_id, hashes_of(head))
            self._carry_out()
            for known in self._refs.values():
                known -= gone
                known.discard(UNKNOWN)
            self._is_complete = True
            self._drop_arrived()
            for digest in stored:
                self._refs.setdefault(digest, set())
            return sum([self._delete_if_unused(digest) for digest in list(self._refs)])
        finally:
            self._leave()

    # From life to life

    def save(self) -> None:
        """Keep what is known, at the end of the store: nothing changes any more."""
        self._mutex.acquire()
        try:
            for writing in self._arriving.values():
                writing.wait()
            self._drop_arrived()
            self._carry_out()
            if not self._is_complete or not self._refs:
                return
            for number, page in enumerate(encode_pages(self._refs), 1):
                key = part_key(SAVED_NAME, number)
                if not self._backend.put_entry(key, page, PART_META, None):
                    return  # not all of them: then there are none
        finally:
            self._mutex.release()

    def _load(self) -> None:
        """Take up what the last life knew, once, before anything changes."""
        if self._is_loaded:
            return
        self._is_loaded = True
        pages: list[bytes] = []
        count = 1
        while len(pages) < count <= PAGES_MAX:
            key = part_key(SAVED_NAME, len(pages) + 1)
            stored = self._backend.get_head(key) if self._backend.has_head(key) else None
            if stored is None:
                break
            if not pages:
                count = page_count(stored.value)
            pages.append(stored.value)
        if not pages:
            return
        found = decode_pages(pages)
        for number in range(1, min(count, PAGES_MAX) + 1):
            self._backend.delete_entry(part_key(SAVED_NAME, number))
        if found is None:
            return
        try:
            # Or else a crash would bring it back, without what is going to change now.
            self._sync()
        except EdgeCacheError:
            return
        self._refs = found
        self._is_complete = True
        self._prune_at = max(PRUNE_MIN, 2 * len(found))

    def stats(self) -> dict[str, int]:
        """Return gauges by name."""
        return {"share_table": len(self._refs)}


def encode_pages(refs: dict[bytes, set[bytes]]) -> list[bytes]:
    """Return the pages of a table: a header each, then of each chunk its hash and its referrers."""
    bodies: list[bytearray] = [bytearray()]
    for digest, known in refs.items():
        if len(bodies[-1]) >= PAGE_BYTES:
            bodies.append(bytearray())
        bodies[-1] += digest + COUNT.pack(len(known)) + b"".join(known)
    pages = []
    for number, body in enumerate(bodies):
        fixed = SAVED_FIXED.pack(SAVED_MAGIC, len(bodies), number, 0, NO_HASH)
        check = xxhash.xxh3_128(fixed)
        check.update(body)
        pages.append(fixed[: SAVED_FIXED.size - HASH_BYTES] + check.digest() + body)
    return pages


def page_count(page: bytes) -> int:
    """Return how many pages there are, as the first one says; 0 where it is none."""
    if len(page) < SAVED_FIXED.size or not page.startswith(SAVED_MAGIC.to_bytes(4, "little")):
        return 0
    return int(SAVED_FIXED.unpack_from(page)[1])


def decode_pages(pages: list[bytes]) -> dict[bytes, set[bytes]] | None:
    """Read a table; None unless every page of it is there and whole."""
    refs: dict[bytes, set[bytes]] = {}
    ids: dict[bytes, bytes] = {}
    if not pages or page_count(pages[0]) != len(pages):
        return None
    for number, page in enumerate(pages):
        if page_count(page) != len(pages):
            return None
        check = SAVED_FIXED.unpack_from(page)
        found = xxhash.xxh3_128(SAVED_FIXED.pack(*check[:4], NO_HASH))
        found.update(memoryview(page)[SAVED_FIXED.size :])
        if found.digest() != check[4] or check[2:4] != (number, 0):
            return None
        place = SAVED_FIXED.size
        while place < len(page):
            digest = page[place : place + HASH_BYTES]
            place += HASH_BYTES
            if place + COUNT.size > len(page):
                return None
            (count,) = COUNT.unpack_from(page, place)
            place += COUNT.size
            end = place + count * OBJECT_ID_BYTES
            if end > len(page):
                return None
            # One object in memory of each id.
            known = [page[at : at + OBJECT_ID_BYTES] for at in range(place, end, OBJECT_ID_BYTES)]
            refs[digest] = {ids.setdefault(one, one) for one in known}
            place = end
    return refs
