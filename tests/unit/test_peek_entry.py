"""`peek_entry`: an entry as RAM has it, a large value without a copy."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgecache
from edgecache.meta import Meta

SMALL, LARGE = 16384, 16385
META = Meta(created=1, updated=2, headers=b"facts")


@pytest.fixture
def store() -> Iterator[edgecache.Storage]:
    with edgecache.Storage(edgecache.Config(memory="64MiB")) as opened:
        yield opened


def pinned_bytes(store: edgecache.Storage) -> int:
    return int(store.stats()["memory"]["pinned_bytes"])


@pytest.mark.parametrize("size", [0, 1, SMALL, LARGE, 100_000, 1 << 20])
@pytest.mark.parametrize("meta", [None, META])
def test_it_tells_what_read_entry_tells(
    store: edgecache.Storage, size: int, meta: Meta | None
) -> None:
    value = random.Random(size).randbytes(size)
    store.put("key", value, meta=meta, ttl=60.0)
    found = store.peek_entry("key")
    assert isinstance(found, tuple)
    assert isinstance(found[0], bytes if size <= SMALL else edgecache.Blob)
    assert (bytes(found[0]), *found[1:]) == store.read_entry(b"key")


def test_a_large_value_is_pinned_until_it_is_released_and_survives_its_entry(
    store: edgecache.Storage,
) -> None:
    value = random.Random(1).randbytes(LARGE)
    store.put("key", value, meta=META)
    found = store.peek_entry("key")
    assert isinstance(found, tuple)
    assert pinned_bytes(store) >= LARGE
    assert store.delete("key")
    store.put("key", bytes(LARGE), meta=META)
    assert bytes(found[0]) == value
    del found
    assert pinned_bytes(store) == 0


def test_its_version_is_the_one_that_replace_takes(store: edgecache.Storage) -> None:
    for value in (b"small", bytes(LARGE)):
        store.put("key", value, meta=META)
        found = store.peek_entry("key")
        assert isinstance(found, tuple)
        assert store.replace("key", b"new", b"", 0, *found[3:])
        assert store.replace("key", b"newer", b"", 0, *found[3:]) is None
        assert store.get("key") == b"new"


def test_misses_hits_and_expired_entries_are_counted_as_by_get(store: edgecache.Storage) -> None:
    now = store.expiry_at(60.0) - 60_000_000
    assert store.put("past", b"x", ttl=60.0)
    found = store.read_entry("past")
    assert found is not None
    assert store.replace("past", b"x", b"", now - 1, *found[3:])
    before = store.stats()["requests"]
    assert store.peek_entry("past") is None
    assert store.peek_entry("never") is None
    store.put("key", bytes(LARGE))
    assert store.peek_entry("key") is not None
    after = store.stats()["requests"]
    assert after["misses"] - before["misses"] == 2
    assert after["expired"] - before["expired"] == 1
    assert after["hits"]["memory"] - before["hits"]["memory"] == 1


def test_what_only_the_disk_has_and_heads_of_objects_are_left_to_others(tmp_path: Path) -> None:
    config = edgecache.Config(root=tmp_path / "store", memory="64MiB", disk="256MiB")
    with edgecache.Storage(config) as store:
        store.put("key", b"value", meta=META)
        miss = store.get_miss_handler("object", META)
        miss.write(bytes(6 << 20))
        miss.finish()
        assert store.get("object") == bytes(6 << 20)
        assert store.peek_entry("object") is NotImplemented
    with edgecache.Storage(config) as store:
        assert store.peek_entry("key") is NotImplemented
        assert store.peek_entry("absent") is None
        assert store.get("key") == b"value"
        assert isinstance(store.peek_entry("key"), tuple)


@pytest.mark.parametrize("key", [b"", b"k" * 8193, 5, None, "\ud800"])
def test_a_key_that_is_none_is_refused(store: edgecache.Storage, key: object) -> None:
    with pytest.raises(edgecache.EdgeCacheError):
        store.peek_entry(key)  # type: ignore[arg-type]


def test_a_closed_store_is_an_error() -> None:
    store = edgecache.Storage(edgecache.Config(memory="64MiB"))
    store.close()
    with pytest.raises(edgecache.errors.StoreClosedError):
        store.peek_entry("key")
