"""The snapshot: every place filled from the counter of that name, also without a disk tier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecache import Config, Storage
from edgecache.metrics import check_snapshot, empty_snapshot
from edgecache.snapshot import Facts, build_snapshot

FACTS = Facts(
    io="uring", io_fallback_reason="", layout="log", policy="s3fifo", is_direct=True,
    is_atomic_publish=True, queue_depth=64, uptime_seconds=1.5, soft_purge_count=3,
)  # fmt: skip


def recorded() -> tuple[dict[str, Any], dict[str, Any]]:
    """Counters and engine statistics of a real store."""
    with Storage(Config(io="memory", memory="2MiB", disk="64MiB")) as store:
        assert store._engine is not None
        return store.counters(), store._engine.stats()


class Watched(dict[str, Any]):
    """A mapping that notes what is read."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize(
    "config",
    [Config(memory="2MiB"), Config(io="memory", memory="2MiB", disk="64MiB")],
    ids=["ram", "disk"],
)
def test_a_snapshot_of_a_store_has_the_shape_of_the_schema(config: Config) -> None:
    with Storage(config) as store:
        store.put("key", b"value")
        assert check_snapshot(store.stats()) == []


def test_every_number_lands_in_its_place() -> None:
    counters, io = recorded()
    numbered = Watched(
        {
            name: number if type(value) is int else value
            for number, (name, value) in enumerate(counters.items(), 1000)
        }
    )
    found = build_snapshot(numbered, io, FACTS)
    assert check_snapshot(found) == []
    for section, key, name in [
        ("requests", "misses", "misses"),
        ("requests", "puts", "puts"),
        ("requests", "put_bytes", "put_bytes"),
        ("requests", "deletes", "deletes"),
        ("requests", "expired", "expired"),
        ("requests", "demotions", "demotions"),
        ("memory", "items", "memory_items"),
        ("memory", "item_bytes", "memory_item_bytes"),
        ("memory", "pinned_bytes", "memory_pinned_bytes"),
        ("memory", "zombies", "memory_zombies"),
        ("memory", "moves", "memory_moves"),
        ("memory", "budget_bytes", "memory_budget_bytes"),
        ("index", "objects", "objects"),
        ("index", "used_bytes", "index_used_bytes"),
        ("index", "overflow", "index_overflow"),
        ("index", "grows", "index_grows"),
        ("disk", "used_bytes", "disk_used_bytes"),
        ("disk", "budget_bytes", "disk_budget_bytes"),
        ("disk", "write_budget_level", "write_budget_level"),
        ("log", "flushes", "flushes"),
        ("log", "flush_waits", "flush_waits"),
        ("log", "flush_wait_us", "flush_wait_us"),
        ("log", "checkpoint_failures", "checkpoint_errors"),
        ("reclaim", "regions", "reclaimed_regions"),
        ("reclaim", "bytes", "reclaimed_bytes"),
        ("reclaim", "dropped", "dropped"),
        ("recovery", "records", "recovery_objects"),
        ("errors", "open", "prepare_errors"),
        ("errors", "regions_retired", "regions_retired"),
    ]:
        assert dict(found)[section][key] == numbered[name], (section, key)  # type: ignore[index]
    assert found["requests"]["hits"] == {
        "front": numbered["front_hits"],
        "memory": numbered["memory_hits"],
        "disk": numbered["disk_hits"],
    }
    assert found["requests"]["invalidations"] == numbered["invalidations"] + 3
    assert found["memory"]["evictions"] == numbered["memory_evictions"] + numbered["demotions"]
    assert found["disk"]["regions"] == {
        "free": numbered["regions_free"],
        "open": numbered["regions_open"],
        "sealed": numbered["regions_full"],
        "retired": numbered["regions_lost"],
    }


def test_the_ram_tier_and_its_metadata_stay_in_their_budget() -> None:
    with Storage(Config(memory="4MiB")) as store:
        for number in range(20_000):
            store.put(f"key{number}", bytes(number % 2000))
            if number % 1000 == 0:
                memory = store.stats()["memory"]
                assert memory["used_bytes"] <= memory["budget_bytes"] == 4 << 20
        assert store.stats()["requests"]["evictions"] > 1000


def test_a_store_without_disk_leaves_its_sections_empty() -> None:
    empty = empty_snapshot()
    with Storage(Config(memory="2MiB")) as store:
        found = store.stats()
    for section in ("disk", "log", "reclaim", "recovery", "io", "errors"):
        assert found[section] == empty[section]  # type: ignore[literal-required]
    assert found["engine"]["io"] == "none"
    assert not found["engine"]["is_direct"]


def test_only_a_shared_cache_has_processes(tmp_path: Path) -> None:
    empty = empty_snapshot()["sharing"]
    config = Config(root=str(tmp_path / "root"), memory="4MiB", disk="16MiB")
    with Storage(config) as store:
        assert store.stats()["sharing"] == empty
    with Storage(replace(config, shared=True)) as store:
        found = store.stats()
        assert check_snapshot(found) == []
        counters = store.counters()
    numbered = {name: number for number, name in enumerate(counters, 1000)}
    sharing = build_snapshot({**counters, **numbered, "shed": {}}, {}, FACTS)["sharing"]
    assert sharing == {
        "processes": numbered["processes"],
        "attaches": numbered["processes_attached"],
        "deaths": numbered["processes_reaped"],
        **{name: numbered[name] for name in sharing if name in numbered and name != "processes"},
    }
    # Who writes is settled by a thread of the store, maybe later.
    expected = {**empty, "processes": 1, "attaches": 1}
    expected["is_writer"] = found["sharing"]["is_writer"]
    expected["writer_pid"] = found["sharing"]["writer_pid"]
    assert found["sharing"] == expected
    assert expected["writer_pid"] in (0, os.getpid())


def test_direct_io_that_was_refused_is_not_claimed() -> None:
    counters, io = recorded()
    assert build_snapshot(counters, io, FACTS)["engine"]["is_direct"]
    assert not build_snapshot(counters, {**io, "direct_refused": 1}, FACTS)["engine"]["is_direct"]
