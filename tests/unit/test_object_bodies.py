"""Large objects of the file layout: one directory with one body, read by range."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from edgecache import Config, Meta, Storage, errors

MIB = 1 << 20


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def config_of(root: Path, **changes: Any) -> Config:
    options: dict[str, Any] = {"memory": "4MiB", "disk": "256MiB", "layout": "files"}
    return Config(root=str(root), **{**options, **changes})


def publish(store: Storage, key: str, value: bytes, **options: Any) -> bytes:
    with store.get_miss_handler(key, **options) as miss:
        for start in range(0, len(value), 700_001):
            miss.write(value[start : start + 700_001])
        assert miss.finish() == len(value)
        return miss.streaming_write_tag


def bodies(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.glob("??/??/*/body.bin")}


@pytest.mark.parametrize("namespace", ["", "space"])
def test_an_object_is_one_directory_with_its_bytes(tmp_path: Path, namespace: str) -> None:
    value = content(21 * MIB + 7)
    config = config_of(tmp_path / "r", namespace=namespace)
    meta = Meta(created=1, updated=2, status=200, headers=b"h: v")
    with Storage(config) as store:
        tag = publish(store, "k", value, meta=meta, tags=["t"], ttl=1000)
        with store.lookup_streaming_write("k", tag) as hit:  # type: ignore[union-attr]
            assert b"".join(hit) == value
            version = hit.version
        store.sync()
        assert list(bodies(tmp_path / "r").values()) == [value]
    with Storage(config) as store:
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert (hit.size, hit.source, hit.version) == (len(value), "disk", version)
            assert hit.meta == meta.with_tags(["t"])
            hit.seek(5 * MIB, 9 * MIB)
            assert b"".join(hit) == value[5 * MIB : 9 * MIB]
        assert store.stats()["requests"]["hits"]["disk"] == 1
        assert store.read_range("k", 20 * MIB, 2 * MIB) == value[20 * MIB :]
        assert store.get("k") == value
        assert store.update_meta("k", Meta(created=3, updated=4, tags=("u",)))
        assert store.touch("k", 2000)
        assert store.get("k") == value
        assert store.purge_tag("t") == 0
        assert store.purge_tag("u") == 1
        assert store.lookup("k") is None
        store.sync()
    assert bodies(tmp_path / "r") == {}


def test_a_large_put_is_read_by_range_too(tmp_path: Path) -> None:
    value = content(12 * MIB)
    with Storage(config_of(tmp_path / "r")) as store:
        assert store.put("k", value)
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert hit.meta is None
            assert b"".join(hit) == value
        assert store.read_range("k", 4 * MIB - 3, 10) == value[4 * MIB - 3 : 4 * MIB + 7]


def test_a_reader_of_a_replaced_object_never_gets_the_other_bytes(tmp_path: Path) -> None:
    old, new = content(20 * MIB, 1), content(20 * MIB, 2)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", old)
        hit = store.lookup("k")
        assert hit is not None
        assert hit.read(10) == old[:10]
        first = hit.version
        publish(store, "k", new)
        hit.seek(16 * MIB)  # beyond what it has read ahead
        with pytest.raises(errors.ObjectChangedError):
            hit.read()
        hit.close()
        with store.lookup("k") as hit:
            assert hit.version != first
            assert b"".join(hit) == new


def test_two_writers_and_an_aborted_one_leave_one_body(tmp_path: Path) -> None:
    one, two = content(9 * MIB, 1), content(9 * MIB, 2)
    with Storage(config_of(tmp_path / "r")) as store:
        first, second, third = (store.get_miss_handler("k") for _ in range(3))
        reader = store.lookup_streaming_write("k", third.streaming_write_tag)
        assert reader is not None
        for start in range(0, 9 * MIB, MIB):
            first.write(one[start : start + MIB])
            second.write(two[start : start + MIB])
            third.write(two[start : start + MIB])
        assert reader.read(5 * MIB) == two[: 4 * MIB]
        assert second.finish() == first.finish() == 9 * MIB
        third.abort()
        with pytest.raises(errors.StreamAbortedError):
            reader.read()
        reader.close()
        assert store.get("k") == one
        store.sync()
        assert list(bodies(tmp_path / "r").values()) == [one]
        assert store.stats()["requests"]["puts"] == 2
        backend: Any = store._objects.backend
        assert backend._written == backend._placed == {}
    assert list((tmp_path / "r" / "tmp").iterdir()) == []


def test_rot_of_a_body_is_a_miss_and_the_object_goes(tmp_path: Path) -> None:
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", content(9 * MIB))
    (path,) = bodies(tmp_path / "r")
    rotten = bytearray(path.read_bytes())
    rotten[6 * MIB] ^= 1
    path.write_bytes(rotten)
    with Storage(config_of(tmp_path / "r")) as store:
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert hit.read() == content(9 * MIB)[: 4 * MIB]
            with pytest.raises(errors.ObjectChangedError):
                hit.read()
        assert store.get("k") is None
        assert store.stats()["errors"]["corruption"]["record"] == 1
        store.sync()
    assert bodies(tmp_path / "r") == {}


def test_an_unfinished_write_is_gone_after_a_crash_and_the_old_object_serves(
    tmp_path: Path,
) -> None:
    old = content(9 * MIB, 1)
    store = Storage(config_of(tmp_path / "r"))
    publish(store, "k", old)
    store.sync()
    miss = store.get_miss_handler("k")
    miss.write(content(9 * MIB, 2))
    store.abandon()
    store.close()
    with Storage(config_of(tmp_path / "r")) as store:
        assert store.get("k") == old
        assert list((tmp_path / "r" / "tmp").iterdir()) == []
