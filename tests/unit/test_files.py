"""The file layout: what lies on disk, what a restart finds, and what damage and attacks cost."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from edgecache import Config, Meta, Storage, errors
from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.files import FileTier

MIB = 1 << 20
LEAVES = ("body.bin", "meta_internal.bin", "meta_header.bin")


def config_of(root: Path | None, **changes: object) -> Config:
    options: dict[str, object] = {
        "root": root and str(root), "layout": "files", "memory": "1MiB", "disk": "64MiB",
        "shards": 1, "flush_interval": 0.005,
    }  # fmt: skip
    return Config.from_dict({**options, **changes})


def tier_of(store: Storage) -> FileTier:
    assert store.files is not None
    return store.files


def objects_in(root: Path) -> list[Path]:
    """The object directories of a root."""
    return sorted(path.parent for path in root.glob("??/??/*/meta_internal.bin"))


def fill(root: Path, entries: dict[str, bytes]) -> dict[str, Path]:
    """Put entries one by one; the object directory of each."""
    places: dict[str, Path] = {}
    with Storage(config_of(root)) as store:
        for key, value in entries.items():
            before = set(objects_in(root))
            assert store.put(key, value, tags=["tag"])
            store.sync()
            (places[key],) = set(objects_in(root)) - before
    return places


def space_of(root: Path) -> int:
    """What a tree takes, inodes at 512 bytes each."""
    return sum(path.lstat().st_blocks * 512 + 512 for path in root.rglob("*"))


# What lies on disk


def test_an_object_is_a_private_directory_of_three_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = fill(root, {"key": b"value"})["key"]
    assert sorted(path.name for path in place.iterdir()) == sorted(LEAVES)
    assert (place / "body.bin").read_bytes() == b"value"
    assert Meta.decode((place / "meta_header.bin").read_bytes()).tags == ("tag",)
    assert place.parent.parent.name == place.name[:2]
    assert place.parent.name == place.name[2:4]
    assert len(place.name) == 32
    for path in [root, *root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        if path.name != "lock":
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert list((root / "tmp").iterdir()) == []


def test_an_overwrite_replaces_the_object_and_leaves_nothing_behind(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root)) as store:
        for number in range(20):
            assert store.put("key", b"%d" % number * 1000)
            if number % 3 == 0:
                store.sync()
        store.sync()
        (place,) = objects_in(root)
        assert (place / "body.bin").read_bytes() == b"19" * 1000
        store.delete("key")
        store.sync()
        assert objects_in(root) == []
    assert list((root / "tmp").iterdir()) == []


def test_without_an_exchange_an_overwrite_still_works(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root)) as store:
        tier_of(store)._publisher._has_exchange = False
        for number in range(5):
            assert store.put("key", b"%d" % number)
            store.sync()
        assert store.counters()["exchange_fallbacks"] == 4
        assert (objects_in(root)[0] / "body.bin").read_bytes() == b"4"
    with Storage(config_of(root)) as store:
        assert store.get("key") == b"4"


def test_the_budget_holds_in_blocks_and_inodes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root, disk="8MiB")) as store:
        for number in range(900):
            assert store.put(f"key-{number}", bytes(number * 7 % 9000), tags=["t"] * (number % 2))
            if number % 100 == 99:
                store.sync()
                counters = store.counters()
                assert counters["disk_used_bytes"] <= 8 * MIB
                assert space_of(root) <= counters["disk_used_bytes"] + 300 * 4608
        assert store.counters()["disk_evictions"] > 0
        assert store.counters()["shed"]["backpressure"] == 0
        assert store.check() == []


def test_a_value_above_the_budget_is_shed_and_leaves_no_stale_one(tmp_path: Path) -> None:
    config = config_of(tmp_path / "root", disk="4MiB", max_object_size="64MiB")
    with Storage(config) as store:
        assert store.put("key", b"old")
        assert not store.put("key", bytes(5 * MIB))
        assert store.get("key") is None
        assert store.stats()["requests"]["shed"]["too_large"] == 1
        store.sync()
    with Storage(config) as store:
        assert store.get("key") is None


# Restarts


def test_a_restart_restores_objects_expiry_quota_and_sequence(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root)) as store:
        assert store.put("stays", b"1" * 5000, ttl=3600)
        assert store.put("ends", b"2", ttl=0.2)
        assert store.put("plain", b"3")
        entry = store.read_entry("stays")
        assert entry is not None
        used = [store.sync(), store.counters()["disk_used_bytes"]][1]
    end = time.time() + 0.25
    while time.time() < end:
        pass
    with Storage(config_of(root)) as store:
        assert store.get("ends") is None
        assert store.get_many(["stays", "plain"]) == [b"1" * 5000, b"3"]
        again = store.read_entry("stays")
        assert again is not None
        assert again[2] == entry[2]
        assert store.counters()["recovery_expired"] == 1
        assert store.counters()["disk_used_bytes"] < used
        assert tier_of(store).state.index.take_sequence() > entry[4]


def test_a_restart_keeps_the_order_of_eviction(tmp_path: Path) -> None:
    root = tmp_path / "root"
    config = config_of(root, disk="16MiB")
    with Storage(config) as store:
        for number in range(30):
            assert store.put(f"key-{number}", bytes(200_000))
        tier = tier_of(store)
        for _ in range(2):
            for number in (3, 7):
                key = b"key-%d" % number
                assert tier.get(tier.hash_of(key), key) is not None
    with Storage(config) as store:
        for number in range(140):
            assert store.put(f"more-{number}", bytes(200_000))
        left = [n for n in range(30) if store.exists(f"key-{n}") and store.needs_disk(f"key-{n}")]
        assert left == [3, 7]


def test_progress_of_opening_is_reported_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    fill(root, {f"key-{number}": b"x" for number in range(8)})
    seen: list[tuple[int, int]] = []
    with caplog.at_level("INFO", "edgecache.files"):
        Storage(config_of(root), progress=lambda *step: seen.append(step)).close()
    assert seen
    assert seen[-1][0] == seen[-1][1]
    assert "8 objects" in caplog.text


def test_orphans_garbage_and_torn_objects_are_removed_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    places = fill(root, {"good": b"good", "torn": b"t" * 9000, "headless": b"h", "moved": b"m"})
    os.truncate(places["torn"] / "body.bin", 100)
    (places["headless"] / "meta_internal.bin").unlink()
    wrong = root / "ab" / "cd" / ("abcd" + "0" * 28)
    wrong.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    places["moved"].rename(wrong)
    orphan = root / "tmp" / "1-dead"
    orphan.mkdir(mode=0o700)
    (orphan / "body.bin").write_bytes(b"half")
    (root / "tmp" / "file").write_bytes(b"x")
    for name in ("ab/garbage", "ab/cd/garbage"):
        (root / name).write_bytes(b"x")
        (root / name).chmod(0o600)
    (root / "mine.txt").write_bytes(b"left alone")
    with Storage(config_of(root)) as store:
        assert store.get("good") == b"good"
        assert store.get_many(["torn", "headless", "moved"]) == [None] * 3
        counters = store.counters()
        assert counters["recovery_orphans"] == 2
        assert counters["recovery_garbage"] == 5
        assert counters["recovery_foreign"] == 1
        assert store.stats()["errors"]["corruption"]["record"] == 5
    assert [path.name for path in objects_in(root)] == [places["good"].name]
    assert (root / "mine.txt").read_bytes() == b"left alone"
    assert not orphan.exists()
    assert not (root / "ab" / "garbage").exists()


def test_objects_of_another_namespace_are_kept_and_not_seen(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root, namespace="one")) as store:
        assert store.put("key", b"1")
    with Storage(config_of(root, namespace="two")) as store:
        assert store.get("key") is None
        assert store.put("key", b"2")
        assert store.delete_prefix("k") == 1
    with Storage(config_of(root)) as store:
        assert store.delete_prefix("k") == 0
    with Storage(config_of(root, namespace="one")) as store:
        assert store.get("key") == b"1"


def test_a_root_of_the_other_layout_is_refused(tmp_path: Path) -> None:
    for first, second in (("log", "files"), ("files", "log")):
        root = tmp_path / first
        with Storage(config_of(root, layout=first)) as store:
            assert store.put("key", b"value")
        with pytest.raises(errors.FormatVersionError) as caught:
            Storage(config_of(root, layout=second))
        assert "migrate" in caught.value.hint
        with Storage(config_of(root, layout=first)) as store:
            assert store.get("key") == b"value"


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "root" / "ab" / "important"
    theirs.parent.mkdir(parents=True, mode=0o700)
    theirs.write_bytes(b"data")
    theirs.chmod(0o600)
    theirs.parent.parent.chmod(0o700)
    with pytest.raises(errors.UnsafePathError):
        Storage(config_of(tmp_path / "root"))
    assert theirs.read_bytes() == b"data"


def test_a_lost_root_file_is_replaced_by_its_copy(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root, {"key": b"value"})
    for lost in ("files.edge", "files.edge.copy"):
        (root / lost).write_bytes(b"rot")
        with Storage(config_of(root)) as store:
            assert store.get("key") == b"value"
        assert (root / lost).stat().st_size == 64
    for lost in ("files.edge", "files.edge.copy"):
        (root / lost).write_bytes(b"rot")
    with Storage(config_of(root)) as store:
        assert store.get("key") is None
        assert store.stats()["errors"]["corruption"]["superblock"] == 1
        assert store.put("key", b"new")
        assert store.get("key") == b"new"


# Damage


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("when", ["closed", "open"])
def test_a_flipped_bit_is_a_miss_that_heals(tmp_path: Path, leaf: str, when: str) -> None:
    root = tmp_path / "root"
    places = fill(root, {"bad": b"b" * 10_000, "good": b"g" * 10_000})
    victim = places["bad"] / leaf

    def damage() -> None:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 4
        victim.write_bytes(content)

    if when == "closed":
        damage()
    with Storage(config_of(root)) as store:
        if when == "open":
            damage()
        assert store.get("bad") is None
        assert store.get("good") == b"g" * 10_000
        assert store.stats()["errors"]["corruption"]["record"] == 1
        store.sync()
        assert not places["bad"].exists()
        assert store.put("bad", b"new")
        store.sync()
    with Storage(config_of(root)) as store:
        assert store.get("bad") == b"new"


def test_every_flipped_bit_of_a_head_is_found(tmp_path: Path) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="1MiB", disk="64MiB", shards=1)
    with Storage(config, disk=disk) as store:
        tier = tier_of(store)
        assert tier.put(b"key", b"value")
        tier.sync()
        name = tier.state.name_of(tier.hash_of(b"key"), 0)
        whole = tier.state.files.load(name + b"/meta_internal.bin", 4096)
        assert isinstance(whole, bytes)
        for bit in range(len(whole) * 8):
            found = bytearray(whole)
            found[bit // 8] ^= 1 << bit % 8
            assert tier.state.files.write_at(name + b"/meta_internal.bin", 0, found) == 0
            assert tier.state.files.read_object(name) == -errno.EBADMSG, bit
        assert tier.state.files.write_at(name + b"/meta_internal.bin", 0, whole) == 0
        assert tier.get(tier.hash_of(b"key"), b"key") is not None


def test_scrub_finds_and_removes_what_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    places = fill(root, {f"key-{number}": b"%d" % number * 3000 for number in range(6)})
    (places["key-2"] / "body.bin").write_bytes(b"!" * 3000)
    with Storage(config_of(root)) as store:
        report = store.scrub()
        assert (report.entries, report.corrupt) == (5, 1)
        assert store.scrub()[:3:2] == (5, 0)


def test_a_missing_body_is_a_miss(tmp_path: Path) -> None:
    root = tmp_path / "root"
    places = fill(root, {"key": b"value"})
    with Storage(config_of(root)) as store:
        (places["key"] / "body.bin").unlink()
        assert store.get("key") is None
        assert not store.exists("key")


# Attacks


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_file_that_is_a_symbolic_link_is_not_followed(tmp_path: Path, leaf: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    places = fill(root, {"key": b"value"})
    with Storage(config_of(root)) as store:
        (places["key"] / leaf).rename(outside)
        (places["key"] / leaf).symlink_to(outside)
        assert store.get("key") is None
        store.sync()
    assert outside.exists()
    assert not places["key"].exists()


def test_an_object_that_is_a_symbolic_link_is_removed_but_not_its_target(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    places = fill(root, {"key": b"value"})
    places["key"].rename(outside)
    places["key"].symlink_to(outside)
    with Storage(config_of(root)) as store:
        assert store.get("key") is None
        assert store.counters()["recovery_garbage"] == 1
    assert (outside / "body.bin").read_bytes() == b"value"
    assert not places["key"].is_symlink()


def test_a_linked_directory_above_objects_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    places = fill(root, {"key": b"value"})
    top = places["key"].parent.parent
    top.rename(outside)
    top.symlink_to(outside)
    with pytest.raises(errors.UnsafePathError):
        Storage(config_of(root))
    assert (outside / places["key"].parent.name / places["key"].name / "body.bin").exists()


# Several at a time


def test_two_writers_of_one_key_leave_one_whole_value(tmp_path: Path) -> None:
    root = tmp_path / "root"
    values = [b"%d" % number * 20_000 for number in range(4)]
    with Storage(config_of(root)) as store:
        wrong: list[object] = []

        def write(value: bytes) -> None:
            for _ in range(40):
                if not store.put("key", value):
                    wrong.append(store.counters()["shed"])
                found = store.get("key")
                if found not in values:
                    wrong.append(found)

        threads = [threading.Thread(target=write, args=(value,)) for value in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        store.sync()
        last = store.get("key")
        (place,) = objects_in(root)
        assert (place / "body.bin").read_bytes() == last
        assert list((root / "tmp").iterdir()) == []
        assert store.check() == []
    with Storage(config_of(root)) as store:
        assert store.get("key") == last


def test_reading_while_others_replace_and_delete_is_never_wrong(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root, flush_interval=0.001)) as store:
        tier = tier_of(store)
        hash16 = tier.hash_of(b"key")
        wrong: list[object] = []
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                found = tier.get(hash16, b"key")
                if found is not None and found[0] != found[0][:1] * len(found[0]):
                    wrong.append(found[0][:20])

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(300):
            assert store.put("key", b"%d" % (number % 10) * (number * 37 % 9000 + 1))
            if number % 5 == 0:
                store.sync()
            if number % 11 == 0:
                store.delete("key")
        is_over.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert store.stats()["errors"]["corruption"]["record"] == 0


# A sick disk


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "no_space"), (errno.EIO, "io_error")])
def test_a_write_that_fails_is_shed_by_its_reason(code: int, reason: str) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="1MiB", disk="64MiB")
    with Storage(config, disk=disk) as store:
        assert store.put("key", b"old")
        # Where space is missing it is tried once more, after others have made room.
        io.fail(disk, "write", code, count=2 if code == errno.ENOSPC else 1)
        assert not store.put("key", b"new")
        assert store.get("key") is None
        assert store.stats()["requests"]["shed"][reason] == 1
        assert store.put("key", b"newer")
        store.sync()
        assert store.get("key") == b"newer"


def test_a_disk_that_keeps_failing_is_read_only_and_comes_back() -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="1MiB", disk="64MiB")
    with Storage(config, disk=disk) as store:
        assert store.put("key", b"value")
        store.sync()
        io.fail(disk, "write", errno.EIO, count=-1)
        for number in range(5):
            assert not store.put(f"key-{number}", b"x")
        assert store.health().status == "failing"
        assert store.stats()["requests"]["shed"]["read_only"] >= 1
        assert store.get("key") == b"value"
        io.heal(disk)
        tier_of(store).state.next_probe_s = 0.0
        assert store.put("again", b"x")
        store.sync()
        assert not store.stats()["disk"]["is_read_only"]


def test_a_sync_that_fails_says_so_and_brings_no_older_value_back() -> None:
    disk = MemoryDisk()
    config = Config(io="memory", layout="files", memory="1MiB", disk="64MiB", flush_interval=3600)
    with Storage(config, disk=disk) as store:
        assert store.put("key", b"old")
        store.sync()
        assert store.put("key", b"new")
        io.fail(disk, "sync", errno.EIO)
        with pytest.raises(errors.DiskIOError):
            store.sync()
        assert store.get("key") in (b"new", None)
        store.sync()
    with Storage(config, disk=disk) as store:
        assert store.get("key") is None


# The tier's own face


def test_meta_is_replaced_and_body_and_expiry_stay(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Storage(config_of(root)) as store:
        assert store.put("key", b"value", ttl=3600)
        tier = tier_of(store)
        before = tier.get(tier.hash_of(b"key"), b"key")
        meta = Meta(created=1, updated=2, tags=("new",)).encode()
        assert store.update_meta("key", Meta.decode(meta))
        assert not store.update_meta("other", Meta.decode(meta))
        after = tier.get(tier.hash_of(b"key"), b"key")
        assert before is not None
        assert after is not None
        assert (after[0], after[1], after[2]) == (b"value", meta, before[2])


def test_a_range_is_read_and_a_body_can_be_sent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    body = os.urandom(9 * MIB + 17)
    with Storage(config_of(root)) as store:
        assert store.put("key", body)
        tier = tier_of(store)
        hash16 = tier.hash_of(b"key")
        for start, length in (
            (0, 10),
            (4 * MIB - 3, 7),
            (9 * MIB, 100),
            (len(body), 5),
            (0, 1 << 40),
        ):
            assert tier.read_range(hash16, b"key", start, length) == body[start : start + length]
        for _ in range(2):
            descriptor = tier.open_body(hash16, b"key", tier.sequence(hash16))
            assert descriptor is not None
            try:
                assert os.pread(descriptor, 100, 5) == body[5:105]
            finally:
                os.close(descriptor)
            store.sync()  # once from tmp, once from its place
        assert tier.open_body(hash16, b"key", 1 << 40) is None
        assert tier.open_body(tier.hash_of(b"other"), b"other", 1) is None


def test_an_object_is_written_in_pieces_in_any_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    body = os.urandom(9 * MIB + 5)
    pieces = [(start, body[start : start + 777_777]) for start in range(0, len(body), 777_777)]
    with Storage(config_of(root)) as store:
        tier = tier_of(store)
        writer = tier.begin(b"key")
        for start, piece in pieces[::2]:
            assert writer.write_at(start, piece)
        holes = writer.missing(0, len(body))
        assert holes[0] == (777_777, 2 * 777_777)
        with pytest.raises(errors.CorruptionError):
            writer.publish(len(body))
        for start, piece in pieces[1::2]:
            assert writer.write_at(start, piece)
        assert writer.present == ((0, len(body)),)
        assert writer.read_at(100, 50) == body[100:150]
        assert store.get("key") is None
        assert writer.publish(len(body))
        assert store.get("key") == body
        with pytest.raises(errors.EntryNotFoundError):
            writer.write_at(0, b"late")
        other = tier.begin(b"other")
        other.write_at(0, b"x")
        other.abort()
        store.sync()
        assert list((root / "tmp").iterdir()) == []
    with Storage(config_of(root)) as store:
        assert store.get("key") == body


def test_a_body_goes_on_in_further_files(tmp_path: Path) -> None:
    from edgecache.files import ObjectWriter

    root = tmp_path / "root"
    body = os.urandom(11 * MIB)
    with Storage(config_of(root)) as store:
        tier = tier_of(store)
        writer = ObjectWriter(tier, b"key", tier.hash_of(b"key"), 0, body_file_bytes=4 * MIB)
        assert writer.write_at(3 * MIB, body[3 * MIB :])
        assert writer.write_at(0, body[: 3 * MIB])
        assert writer.publish(len(body))
        store.sync()
        (place,) = objects_in(root)
        assert {p.name for p in place.iterdir()} == {
            "body.bin", "body.bin.1", "body.bin.2", "body.sums", "meta_internal.bin",
        }  # fmt: skip
        assert store.get("key") == body
        assert (
            tier.read_range(tier.hash_of(b"key"), b"key", 8 * MIB - 9, 30)
            == (body[8 * MIB - 9 : 8 * MIB + 21])
        )
        hash16 = tier.hash_of(b"key")
        assert tier.open_body(hash16, b"key", tier.sequence(hash16)) is None
        store.delete("key")
        store.sync()
        assert not place.exists()


def test_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"io": "auto"}, "layout"),
        ({"disk": 0}, "layout"),
        ({"disk": "1MiB"}, "disk"),
        ({"write_budget": "1GiB"}, "write_budget"),
    ]
    for changes, field in cases:
        with pytest.raises(errors.ConfigError) as caught:
            config_of(None if "io" in changes else tmp_path, **changes)
        assert caught.value.key == field


def test_a_closed_tier_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    store = Storage(config_of(tmp_path / "root"))
    store.put("key", b"value")
    store.close()
    assert threading.active_count() == before


def test_touch_and_soft_purge_over_what_only_ram_has(tmp_path: Path) -> None:
    """An object may be evicted below while RAM keeps it."""
    with Storage(config_of(tmp_path / "root")) as store:
        assert store.put("key", b"value", tags=["tag"])
        tier = tier_of(store)
        with tier.lock(tier.hash_of(b"key")):
            tier.state.forget(tier.hash_of(b"key"))
        assert store.get("key") == b"value"
        assert store.touch("key", 3600)
        assert tier.exists(tier.hash_of(b"key"))
        assert store.purge_tag("tag", soft=True) == 1
        assert store.get("key") is None
