"""What a file tier knows in memory, shared by its parts.

Invariants (`mutex` guards the plain fields, the key locks guard what concerns one key):

1. `changes` has, for each key whose object on disk is not what the index says, what is to be done:
   publish a directory of `tmp`, or remove what is published. The publisher alone does it, under the
   key's lock, and takes the change out when it is done.
2. `used_bytes` is what this tier takes on the device, or will take at once: current versions,
   writes on their way, what waits to be removed, and the directories above the objects.
3. Lock order: key lock, mutex. The mutex is never held across I/O.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgecache._files import ObjectFiles
from edgecache._files_index import FileIndex
from edgecache.files import names
from edgecache.files.names import Places, object_name

# Source: FileFlags in `_files_format.pxd`.
FLAG_TAGGED = 1
FLAG_COMPOSITE = 2
FLAG_PART = 4
FLAG_OBJECT = 8
LOCK_COUNT = 256
# Failed writes or syncs in a row after which writing is only tried now and then.
FAILURE_LIMIT = 3
PROBE_INTERVAL_S = 1.0
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class Counters:
    """Events since the store was opened; under the mutex or the GIL."""

    puts: int = 0
    put_bytes: int = 0
    deletes: int = 0
    expired: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    corrupt: int = 0
    read_errors: int = 0
    publishes: int = 0
    published_bytes: int = 0
    publish_errors: int = 0
    cycles: int = 0
    waits: int = 0
    wait_us: int = 0
    orders: int = 0
    order_errors: int = 0
    exchange_fallbacks: int = 0
    shed: dict[str, int] = field(default_factory=dict)

    def count_shed(self, reason: str) -> None:
        """Count one put that was not stored."""
        self.shed[reason] = self.shed.get(reason, 0) + 1


@dataclass(slots=True)
class StartupReport:
    """What opening found.

    Args:
        objects: Entered into the index.
        directories: Directories of the tree that were read.
        orphans: Unfinished writes in `tmp`, removed.
        garbage: What is no whole object, removed.
        foreign: Names that no store makes, left alone.
        unreadable: Objects that the device would not read, left alone.
        expired: Objects past their time, removed.
    """

    objects: int = 0
    directories: int = 0
    orphans: int = 0
    garbage: int = 0
    foreign: int = 0
    unreadable: int = 0
    expired: int = 0
    duration_us: int = 0


class Change:
    """What the publisher is to do for one key.

    Args:
        place: Number of the directory to publish; 0: remove what is published.
        sequence: Of the version to publish.
        space: What the directory takes on the device.
        published: What the published version takes that goes with this; 0: there is none.
        leaves: The files to make durable.
    """

    __slots__ = ("leaves", "place", "published", "sequence", "space")

    def __init__(
        self, place: int, sequence: int, space: int, published: int, leaves: tuple[bytes, ...]
    ) -> None:
        self.place = place
        self.sequence = sequence
        self.space = space
        self.published = published
        self.leaves = leaves


class TierState:
    """The memory of one tier. *Thread-safety*: see the invariants."""

    __slots__ = (
        "budget_bytes", "changes", "counters", "discards", "failures", "fan_out", "files", "index",
        "is_stuck", "key_locks", "last_errno", "mutex", "next_probe_s", "places", "publishing",
        "report", "reserved_bytes", "room", "trash_bytes",
    )  # fmt: skip

    def __init__(self, files: ObjectFiles, budget_bytes: int) -> None:
        self.files = files
        self.index = FileIndex()
        self.budget_bytes = budget_bytes
        self.places = Places()
        self.changes: dict[bytes, Change] = {}
        self.publishing = 0  # changes that publish something
        self.discards: list[tuple[int, int]] = []  # (place, bytes) that nobody wants any more
        self.reserved_bytes = 0
        self.trash_bytes = 0
        self.fan_out = 0  # directories above objects; the publisher alone changes it
        self.counters = Counters()
        self.report = StartupReport()
        self.key_locks = [threading.RLock() for _ in range(LOCK_COUNT)]
        self.mutex = threading.Lock()
        self.room = threading.Condition(self.mutex)  # something was removed
        self.is_stuck = False  # the last removal failed: room will not come by waiting
        self.failures = 0
        self.last_errno = 0
        self.next_probe_s = 0.0

    @property
    def used_bytes(self) -> int:
        """What the tier takes on the device."""
        return self.kept_bytes + self.trash_bytes

    @property
    def kept_bytes(self) -> int:
        """What it takes when everything that is to be removed is."""
        # What is to be published may need two directories above it.
        directories = self.fan_out + 2 * self.publishing
        return int(self.index.used_bytes) + self.reserved_bytes + directories * names.FAN_OUT_BYTES

    @property
    def is_read_only(self) -> bool:
        """Whether writing failed so often that it is only tried now and then."""
        return self.failures >= FAILURE_LIMIT

    def key_lock(self, hash16: bytes) -> threading.RLock:
        """Return the lock of a key; others share it."""
        return self.key_locks[hash16[15]]

    @contextlib.contextmanager
    def all_key_locks(self) -> Iterator[None]:
        """Hold the locks of all keys."""
        with contextlib.ExitStack() as held:
            for lock in self.key_locks:
                held.enter_context(lock)
            yield

    def name_of(self, hash16: bytes, place: int) -> bytes:
        """Return the directory of an object's version."""
        return self.places.name(place) if place else object_name(hash16)

    def note_failure(self, code: int, now_s: float) -> None:
        """Note that writing failed with this errno."""
        with self.mutex:
            self.failures += 1
            self.last_errno = code
            self.next_probe_s = now_s + PROBE_INTERVAL_S

    # Changes; the caller holds the key's lock

    def change_to(
        self, hash16: bytes, place: int, sequence: int, space: int, leaves: tuple[bytes, ...],
        old_space: int, old_place: int, linked: int = 0,
    ) -> None:  # fmt: skip
        """Have a version published (place 0: removed) instead of the one that the index had.

        Args:
            old_space, old_place: Of that one; (0, 0): there was none.
            linked: Of its space, what the new version has as well.
        """
        with self.mutex:
            before = self.changes.get(hash16)
            if before is None:
                published = old_space - linked if old_place == 0 else 0
                self.trash_bytes += published
            else:
                published = before.published
                if before.place:
                    self.discards.append((before.place, before.space - linked))
                    self.trash_bytes += before.space - linked
                self.publishing -= bool(before.place)
            self.publishing += bool(place)
            if place or published or before is not None:
                self.changes[hash16] = Change(place, sequence, space, published, leaves)

    def forget(self, hash16: bytes) -> tuple[int, int, int, int, int, int] | None:
        """Take an object out of the index and have its files removed; what the index had."""
        old: tuple[int, int, int, int, int, int] | None = self.index.remove(hash16)
        if old is not None:
            self.change_to(hash16, 0, 0, 0, (), old[2], old[4])
        return old
