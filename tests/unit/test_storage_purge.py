"""Purges by prefix and tag: exact, in every tier, against a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache import Config, Storage, errors

CONFIGS: dict[str, Callable[[Path], Config]] = {
    "ram": lambda root: Config(memory="4MiB"),
    "memory": lambda root: Config(io="memory", memory="1MiB", disk="64MiB", shards=1),
    "auto": lambda root: Config(root=str(root), memory="1MiB", disk="64MiB", shards=1),
    "files": lambda root: Config(
        io="memory", memory="1MiB", disk="64MiB", shards=1, layout="files"
    ),
}
SIZE_BYTES = 700

TAGS = ("red", "green", "blue", "re")
KEYS = st.text("ab/", min_size=1, max_size=5)
ENTRIES = st.dictionaries(KEYS, st.frozensets(st.sampled_from(TAGS)), max_size=60)


def fill(store: Storage, entries: dict[str, frozenset[str]]) -> None:
    store.put_many(dict.fromkeys(entries, b"old"))  # overwritten: must not count twice
    for key, tags in entries.items():
        assert store.put(key, key.encode() * 100, tags=tags)


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=25, deadline=None)
@given(entries=ENTRIES, prefix=KEYS)
def test_delete_prefix_deletes_exactly_the_prefix(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    entries: dict[str, frozenset[str]],
    prefix: str,
) -> None:
    with Storage(CONFIGS[kind](tmp_path_factory.mktemp("r") / "root")) as store:
        fill(store, entries)
        expected = {key for key in entries if key.startswith(prefix)}
        assert store.delete_prefix(prefix) == len(expected)
        assert {key for key in entries if store.get(key) is None} == expected
        assert store.delete_prefix(prefix) == 0


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("soft", [False, True])
@settings(max_examples=25, deadline=None)
@given(entries=ENTRIES, tag=st.sampled_from(TAGS))
def test_purge_tag_takes_exactly_the_tagged(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    soft: bool,
    entries: dict[str, frozenset[str]],
    tag: str,
) -> None:
    with Storage(CONFIGS[kind](tmp_path_factory.mktemp("r") / "root")) as store:
        fill(store, entries)
        expected = {key for key, tags in entries.items() if tag in tags}
        assert store.purge_tag(tag, soft=soft) == len(expected)
        assert {key for key in entries if store.get(key) is None} == expected
        for key in expected:
            entry = store.get_entry(key)
            if not soft:
                assert entry is None
                continue
            assert entry is not None
            assert entry.value == key.encode() * 100
            assert entry.meta is not None
            assert set(entry.meta.tags) == entries[key]
        assert store.purge_tag(tag, soft=soft) == 0
        # A hard purge takes the stale ones, too.
        assert store.purge_tag(tag) == (len(expected) if soft else 0)


@pytest.mark.parametrize("kind", ["memory", "auto"])
def test_entries_in_every_tier_are_purged_and_stay_away_after_reopening(
    tmp_path: Path, kind: str
) -> None:
    """Thousands more than RAM holds: in buffers, in RAM, on disk, some in two of them."""
    from edgecache._io_memory import MemoryDisk

    config = CONFIGS[kind](tmp_path / "root")
    disk = MemoryDisk() if kind == "memory" else None
    count = 6000
    with Storage(config, disk=disk) as store:
        for number in range(count):
            tags = ("odd",) if number % 2 else ()
            store.put(f"{number % 10}/{number}", bytes(SIZE_BYTES), tags=tags)
        store.get_many([f"{number % 10}/{number}" for number in range(0, count, 97)])  # promoted
        assert store.stats()["requests"]["demotions"] > 0
        assert store.delete_prefix("3/") == count // 10
        assert store.purge_tag("odd") == count // 2 - count // 10
        assert store.purge_tag("odd") == 0
        assert store.check() == []
        store.sync()
        store.abandon()  # as a crash would: what was synced must hold
        del store
    with Storage(config, disk=disk) as store:
        left = [number for number in range(count) if store.get(f"{number % 10}/{number}")]
        assert left == list(range(0, count, 2))


def test_progress_runs_to_its_end() -> None:
    config = Config(io="memory", memory="4MiB", disk="64MiB")
    with Storage(config) as store:
        store.put("key", b"value", tags=["t"])
        for call in (
            lambda progress: store.delete_prefix("x", progress=progress),
            lambda progress: store.purge_tag("x", progress=progress),
            lambda progress: store.scrub(progress=progress),
        ):
            seen: list[tuple[int, int]] = []
            call(lambda done, total, seen=seen: seen.append((done, total)))
            assert seen == [(number + 1, len(seen)) for number in range(len(seen))]
            assert len(seen) >= store.region_count


def test_a_failing_progress_leaves_reclaim_running() -> None:
    """The maintenance lock is given back: walks and checkpoints go on."""
    with Storage(Config(io="memory", memory="4MiB", disk="64MiB")) as store:
        store.put("key", b"value")

        def fail(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.delete_prefix("k", progress=fail)
        assert store.get("key") == b"value"
        assert store.delete_prefix("k") == 1
        store.checkpoint()


@pytest.mark.parametrize("bad", ["", b""])
def test_an_empty_prefix_is_refused(bad: str | bytes) -> None:
    with Storage(Config(memory="4MiB")) as store:
        with pytest.raises(errors.ArgumentError, match="empty"):
            store.delete_prefix(bad)
        with pytest.raises(errors.KeyTypeError):
            store.delete_prefix(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            store.purge_tag(b"tag")  # type: ignore[arg-type]
        with pytest.raises(errors.ArgumentError):
            store.purge_tag("")
