"""Bodies of the file layout: read and verified by strips, and given another meta in their place."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from test_object_bodies import bodies, config_of, content, publish

from edgecache import AsyncStorage, Config, Meta, PurgeType, Storage, errors
from edgecache import _testing_io as io
from edgecache._files import CHUNK_BYTES, STRIP_BYTES
from edgecache._io_memory import MemoryDisk
from edgecache.files import FileTier, strip_sums
from edgecache.files.strip_sums import StripSums

MIB = 1 << 20
STRIP_SEED = 0x6863616365676465  # of docs/objects.md, "Strips"


def tier_of(store: Storage) -> FileTier:
    assert store.files is not None
    return store.files


def place_of(root: Path) -> Path:
    (path,) = bodies(root)
    return path.parent


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def expected_sums(value: bytes) -> bytes:
    return b"".join(
        xxhash.xxh3_64_intdigest(value[start : start + STRIP_BYTES], STRIP_SEED).to_bytes(
            8, "little"
        )
        for start in range(0, len(value), STRIP_BYTES)
    )


# Strips


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("extra", [0, 1, -1])
def test_a_large_body_has_the_sums_of_its_strips_beside_it(
    tmp_path: Path, is_stream: bool, extra: int
) -> None:
    value = content(9 * MIB + extra)
    with Storage(config_of(tmp_path / "r", chunk_size="1MiB")) as store:
        if is_stream:
            publish(store, "k", value)
        else:
            assert store.put("k", value)
        store.sync()
        place = place_of(tmp_path / "r")
        assert (place / "body.sums").read_bytes() == expected_sums(value)
        assert store.get("k") == value
        rng = random.Random(1)
        for _ in range(60):
            start = rng.randrange(len(value))
            length = rng.choice((1, 100, 16384, 65536, 5 * MIB))
            assert store.read_range("k", start, length) == value[start : start + length]


def test_a_short_body_has_no_file_of_sums(tmp_path: Path) -> None:
    with Storage(config_of(tmp_path / "r")) as store:
        assert store.put("k", content(65536))
        store.sync()
        names = {path.name for path in place_of(tmp_path / "r").iterdir()}
        assert names == {"body.bin", "meta_internal.bin"}
        assert tier_of(store).read_range(*key_of(store), 100, 1000) == content(65536)[100:1100]


def key_of(store: Storage) -> tuple[bytes, bytes]:
    return store.lower_key("k")[:2]


def test_rot_costs_the_ranges_that_touch_it(tmp_path: Path) -> None:
    value = content(9 * MIB)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", value)
        store.sync()
        place = place_of(tmp_path / "r")
        flip(place / "body.bin", 5 * MIB)
        assert store.read_range("k", 5 * MIB + STRIP_BYTES, 65536) == value[
            5 * MIB + STRIP_BYTES : 5 * MIB + STRIP_BYTES + 65536
        ]  # fmt: skip
        assert store.read_range("k", 5 * MIB - 65536, 65536) == value[5 * MIB - 65536 : 5 * MIB]
        assert store.read_range("k", 5 * MIB - 10, 20) is None
        assert store.get("k") is None


def test_rotten_sums_never_let_wrong_bytes_pass(tmp_path: Path) -> None:
    value = content(9 * MIB)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", value)
        store.sync()
        flip(place_of(tmp_path / "r") / "body.sums", 8 * 300)
        # Whole chunks are verified without them.
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert b"".join(hit) == value
        assert store.read_range("k", 5 * MIB, 100) is None
        assert store.stats()["errors"]["corruption"]["record"] == 1


def test_a_range_reads_its_strips_and_no_more(tmp_path: Path) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="4MiB", disk="256MiB")
    with Storage(config, disk=disk) as store:
        value = content(16 * MIB)
        publish(store, "k", value)
        store.sync()
        assert store.read_range("k", 0, 1) == value[:1]
        engine = store._engine
        assert engine is not None
        before = engine.stats()["read"]["bytes"]
        for number in range(20):
            start = 100_000 * number
            assert store.read_range("k", start, 65536) == value[start : start + 65536]
        read = engine.stats()["read"]["bytes"] - before
        # At unaligned places: two strips more than the range, of which one is half of it.
        assert read <= 20 * (65536 + STRIP_BYTES)


# Objects of version 1


def to_version_1(place: Path, seed: int) -> None:
    """Rewrite a head as the first release wrote it: chunks summed as they are, no strips."""
    head = bytearray((place / "meta_internal.bin").read_bytes())
    body = (place / "body.bin").read_bytes()
    struct.pack_into("<H", head, 8, 1)
    struct.pack_into("<Q", head, 96, 0)
    (key_len,) = struct.unpack_from("<I", head, 80)
    start = 128 + -(-key_len // 8) * 8
    for number in range(-(-len(body) // CHUNK_BYTES)):
        chunk = body[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        digest = xxhash.xxh3_128_intdigest(chunk, seed)
        struct.pack_into("<QQ", head, start + 16 * number, digest & (1 << 64) - 1, digest >> 64)
    struct.pack_into("<Q", head, 120, 0)
    struct.pack_into("<Q", head, 120, xxhash.xxh3_64_intdigest(bytes(head), seed))
    (place / "meta_internal.bin").write_bytes(head)
    (place / "body.sums").unlink(missing_ok=True)


def test_objects_of_version_1_are_read_and_replaced_by_version_2(tmp_path: Path) -> None:
    value = content(9 * MIB + 5)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", value)
        seed = tier_of(store).seed
    to_version_1(place_of(tmp_path / "r"), seed)
    with Storage(config_of(tmp_path / "r")) as store:
        assert store.read_range("k", 4 * MIB - 1, 2) == value[4 * MIB - 1 : 4 * MIB + 1]
        assert store.get("k") == value
        assert store.scrub().corrupt == 0
        assert store.update_meta("k", Meta(created=1, updated=2))
        store.sync()
        assert (place_of(tmp_path / "r") / "body.sums").exists()
        assert store.get("k") == value
    to_version_1(place_of(tmp_path / "r"), seed)
    flip(place_of(tmp_path / "r") / "body.bin", 7)
    with Storage(config_of(tmp_path / "r")) as store:
        assert store.get("k") is None


# Sums of what is written in pieces


class NoFiles:
    """The part of `ObjectFiles` that sums use, on plain bytes."""

    def __init__(self) -> None:
        self.file = bytearray()

    def strips_of(self, data: Any) -> bytes:
        return expected_sums(bytes(data))

    def sum_of(self, data: Any) -> bytes:
        return xxhash.xxh3_128_digest(bytes(data))

    def write_at(self, name: bytes, offset: int, data: bytes) -> int:
        self.file += bytes(max(0, offset + len(data) - len(self.file)))
        self.file[offset : offset + len(data)] = data
        return 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(-1, 1)), max_size=12),
    st.integers(1, 40),
    st.integers(-1, 1),
)
def test_sums_of_pieces_in_any_order_are_those_of_the_whole(
    pieces: list[tuple[int, int, int]], end: int, extra: int
) -> None:
    # In quarters of a strip, so that few bytes make several chunks.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(strip_sums, "CHUNK_BYTES", 4 * STRIP_BYTES)
        patched.setattr(strip_sums, "CHUNK_STRIPS", 4)
        patched.setattr(strip_sums, "ALL_STRIPS", 15)
        files: Any = NoFiles()
        sums = StripSums(files, b"place")
        body = bytearray(14 * STRIP_BYTES)
        for number, (start, length, shift) in enumerate(pieces):
            place = max(0, start * STRIP_BYTES // 4 + shift)
            data = random.Random(number).randbytes(length * STRIP_BYTES // 4)
            body[place : place + len(data)] = data
            sums.forget(place, place + len(data))
            assert sums.add(place, memoryview(data)) == 0
        size = end * STRIP_BYTES // 4 + extra
        whole = bytes(body[:size])
        found = sums.seal(size, lambda start, length: whole[start : start + length])
        chunks = [whole[at : at + 4 * STRIP_BYTES] for at in range(0, size, 4 * STRIP_BYTES)]
        # Bytes that nobody wrote are not summed as they come: they are read back.
        assert found == b"".join(files.sum_of(expected_sums(chunk)) for chunk in chunks)
        if size > strip_sums.STRIPS_BODY_MIN:
            assert files.file[: len(expected_sums(whole))] == expected_sums(whole)


# Another meta, the same body


CHANGES: dict[str, Callable[[Storage], bool]] = {
    "update_meta": lambda store: store.update_meta("k", Meta(created=3, updated=4, tags=("t",))),
    "touch": lambda store: store.touch("k", 4000),
    "expire": lambda store: store.expire("k"),
    "soft_purge": lambda store: store.purge_tag("t", soft=True) == 1,
}


def with_body(root: Path, value: bytes) -> Storage:
    store = Storage(config_of(root))
    meta = Meta(created=1, updated=2, fresh_until=1 << 61, status=200)
    publish(store, "k", value, meta=meta, tags=["t"], ttl=3000)
    store.sync()
    return store


@pytest.mark.parametrize("name", CHANGES)
def test_another_meta_leaves_the_body_where_it_is(tmp_path: Path, name: str) -> None:
    value = content(9 * MIB)
    root = tmp_path / "r"
    with with_body(root, value) as store:
        file = (place_of(root) / "body.bin").stat().st_ino
        used = store.stats()["disk"]["used_bytes"]
        hit = store.lookup("k")
        assert hit is not None
        assert hit.read(100) == value[:100]
        version = hit.version
        assert CHANGES[name](store)
        # The reader in the middle keeps its generation, before and after the move.
        hit.seek(5 * MIB)
        assert hit.read(100) == value[5 * MIB : 5 * MIB + 100]
        store.sync()
        hit.seek(8 * MIB)
        assert b"".join(hit) == value[8 * MIB :]
        hit.close()
        assert (place_of(root) / "body.bin").stat().st_ino == file
        assert (place_of(root) / "body.bin").stat().st_nlink == 1
        assert list((root / "tmp").iterdir()) == []
        assert store.stats()["disk"]["used_bytes"] == used
        with store.lookup("k") as hit:
            assert hit.version == version
        found = store.get_entry("k")
        assert found is not None
        assert found.value == value
    with Storage(config_of(root)) as store:
        assert store.stats()["disk"]["used_bytes"] == used
        again = store.get_entry("k")
        assert again == found


def test_meta_tags_and_lifetime_are_as_they_were_told(tmp_path: Path) -> None:
    value = content(2 * MIB)
    with with_body(tmp_path / "r", value) as store:
        assert store.touch("k", 4000)
        found = store.get_entry("k")
        assert found is not None
        assert found.meta is not None
        assert found.meta.tags == ("t",)
        meta = Meta(created=3, updated=4, tags=("u",), headers=b"x" * 5000)
        assert store.update_meta("k", meta)
        assert store.get_entry("k").meta == meta  # type: ignore[union-attr]
        assert store.purge_tag("t") == 0
        entry = tier_of(store).state.index.get(key_of(store)[0])
        assert entry is not None
        assert entry[1] > time.time_ns() // 1000 + 3_900_000_000
        assert store.purge_tag("u") == 1
        assert not store.update_meta("k", meta)
        assert not store.touch("k", 5)


def test_many_changes_before_anything_is_published(tmp_path: Path) -> None:
    value = content(MIB)
    root = tmp_path / "r"
    with Storage(config_of(root, flush_interval=3600)) as store:
        publish(store, "k", value)
        for number in range(20):
            assert store.update_meta("k", Meta(created=1, updated=number))
        store.sync()
        used = store.stats()["disk"]["used_bytes"]
        assert store.get_entry("k").meta.updated == 19  # type: ignore[union-attr]
        assert tier_of(store).state.trash_bytes == 0
    with Storage(config_of(root)) as store:
        assert store.stats()["disk"]["used_bytes"] == used
        assert store.get("k") == value


def test_a_body_that_was_replaced_meanwhile_gets_no_meta_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = content(MIB, 1), content(MIB, 2)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", old)
        tier = tier_of(store)
        relabel = tier.relabel
        calls = []

        def late(*args: Any) -> Any:
            ticket = relabel(*args)
            if not calls:
                publish(store, "k", new)
            calls.append(ticket)
            return ticket

        monkeypatch.setattr(tier, "relabel", late)
        assert store.update_meta("k", Meta(created=1, updated=2))
        assert len(calls) == 2
        assert store.get("k") == new
        assert store.get_entry("k").meta == Meta(created=1, updated=2)  # type: ignore[union-attr]
        store.sync()
        assert tier.state.reserved_bytes == 0
        assert list((tmp_path / "r" / "tmp").iterdir()) == []


def test_without_links_the_body_is_written_again() -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="4MiB", disk="256MiB", flush_interval=3600)
    with Storage(config, disk=disk) as store:
        value = content(MIB)
        publish(store, "k", value)
        io.fail(disk, "rename", errno.EOPNOTSUPP)
        assert store.update_meta("k", Meta(created=1, updated=2))
        assert store.get("k") == value
        assert tier_of(store).state.reserved_bytes == 0


def test_a_power_cut_at_any_moment_leaves_the_old_meta_or_the_new_one() -> None:
    value = content(MIB)
    old, new = (Meta(created=1, updated=number) for number in (1, 2))
    seen = set()
    config = Config(io="memory", layout="files", memory="4MiB", disk="64MiB", flush_interval=3600)
    for seed in range(40):
        disk = MemoryDisk()
        store = Storage(config, disk=disk)
        publish(store, "k", value, meta=old)
        store.sync()
        assert store.update_meta("k", new)
        if seed % 2:
            store.flush()
        io.power_cut(disk, seed=seed, mode="random")
        store.abandon()
        store.close()
        with Storage(config, disk=disk) as store:
            found = store.get_entry("k")
            assert found is not None
            assert found.value == value
            assert found.meta in (old, new)
            seen.add(found.meta.updated)
            assert store.purge("k", PurgeType.INVALIDATION)
    assert 1 in seen


# For sendfile(2)


def test_a_body_can_be_sent_by_the_kernel_whatever_becomes_of_the_object(tmp_path: Path) -> None:
    value = content(9 * MIB)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", value)
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            hit.seek(4 * MIB - 5, 8 * MIB)
            found = hit.file_range()
            assert found is not None
            assert hit.position == 4 * MIB - 5
        with found:
            assert store.delete("k")
            store.sync()
            with (tmp_path / "out").open("wb") as target:
                sent = 0
                while sent < found.size:
                    sent += os.sendfile(
                        target.fileno(), found.descriptor, found.offset + sent, found.size - sent
                    )
        assert (tmp_path / "out").read_bytes() == value[4 * MIB - 5 : 8 * MIB]
        assert found.descriptor == -1


def test_a_damaged_or_replaced_body_is_not_given_out(tmp_path: Path) -> None:
    value = content(9 * MIB)
    with Storage(config_of(tmp_path / "r")) as store:
        publish(store, "k", value)
        store.sync()
        flip(place_of(tmp_path / "r") / "body.bin", 6 * MIB)
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            hit.seek(0, 4 * MIB)
            whole = hit.file_range()
            assert whole is not None
            whole.close()
            hit.seek(5 * MIB)
            with pytest.raises(errors.ObjectChangedError):
                hit.file_range()
            assert hit.file_range(verify=False) is None, "it is gone by now"
        publish(store, "k", value)
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            publish(store, "k", value[::-1])
            assert hit.file_range() is None


def test_what_lies_in_no_file_of_its_own_is_not_given_out(tmp_path: Path) -> None:
    value = content(9 * MIB)
    with Storage(Config(root=str(tmp_path / "log"), memory="4MiB", disk="256MiB")) as store:
        publish(store, "k", value)
        store.sync()
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert hit.file_range() is None
            assert b"".join(hit.buffers()) == value
    with Storage(config_of(tmp_path / "files")) as store:
        miss = store.get_miss_handler("k")
        miss.write(value)
        with store.lookup_streaming_write("k", miss.streaming_write_tag) as hit:  # type: ignore
            assert hit.file_range() is None
        miss.finish()
        store.put("short", b"short")
        with store.lookup("short") as hit:  # type: ignore[union-attr]
            assert hit.file_range() is None


def test_a_body_is_given_out_on_an_event_loop(tmp_path: Path) -> None:
    value = content(9 * MIB)

    async def main() -> None:
        async with AsyncStorage(config_of(tmp_path / "r")) as store:
            async with await store.get_miss_handler("k") as miss:
                await miss.write(value)
                await miss.finish()
            async with await store.lookup("k") as hit:  # type: ignore[union-attr]
                found = await hit.file_range()
                assert found is not None
                with found:
                    assert os.pread(found.descriptor, 10, found.offset + 5) == value[5:15]
                    assert found.size == len(value)

    asyncio.run(main())
