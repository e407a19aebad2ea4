"""Large values of one key that are on their way to the disk at the same time."""

from __future__ import annotations

import threading

from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk

# With a timeout the writes of puts are requests, which can be held and counted.
STORE = options(region_bytes=MIB, disk_bytes=16 * MIB, write_timeout_s=60.0)
KEY = b"key"


class Held:
    """A store whose writes wait to be let go, the oldest first."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.engine = open_engine("memory", disk=self.disk)
        self.core = Core(STORE, self.engine)
        assert self.core.put(KEY, b"old")
        self.core.sync()
        self.stored: list[bool] = []
        io.hold(self.disk, "write")
        self.submitted = self.engine.stats()["submitted"]

    def put(self, value: bytes) -> threading.Thread:
        """Begin to put in a thread, which is held at its write."""
        thread = threading.Thread(target=lambda: self.stored.append(self.core.put(KEY, value)))
        thread.start()
        self.submitted += 1
        until(lambda: self.engine.stats()["submitted"] == self.submitted)
        return thread

    def let_go(self, thread: threading.Thread) -> None:
        """Only the oldest."""
        io.release(self.disk, 1)
        thread.join(60)
        assert not thread.is_alive()

    def crash(self) -> None:
        io.hold(self.disk)
        io.release(self.disk)
        self.core.sync()
        self.core.abandon()
        self.core = Core(STORE, open_engine("memory", disk=self.disk))


def large(number: int) -> bytes:
    return make_value(KEY, number, 150 * KIB)


def test_what_is_replaced_is_gone_although_a_newer_value_is_on_its_way() -> None:
    held = Held()
    first, second = held.put(large(1)), held.put(large(2))
    assert held.core.get(KEY) == b"old"
    held.let_go(first)
    assert held.core.get(KEY) == large(1)
    held.let_go(second)
    assert held.core.get(KEY) == large(2)
    assert held.stored == [True, True]
    held.crash()
    assert held.core.get(KEY) == large(2)
    assert held.core.check() == []
    held.core.close()


def test_a_large_value_that_a_small_one_overtook_does_not_come_back() -> None:
    held = Held()
    first = held.put(large(1))
    assert held.core.put(KEY, b"new")
    assert held.core.get(KEY) == b"new"
    held.let_go(first)
    assert held.core.get(KEY) == b"new"
    assert held.core.counters()["superseded_puts"] == 1
    held.crash()
    assert held.core.get(KEY) == b"new"
    held.core.close()


def test_a_large_value_that_a_delete_overtook_does_not_come_back() -> None:
    held = Held()
    first = held.put(large(1))
    assert held.core.delete(KEY)
    held.let_go(first)
    assert held.core.get(KEY) is None
    held.crash()
    assert held.core.get(KEY) is None
    held.core.close()
