"""Whole cache roots as values: taken from a memory disk, damaged, put on another."""

from __future__ import annotations

import os
from typing import Any

from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk

CREATE = io.OPEN_CREATE | io.OPEN_WRITE

# How much more the long mode does: EDGECACHE_TORTURE=1 in the environment.
LONG = os.environ.get("EDGECACHE_TORTURE", "") not in ("", "0")


def open_on(disk: MemoryDisk, store: dict[str, Any]) -> Core:
    return Core(store, open_engine("memory", disk=disk))


def take_image(disk: MemoryDisk) -> dict[bytes, bytes]:
    """Every file of the root by its name."""
    driver = io.Driver(open_engine("memory", disk=disk))
    found = {}
    for name in [*driver.list_directory(), *(b"data/" + n for n in driver.list_directory(b"data"))]:
        file = driver.open_file(name)
        if file >= 0:
            found[name] = driver.read(file, 0, driver.file_size(file))
            driver.close_file(file)
    driver.engine.close()
    return found


def put_image(image: dict[bytes, bytes]) -> MemoryDisk:
    disk = MemoryDisk()
    driver = io.Driver(open_engine("memory", disk=disk))
    driver.make_directory(b"data")
    for name, content in image.items():
        file = driver.open_file(name, CREATE)
        driver.write(file, 0, content)
        driver.sync(file)
        driver.close_file(file)
    driver.sync_directory()
    driver.sync_directory(b"data")
    driver.engine.close()
    return disk


def flip(content: bytes, bit: int) -> bytes:
    found = bytearray(content)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)
