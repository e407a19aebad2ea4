"""An allocation that fails, or starts a collection, while a value is read leaves no lock behind."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from _testcapi import remove_mem_hooks, set_nomemory
from collections.abc import Callable
from typing import Any

import pytest
from support.model import KIB, options

from edgecache._core import Core

STORE = options(disk_bytes=0, front_bytes=0)
SIZES = (10, 5000, 100 * KIB)
ASK: dict[str, Callable[[Any, bytes], object]] = {
    "get": lambda core, key: core.get(key),
    "get_many": lambda core, key: core.get_many([key, b"absent"]),
    "read_entry": lambda core, key: core.read_entry(key),
    "peek": lambda core, key: core.peek(key),
    "view": lambda core, key: bytes(core.view(key)),
}


def fail_every_allocation(name: str, size: int) -> None:
    core = Core(STORE, None)
    value = bytes(size)
    assert core.put(b"key", value)
    failures = 0
    for nth in range(15):
        set_nomemory(nth, nth + 1)
        try:
            ASK[name](core, b"key")
        except MemoryError:
            failures += 1
        finally:
            remove_mem_hooks()
        assert core.get(b"key") == value
        assert core.put(b"other", value)
    assert failures > 0
    assert core.counters()["memory_pinned_bytes"] == 0
    assert core.check() == []
    core.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ASK)
def test_a_failed_allocation_is_a_memory_error_and_the_next_call_works(
    name: str, size: int
) -> None:
    # In a fork: the interpreter's own recursion count suffers from failed allocations (3.11).
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            fail_every_allocation(name, size)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_collection_in_the_middle_of_a_read_may_use_the_store() -> None:
    core = Core(STORE, None)
    assert core.put(b"key", b"value")
    seen = []

    class Ring:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            seen.append(core.get(b"key"))

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Ring()
            entry = core.read_entry(b"key")
            assert entry is not None
            assert entry[0] == b"value"
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert set(seen) == {b"value"}
    core.close()
