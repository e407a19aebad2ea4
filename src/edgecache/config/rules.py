"""Rules over several fields, and the sizes that follow from others when they are "auto".

Each rule takes the checked values by field name and raises `Problem` with the field to blame and
what to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecache.config.problem import Problem
from edgecache.config.units import GIB, KIB, MIB, format_size

REGION_BYTES = 64 * MIB
REGION_BYTES_MIN = MIB
# Two logs with reinsertion need room to choose: below this the small log would be one region.
REGION_COUNT_MIN = 16
FRONT_BYTES_MAX = 32 * MIB
# Some hundred small objects: each takes 16 KiB or so of directory, files and inodes.
FILES_BYTES_MIN = 4 * MIB
FRONT_DIVISOR = 32
# A shard of the RAM tier needs four pages of 64 KiB, and its references span 32 GiB.
# Source: `_memory.pxd`.
SHARD_BYTES_MIN = 256 * KIB
SHARD_BYTES_MAX = 32 * GIB
SHARD_BYTES_COMFORTABLE = 4 * MIB
SHARD_COUNT_MAX = 4096


def check(values: Mapping[str, Any]) -> None:
    """Apply every rule.

    Raises:
        Problem: The first rule that does not hold.
    """
    _check_shared(values)
    _check_warm(values)
    _check_layout(values)
    _check_objects(values)
    _check_disk(values)
    _check_memory(values)
    _check_io(values)


def _check_shared(values: Mapping[str, Any]) -> None:
    if not values["shared"]:
        return
    if values["layout"] != "log":
        raise Problem(
            "several processes can share the region log only",
            hint="use layout: log, or one root per process",
            field="shared",
        )
    if values["disk"] == 0 or values["root"] is None or values["io"] == "memory":
        raise Problem(
            "processes find a shared cache by its root, and need its disk tier to outlive them",
            hint="set root and disk, with io: auto, uring or threads",
            field="shared",
        )


def _check_warm(values: Mapping[str, Any]) -> None:
    if not values["keep_warm"]:
        return
    if values["layout"] != "log":
        raise Problem(
            "only the region log can be left warm",
            hint="use layout: log, or keep_warm: false",
            field="keep_warm",
        )
    if values["disk"] == 0 or values["root"] is None or values["io"] == "memory":
        raise Problem(
            "a cache finds what it left in memory by its root, and needs its disk tier when that "
            "is gone",
            hint="set root and disk, with io: auto, uring or threads",
            field="keep_warm",
        )


def _check_layout(values: Mapping[str, Any]) -> None:
    if values["layout"] != "files":
        return
    if values["disk"] == 0 or (values["root"] is None and values["io"] != "memory"):
        raise Problem(
            "the file layout needs a disk tier",
            hint="set root and disk, or use layout: log",
            field="layout",
        )
    if values["disk"] < FILES_BYTES_MIN:
        raise Problem(
            f"{format_size(values['disk'])} is too small for objects of their own directory",
            hint=f"use at least {format_size(FILES_BYTES_MIN)}",
            field="disk",
        )
    if values["write_budget"]:
        raise Problem(
            "the file layout has no write budget",
            hint="use write_budget: 0, or layout: log",
            field="write_budget",
        )


def _check_objects(values: Mapping[str, Any]) -> None:
    if values["first_chunk_size"] > values["chunk_size"]:
        raise Problem(
            f"the first chunk ({format_size(values['first_chunk_size'])}) is larger than the "
            f"others ({format_size(values['chunk_size'])})",
            hint="use 0 for one of their size",
            field="first_chunk_size",
        )
    if values["layout"] == "files":
        for name in ("first_chunk_size", "share_chunks"):
            if values[name]:
                raise Problem(
                    "the file layout keeps an object as one body, not as chunks",
                    hint=f"leave {name} out, or use layout: log",
                    field=name,
                )
    if values["share_chunks"] and values["shared"]:
        raise Problem(
            "several processes cannot share chunks: each would know of its own objects only",
            hint="use shared: false, or share_chunks: false",
            field="share_chunks",
        )


def _check_disk(values: Mapping[str, Any]) -> None:
    disk, region = values["disk"], values["region_size"]
    if values["layout"] == "files":
        return
    if region & (region - 1):
        below = _power_of_two_at_most(region)
        raise Problem(
            f"a region of {format_size(region)} is not a power of two",
            hint=f"use {format_size(below)} or {format_size(2 * below)}",
            field="region_size",
        )
    if disk == 0:
        return
    if region == 0:
        smallest = REGION_BYTES_MIN * REGION_COUNT_MIN
        if disk < smallest:
            raise Problem(
                f"{format_size(disk)} cannot hold {REGION_COUNT_MIN} regions",
                hint=f"use at least {format_size(smallest)}, or 0 for no disk tier",
                field="disk",
            )
    elif disk < region * REGION_COUNT_MIN:
        raise Problem(
            f"{format_size(disk)} cannot hold {REGION_COUNT_MIN} regions of {format_size(region)}",
            hint=f"use disk: {format_size(region * REGION_COUNT_MIN)} or more, or a smaller "
            "region_size",
            field="disk",
        )


def _check_memory(values: Mapping[str, Any]) -> None:
    memory, shards, front = values["memory"], values["shards"], values["front_size"]
    if front is not None and front > memory:
        raise Problem(
            f"{format_size(front)} is more than memory ({format_size(memory)})",
            hint="the front table is meant for a small part of memory; use auto, or 0 for none",
            field="front_size",
        )
    if not shards:
        return
    if memory < shards * SHARD_BYTES_MIN:
        raise Problem(
            f"{shards} shards do not fit in {format_size(memory)} of memory",
            hint=f"use at most {_power_of_two_at_most(memory // SHARD_BYTES_MIN)} shards, or auto",
            field="shards",
        )
    if memory > shards * SHARD_BYTES_MAX:
        needed = _power_of_two_at_least(-(-memory // SHARD_BYTES_MAX))
        raise Problem(
            f"{format_size(memory)} of memory is more than {shards} shards can address",
            hint=f"use at least {needed} shards, or auto",
            field="shards",
        )


def _check_io(values: Mapping[str, Any]) -> None:
    io = values["io"]
    if values["root"] is None and io in ("uring", "threads"):
        raise Problem(
            f"the {io} engine has no directory to work in",
            hint="set root, or use io: auto for a cache in memory only",
            field="io",
        )
    for name in ("sqpoll", "iopoll"):
        if values[name] and io not in ("auto", "uring"):
            raise Problem(
                f"the {io} engine has no polling",
                hint=f"use io: uring, or {name}: false",
                field=name,
            )
    if values["iopoll"] and not values["direct"]:
        raise Problem("polled completions need direct I/O", hint="use direct: true", field="iopoll")


def _power_of_two_at_most(count: int) -> int:
    return 1 << (count.bit_length() - 1)


def _power_of_two_at_least(count: int) -> int:
    return 1 << (count - 1).bit_length()


def region_bytes(disk_bytes: int, region_size_bytes: int) -> int:
    """Return the region size in use; 0 (auto) is 64 MiB, less on a small disk tier.

    The automatic size is a power of two that leaves at least REGION_COUNT_MIN regions.
    """
    if region_size_bytes:
        return region_size_bytes
    region = REGION_BYTES
    while region > REGION_BYTES_MIN and region * REGION_COUNT_MIN > disk_bytes:
        region //= 2
    return region


def front_bytes(memory_bytes: int, front_size_bytes: int | None) -> int:
    """Return the budget of the front table; None (auto) is 1/32 of memory, at most 32 MiB."""
    if front_size_bytes is not None:
        return front_size_bytes
    return min(memory_bytes // FRONT_DIVISOR, FRONT_BYTES_MAX)


def shard_count(memory_bytes: int, shards: int, cpu_count: int) -> int:
    """Return the number of shards, a power of two; 0 (auto) is four per CPU.

    Fewer where a shard would fall below 4 MiB (one large object would empty it), more where a
    shard could not address its part of memory.
    """
    if shards:
        return shards
    count = 1
    while count < 4 * cpu_count and count < SHARD_COUNT_MAX:
        count *= 2
    while count > 1 and count * SHARD_BYTES_COMFORTABLE > memory_bytes:
        count //= 2
    while count * SHARD_BYTES_MAX < memory_bytes:
        count *= 2
    return count
