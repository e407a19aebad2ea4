"""The content hashes of an object's chunks: in the head while they fit a page, else in pages.

A page holds the hashes of PAGE_CHUNKS chunks and is a part of its own; the head then holds the
hashes of the pages. In memory there are at most PAGES_HELD pages per object, however large that is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from edgecache.objects.backend import Backend
from edgecache.objects.head import HASH_BYTES, NO_HASH, Head, content_hash
from edgecache.objects.keys import TABLE_BASE, shared_name
from edgecache.objects.parts import Name

PAGE_CHUNKS = 4096
PAGES_HELD = 4


class HashTable:
    """Hashes by chunk number. *Thread-safety*: every method: readers share that of a writer.

    Args:
        head: Of a stored object, or None for a new one.
    """

    __slots__ = (
        "_backend", "_dirty", "_lock", "_object_id", "_page_hashes", "_pages", "shared_count",
    )  # fmt: skip

    def __init__(self, backend: Backend, object_id: bytes, head: Head | None = None) -> None:
        self._backend = backend
        self._object_id = object_id
        self._lock = threading.RLock()
        self._pages: OrderedDict[int, bytearray] = OrderedDict()
        self._dirty: set[int] = set()
        self._page_hashes: dict[int, bytes] = {}
        # So many chunks, from the first on, are shared with other objects.
        self.shared_count = 0 if head is None else head.shared_count
        if head is None or not head.table:
            return
        if not head.is_paged:
            self._pages[0] = bytearray(head.table)
            return
        for place in range(0, len(head.table), HASH_BYTES):
            page_hash = head.table[place : place + HASH_BYTES]
            if page_hash != NO_HASH:
                self._page_hashes[place // HASH_BYTES] = page_hash

    def get(self, chunk: int) -> bytes:
        """Return the hash of a chunk; NO_HASH when it is not known."""
        place = chunk % PAGE_CHUNKS * HASH_BYTES
        with self._lock:
            page = self._page(chunk // PAGE_CHUNKS)
            return bytes(page[place : place + HASH_BYTES]) or NO_HASH

    def name(self, chunk: int) -> Name:
        """Return what the store knows the part by that holds a chunk."""
        if chunk < self.shared_count:
            found = self.get(chunk)
            if found != NO_HASH:
                return shared_name(found), 0
        # Of a shared one whose page is lost there is no part of this name: it is a hole.
        return self._object_id, chunk

    def shared_hashes(self) -> set[bytes]:
        """Return the hashes of all shared chunks, as far as they are known."""
        found = {self.get(chunk) for chunk in range(self.shared_count)}
        return found - {NO_HASH}

    def set(self, chunk: int, value: bytes) -> bool:
        """Remember a hash; False when a page had to be stored and was shed."""
        number = chunk // PAGE_CHUNKS
        place = chunk % PAGE_CHUNKS * HASH_BYTES
        with self._lock:
            page = self._page(number)
            if len(page) < place:
                page.extend(bytes(place - len(page)))
            page[place : place + HASH_BYTES] = value
            self._dirty.add(number)
            return self._hold_few()

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            page = bytearray()
            expected = self._page_hashes.get(number)
            if expected is not None:
                stored = self._backend.get_parts(self._object_id, [TABLE_BASE + number])[0]
                if stored is not None and content_hash(stored) == expected:
                    page += stored
            self._pages[number] = page
        self._pages.move_to_end(number)
        while len(self._pages) > PAGES_HELD and self._drop_clean():
            pass
        return page

    def _drop_clean(self) -> bool:
        newest = next(reversed(self._pages))
        for number in self._pages:
            if number not in self._dirty and number != newest:
                del self._pages[number]
                return True
        return False

    def _hold_few(self) -> bool:
        if len(self._pages) <= PAGES_HELD:
            return True
        return self._store_pages() and (self._drop_clean() or True)

    def _store_pages(self) -> bool:
        for number in sorted(self._dirty):
            page = self._pages[number]
            if not self._backend.put_part(self._object_id, TABLE_BASE + number, bytes(page)):
                return False
            self._page_hashes[number] = content_hash(page)
            self._dirty.discard(number)
        return True

    def save(self, chunk_count: int) -> tuple[bytes, bool] | None:
        """Return the table for a head and whether it is paged; None when a page was shed.

        That of an object with shared chunks is always paged: who deletes it has no more than the
        fixed part of its head, and needs the names of those chunks.
        """
        with self._lock:
            if chunk_count <= PAGE_CHUNKS and not self.shared_count:
                return bytes(self._page(0)), False
            if not self._store_pages():
                return None
            count = max(self._page_hashes, default=-1) + 1
            hashes = [self._page_hashes.get(number, NO_HASH) for number in range(count)]
            return b"".join(hashes), True

    def page_numbers(self) -> list[int]:
        """Return the part numbers of the pages that may be stored."""
        with self._lock:
            return [TABLE_BASE + number for number in self._page_hashes]
