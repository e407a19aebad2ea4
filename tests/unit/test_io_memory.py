"""The memory engine: injected faults, held completions and what a power loss leaves."""

from __future__ import annotations

import errno
import itertools
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache import _testing_io as io
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk

CREATE = io.OPEN_CREATE | io.OPEN_WRITE


def reopen(disk: MemoryDisk) -> Any:
    return io.Driver(open_engine("memory", disk=disk))


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def driver(disk: MemoryDisk) -> Iterator[Any]:
    found = reopen(disk)
    yield found
    found.engine.close()


def content(driver: Any, name: bytes) -> Any:
    file = driver.open_file(name)
    if file < 0:
        return file
    found = driver.read(file, 0, 1 << 20)
    driver.close_file(file)
    return found


# ---- faults -------------------------------------------------------------------------------------


def test_the_nth_operation_of_a_kind_fails_and_only_that(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    io.fail(disk, "write", errno.EIO, nth=3)
    assert [driver.write(file, 0, b"abc") for _ in range(5)] == [3, 3, -errno.EIO, 3, 3]
    assert driver.read(file, 0, 3) == b"abc"
    assert driver.engine.stats()["errors"] == {"EIO": 1}


def test_a_persistent_fault_lasts_until_it_is_healed(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    io.fail(disk, "read", errno.EIO, count=-1)
    assert [driver.read(file, 0, 1) for _ in range(4)] == [-errno.EIO] * 4
    io.heal(disk)
    assert driver.read(file, 0, 1) == b""


@pytest.mark.parametrize(
    ("point", "call"),
    [
        ("open", lambda d: d.open_file(b"g", CREATE)),
        ("size", lambda d: d.file_size(0)),
        ("allocate", lambda d: d.allocate(0, 4096)),
        ("truncate", lambda d: d.truncate(0, 0)),
        ("unlink", lambda d: d.unlink(b"f")),
        ("rename", lambda d: d.rename(b"f", b"g")),
        ("make_directory", lambda d: d.make_directory(b"d")),
        ("sync_directory", lambda d: d.sync_directory()),
        ("list", lambda d: d.list_directory()),
        ("sync", lambda d: d.sync(0)),
    ],
)
def test_every_call_can_fail_without_effect(
    disk: MemoryDisk, driver: Any, point: str, call: Any
) -> None:
    assert driver.open_file(b"f", CREATE) == 0
    driver.write(0, 0, b"kept")
    io.fail(disk, point, errno.EROFS)
    assert call(driver) == -errno.EROFS
    assert driver.list_directory() == [b"f"]
    assert driver.read(0, 0, 9) == b"kept"
    result = call(driver)
    assert result == [b"f"] or result >= 0


@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.integers(0, 2**63), st.integers(1, 3), st.booleans(), st.integers(0, 40))
def test_short_transfers_and_interruptions_are_never_seen(
    seed: int, one_in: int, direct: bool, storm: int
) -> None:
    disk = MemoryDisk()
    driver = reopen(disk)
    file = driver.open_file(b"f", CREATE | (io.OPEN_DIRECT if direct else 0))
    body = bytes((seed >> (i % 56)) % 256 for i in range(65536))
    io.disturb(disk, seed=seed, short_one_in=one_in)
    for point, code in itertools.product(("read", "write", "sync"), (errno.EINTR, errno.EAGAIN)):
        io.fail(disk, point, code, nth=2, count=storm)
    assert driver.write(file, 0, body) == 65536
    assert driver.sync(file) == 0
    assert driver.read(file, 0, 65536) == body
    channel = driver.channel()
    channel.submit([(io.WRITE, file, 65536, body), (io.SYNC, file, 0, 0)])
    assert [r for _, r, _ in channel.reap(8, 2, -1)] == [65536, 0]
    channel.submit([(io.READ, file, 0, 131072)])
    assert channel.reap(8, 1, -1)[0][2] == body * 2
    channel.close()
    if one_in == 1:
        assert driver.engine.stats()["short_transfers_continued"] > 0
    driver.engine.close()


def test_a_full_disk_is_enospc_and_freed_space_can_be_used(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"x" * 8192)
    io.disturb(disk, space_left_bytes=8192)
    assert driver.write(file, 8192, b"y" * 20_000) == -errno.ENOSPC
    assert driver.write(file, 0, b"z" * 8192) == 8192
    other = driver.open_file(b"g", CREATE)
    assert driver.write(other, 0, b"o") == -errno.ENOSPC
    assert driver.allocate(other, 4096) == -errno.ENOSPC
    driver.close_file(file)
    assert driver.unlink(b"f") == 0
    assert disk.used_bytes == 0
    assert driver.allocate(other, 16384) == 0
    assert driver.write(other, 12288, b"w" * 4096) == 4096
    assert driver.write(other, 16384, b"w") == -errno.ENOSPC
    assert driver.truncate(other, 100) == 0
    assert disk.used_bytes == 4096


# ---- completions --------------------------------------------------------------------------------


def test_completions_come_in_another_order_and_each_once(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    io.disturb(disk, seed=5, shuffle=True)
    channel = driver.channel(64)
    tickets = channel.submit([(io.WRITE, file, i, b"%d" % (i % 10)) for i in range(50)])
    found = [ticket for ticket, _, _ in channel.reap(64, 50, -1)]
    assert found != tickets
    assert sorted(found) == tickets
    assert driver.read(file, 0, 64) == b"0123456789" * 5
    channel.close()


def test_a_late_completion_needs_more_reaps(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    io.disturb(disk, delay_reaps=3)
    channel = driver.channel(4)
    channel.submit([(io.WRITE, file, 0, b"x")])
    assert [len(channel.reap(4, 0, 0)) for _ in range(3)] == [0, 0, 1]
    channel.submit([(io.WRITE, file, 0, b"y")])
    assert len(channel.reap(4, 1, -1)) == 1
    channel.close()


def test_a_held_request_waits_for_its_release_and_reads_its_buffer_then(
    disk: MemoryDisk, driver: Any
) -> None:
    file = driver.open_file(b"f", CREATE)
    io.hold(disk, "write")
    channel = driver.channel(8, True)
    first, second = channel.submit([(io.WRITE, file, 0, b"1"), (io.WRITE, file, 1, b"2")])
    assert channel.reap(8, 1, 0) == []
    assert channel.reap(8, 2, 1_000_000) == []
    assert select.select([channel.event_fd], [], [], 0)[0] == []
    assert driver.read(file, 0, 9) == b""
    io.release(disk, 1)
    assert select.select([channel.event_fd], [], [], 0)[0] == [channel.event_fd]
    assert channel.reap(8, 1, -1) == [(first, 1, None)]
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.extend(channel.reap(8, 1, -1)))
    waiter.start()
    io.release(disk)
    waiter.join()
    assert found == [(second, 1, None)]
    assert driver.read(file, 0, 9) == b"12"
    channel.submit([(io.WRITE, file, 2, b"3")])
    channel.close()
    assert driver.read(file, 0, 9) == b"123"


def test_a_file_closed_with_a_held_request_still_takes_it(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    io.hold(disk, "write")
    channel = driver.channel(8)
    channel.submit([(io.WRITE, file, 0, b"late")])
    assert driver.close_file(file) == 0
    assert driver.open_file(b"g", CREATE) != file
    io.release(disk)
    assert channel.reap(8, 1, -1)[0][1] == 4
    assert content(driver, b"f") == b"late"
    channel.close()


# ---- power loss ---------------------------------------------------------------------------------


def test_only_what_was_synced_survives_in_drop_mode(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"a" * 1000)
    assert driver.sync(file) == 0
    assert driver.sync_directory() == 0
    driver.write(file, 500, b"b" * 1000)
    driver.open_file(b"g", CREATE)
    driver.make_directory(b"d")
    io.power_cut(disk, mode="drop")
    assert driver.read(file, 0, 1) == -errno.EIO
    assert driver.open_file(b"f") == -errno.EIO
    after = reopen(disk)
    assert after.list_directory() == [b"f"]
    assert content(after, b"f") == b"a" * 1000


def test_a_synced_file_without_a_synced_name_is_lost(disk: MemoryDisk, driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"a")
    driver.sync(file)
    io.power_cut(disk, mode="drop")
    assert reopen(disk).list_directory() == []
    driver.engine.close()
    assert disk.used_bytes == 0


def test_everything_survives_in_keep_mode(disk: MemoryDisk, driver: Any) -> None:
    driver.make_directory(b"d")
    file = driver.open_file(b"d/f", CREATE)
    driver.write(file, 0, b"a" * 100_000)
    driver.rename(b"d/f", b"g")
    io.power_cut(disk, mode="keep")
    after = reopen(disk)
    assert after.list_directory() == [b"d", b"g"]
    assert content(after, b"g") == b"a" * 100_000


def test_unsynced_sectors_survive_or_not_one_by_one_and_the_synced_all(disk: MemoryDisk) -> None:
    seen = set()
    for seed in range(40):
        disk = MemoryDisk()
        driver = reopen(disk)
        file = driver.open_file(b"f", CREATE)
        driver.write(file, 0, b"0" * 4096)
        driver.sync(file)
        driver.sync_directory()
        driver.write(file, 0, b"1" * 2048)
        driver.write(file, 1024, b"2" * 1024)
        io.power_cut(disk, seed=seed)
        found = content(reopen(disk), b"f")
        assert len(found) == 4096
        assert found[2048:] == b"0" * 2048
        for start in range(0, 2048, 512):
            assert len(set(found[start : start + 512])) == 1
        sectors = bytes(found[start] for start in range(0, 2048, 512)).decode()
        assert set(sectors[:2]) <= {"0", "1"}
        assert set(sectors[2:]) <= {"0", "1", "2"}
        seen.add(sectors)
    assert len(seen) > 10
    assert {s[3] for s in seen} == {"0", "1", "2"}


def test_one_seed_has_one_outcome() -> None:
    def outcome(seed: int) -> Any:
        disk = MemoryDisk()
        driver = reopen(disk)
        for i in range(20):
            driver.write(driver.open_file(b"f%d" % i, CREATE), 0, bytes([65 + i]) * 3000)
        io.power_cut(disk, seed=seed)
        after = reopen(disk)
        return [(name, content(after, name)) for name in after.list_directory()]

    assert outcome(3) == outcome(3)
    assert outcome(3) != outcome(4)


def test_a_failed_sync_loses_what_it_was_to_write_even_if_a_later_one_succeeds(
    disk: MemoryDisk, driver: Any
) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"old " * 256)
    driver.sync(file)
    driver.sync_directory()
    driver.write(file, 0, b"lost" * 128)
    io.fail(disk, "sync", errno.EIO)
    assert driver.sync(file) == -errno.EIO
    assert driver.sync(file) == 0
    assert driver.read(file, 0, 4) == b"lost"
    driver.write(file, 512, b"new " * 128)
    assert driver.sync(file) == 0
    io.power_cut(disk, mode="keep")
    assert content(reopen(disk), b"f") == b"old " * 128 + b"new " * 128


def test_a_rename_is_whole_or_not_at_all(disk: MemoryDisk) -> None:
    seen = set()
    for seed in range(40):
        disk = MemoryDisk()
        driver = reopen(disk)
        for name in (b"f", b"t"):
            file = driver.open_file(name, CREATE)
            driver.write(file, 0, name)
            driver.sync(file)
        driver.sync_directory()
        driver.rename(b"t", b"f")
        io.power_cut(disk, seed=seed)
        after = reopen(disk)
        seen.add(tuple((n, content(after, n)) for n in after.list_directory()))
    assert seen == {((b"f", b"f"), (b"t", b"t")), ((b"f", b"t"),)}


def test_a_synced_directory_survives_with_all_it_builds_on(disk: MemoryDisk, driver: Any) -> None:
    driver.make_directory(b"d")
    driver.make_directory(b"e")
    driver.sync_directory()
    file = driver.open_file(b"d/t", CREATE)
    driver.write(file, 0, b"body")
    driver.sync(file)
    driver.rename(b"d/t", b"e/f")
    driver.open_file(b"d/later", CREATE)
    assert driver.sync_directory(b"e") == 0
    io.power_cut(disk, mode="drop")
    after = reopen(disk)
    assert content(after, b"e/f") == b"body"
    assert after.list_directory(b"d") == []


def test_writes_in_flight_may_or_may_not_reach_the_medium_and_fail(disk: MemoryDisk) -> None:
    seen = set()
    for seed in range(20):
        disk = MemoryDisk()
        driver = reopen(disk)
        file = driver.open_file(b"f", CREATE)
        driver.write(file, 0, b"-" * 1024)
        driver.sync(file)
        driver.sync_directory()
        io.hold(disk, "write")
        channel = driver.channel(4)
        channel.submit([(io.WRITE, file, 0, b"+" * 1024)])
        io.power_cut(disk, seed=seed)
        assert channel.reap(4, 1, -1)[0][1] == -errno.EIO
        assert channel.submit([(io.READ, file, 0, 1)]) == -errno.EIO
        channel.close()
        driver.engine.close()
        found = content(reopen(disk), b"f")
        seen.add((found[:1] + found[512:513]).decode())
    assert seen == {"--", "-+", "+-", "++"}


model_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 7), st.integers(1, 255)),
        st.tuples(st.just("sync"), st.integers(0, 2)),
        st.tuples(st.just("truncate"), st.integers(0, 2), st.integers(0, 8)),
        st.tuples(st.just("sync_failing"), st.integers(0, 2)),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None, print_blob=True)
@given(model_steps, st.integers(0, 2**32), st.sampled_from(["drop", "random", "keep"]))
def test_each_sector_after_a_power_loss_is_a_version_that_was_allowed(
    steps: list[Any], seed: int, mode: str
) -> None:
    """Model: per sector the set of values that the medium may hold."""
    disk = MemoryDisk()
    driver = reopen(disk)
    files = [driver.open_file(b"%d" % i, CREATE) for i in range(3)]
    driver.sync_directory()
    for file in files:
        driver.allocate(file, 8 * 512)
        driver.sync(file)
    live = [[0] * 8 for _ in files]
    allowed = [[{0} for _ in range(8)] for _ in files]
    lost = [[False] * 8 for _ in files]
    for step in steps:
        kind, which = step[0], step[1]
        if kind == "write":
            driver.write(files[which], step[2] * 512, bytes([step[3]]) * 512)
            live[which][step[2]] = step[3]
            allowed[which][step[2]].add(step[3])
            lost[which][step[2]] = False
        elif kind == "truncate":
            driver.truncate(files[which], step[2] * 512)
            driver.truncate(files[which], 8 * 512)
            for sector in range(step[2], 8):
                live[which][sector] = 0
                allowed[which][sector].add(0)
        elif kind == "sync":
            driver.sync(files[which])
            for sector in range(8):
                if not lost[which][sector]:
                    allowed[which][sector] = {live[which][sector]}
        else:
            io.fail(disk, "sync", errno.EIO)
            assert driver.sync(files[which]) == -errno.EIO
            io.heal(disk)
            for sector in range(8):
                lost[which][sector] = lost[which][sector] or len(allowed[which][sector]) > 1
    for which, file in enumerate(files):
        expected = b"".join(bytes([value]) * 512 for value in live[which])
        assert driver.read(file, 0, 4096) == expected
    io.power_cut(disk, seed=seed, mode=mode)
    after = reopen(disk)
    for which in range(3):
        found = content(after, b"%d" % which).ljust(4096, b"\0")
        for sector in range(8):
            values = set(found[sector * 512 : sector * 512 + 512])
            assert len(values) == 1
            assert values <= allowed[which][sector]


def test_a_disk_is_freed_with_everything_open(disk: MemoryDisk) -> None:
    driver = reopen(disk)
    driver.make_directory(b"d")
    driver.write(driver.open_file(b"d/f", CREATE), 0, b"x" * 100_000)
    io.power_cut(disk, mode="drop")
    after = reopen(disk)
    after.write(after.open_file(b"g", CREATE), 0, b"x")
    channel = after.channel()
    assert disk.used_bytes == 4096
    del channel, driver
    assert disk.used_bytes == 4096
    after.unlink(b"g")
    del after
    assert disk.used_bytes == 0
