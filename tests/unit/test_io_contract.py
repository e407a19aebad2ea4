"""One contract, three engines: the same operations give the same answers on all of them."""

from __future__ import annotations

import errno
import itertools
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecache import _testing_io as io
from edgecache._io import open_engine

KINDS = ("uring", "threads", "memory")
CREATE = io.OPEN_CREATE | io.OPEN_WRITE
NAMES = (b"a", b"b", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a")


def driver_for(kind: str, root: Path, **options: Any) -> Any:
    root.mkdir(mode=0o700, exist_ok=True)
    return io.Driver(open_engine(kind, None if kind == "memory" else root, **options))


@pytest.fixture(params=KINDS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    found = driver_for(request.param, tmp_path / "root")
    yield found
    found.engine.close()


# ---- the same operations, the same answers ------------------------------------------------------

names = st.sampled_from(NAMES)
slots = st.integers(0, 3)
offsets = st.integers(0, 150_000)
lengths = st.integers(0, 70_000)
transfers = st.one_of(
    st.tuples(st.just("write"), slots, offsets, lengths),
    st.tuples(st.just("read"), slots, offsets, lengths),
    st.tuples(
        st.just("batch"),
        st.lists(
            st.tuples(st.booleans(), slots, st.integers(0, 9), st.integers(1, 4)),
            min_size=1,
            max_size=6,
        ),
    ),
)
changes = st.one_of(
    st.tuples(st.just("open"), names, st.sampled_from([0, 1, 3, 7, 11])),
    st.tuples(st.just("open"), names, st.just(CREATE)),
    st.tuples(st.just("close"), slots),
    st.tuples(st.just("size"), slots),
    st.tuples(st.just("sync"), slots),
    st.tuples(st.just("truncate"), slots, offsets),
    st.tuples(st.just("allocate"), slots, offsets),
    st.tuples(st.just("unlink"), names),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("mkdir"), names),
    st.tuples(st.just("list"), st.sampled_from([b"", b"d", b"d/e", b"a"])),
    st.tuples(st.just("sync_directory"), st.sampled_from([b"", b"d", b"x"])),
)
PRELUDE = [
    ("mkdir", b"d"),
    *(("open", name, CREATE) for name in (b"a", b"b", b"d/a")),
]


def pattern(length: int, salt: int) -> bytes:
    return (bytes((salt * 31 + i * 7) % 251 for i in range(997)) * (length // 997 + 1))[:length]


def batch_run(channel: Any, files: list[int], parts: list[Any]) -> Any:
    """Writes to disjoint blocks, then reads: any order of completion gives one answer."""
    answers = []
    for is_write in (True, False):
        seen = set()
        requests = []
        for wanted_write, slot, block, count in parts:
            file = files[slot % len(files)]
            if wanted_write == is_write and (file, block) not in seen:
                seen.add((file, block))
                body = pattern(1000 * count, block) if is_write else 1000 * count
                requests.append((io.WRITE if is_write else io.READ, file, block * 4096, body))
        tickets = channel.submit(requests)
        assert len(tickets) == len(requests)
        answers.append(sorted((t, r, d) for t, r, d in channel.reap(64, len(tickets), -1)))
        assert channel.in_flight == 0
    return answers


def run(driver: Any, script: list[Any]) -> list[Any]:
    """The answers to a script; a slot number stands for one of the files that are open then."""
    answers: list[Any] = []
    files: list[int] = []
    channel = driver.channel(16)
    calls = {"size": driver.file_size, "sync": driver.sync, "read": driver.read}
    calls |= {"truncate": driver.truncate, "allocate": driver.allocate}
    calls |= {"unlink": driver.unlink, "rename": driver.rename, "mkdir": driver.make_directory}
    calls |= {"list": driver.list_directory, "sync_directory": driver.sync_directory}
    for number, (kind, *rest) in enumerate([*PRELUDE, *script]):
        if kind == "open":
            index = driver.open_file(*rest)
            answers.append(min(index, 0))
            if index >= 0:
                files.append(index)
        elif kind in ("unlink", "rename", "mkdir", "list", "sync_directory"):
            answers.append(calls[kind](*rest))
        elif not files:
            continue
        elif kind == "batch":
            answers.append(batch_run(channel, files, rest[0]))
        elif kind == "close":
            answers.append(driver.close_file(files.pop(rest[0] % len(files))))
        else:
            index = files[rest[0] % len(files)]
            if kind == "write":
                answers.append(driver.write(index, rest[1], pattern(rest[2], number)))
            else:
                answers.append(calls[kind](index, *rest[1:]))
    for name in NAMES:
        index = driver.open_file(name, 0)
        answers.append((name, driver.read(index, 0, 300_000) if index >= 0 else index))
    channel.close()
    return answers


example_numbers = itertools.count()


@settings(
    max_examples=200,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=st.lists(st.one_of(transfers, changes), min_size=5, max_size=30))
def test_any_script_has_one_answer_on_all_engines(script: list[Any], tmp_path: Path) -> None:
    number = next(example_numbers)
    answers = {}
    for kind in KINDS:
        driver = driver_for(kind, tmp_path / f"{kind}{number}")
        answers[kind] = run(driver, script)
        driver.engine.close()
    assert answers["uring"] == answers["threads"]
    assert answers["memory"] == answers["threads"]


# ---- files and names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a/b/c/d/e/f"],
)
def test_names_that_could_leave_the_root_are_refused(driver: Any, name: bytes) -> None:
    assert driver.open_file(name, CREATE) == -errno.EINVAL
    assert driver.unlink(name) == -errno.EINVAL
    assert driver.rename(name, b"x") == -errno.EINVAL
    assert driver.make_directory(name) == -errno.EINVAL
    assert driver.open_file(b"n" * 256, CREATE) == -errno.ENAMETOOLONG
    assert driver.list_directory() == []


def test_a_read_past_the_end_is_short_and_past_all_of_it_empty(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    assert driver.write(file, 0, b"x" * 5000) == 5000
    assert driver.read(file, 4096, 4096) == b"x" * 904
    assert driver.read(file, 5000, 10) == b""
    assert driver.read(file, 1 << 40, 10) == b""
    assert driver.read(file, 1 << 63, 10) == -errno.EINVAL
    assert driver.read(file, 0, 0) == b""


def test_an_unlinked_file_stays_readable_while_it_is_open(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"still here")
    assert driver.unlink(b"f") == 0
    assert driver.read(file, 0, 64) == b"still here"
    assert driver.close_file(file) == 0
    assert driver.open_file(b"f") == -errno.ENOENT


def test_rename_replaces_and_the_open_file_keeps_its_content(driver: Any) -> None:
    old, new = driver.open_file(b"old", CREATE), driver.open_file(b"new", CREATE)
    driver.write(old, 0, b"old")
    driver.write(new, 0, b"new")
    assert driver.rename(b"new", b"old") == 0
    assert driver.list_directory() == [b"old"]
    assert driver.read(old, 0, 9) == b"old"
    assert driver.read(driver.open_file(b"old"), 0, 9) == b"new"


def test_exchange_swaps_two_names_whatever_they_are(driver: Any) -> None:
    for name in (b"d", b"d/inner", b"e"):
        assert driver.make_directory(name) == 0
    driver.close_file(driver.open_file(b"d/inner/f", CREATE))
    driver.close_file(driver.open_file(b"file", CREATE))
    assert driver.exchange(b"d/inner", b"e") == 0
    assert driver.list_directory(b"e") == [b"f"]
    assert driver.list_directory(b"d/inner") == []
    assert driver.exchange(b"file", b"e") == 0
    assert driver.list_directory(b"file") == [b"f"]
    assert driver.open_file(b"e") >= 0
    assert driver.exchange(b"e", b"absent") == -errno.ENOENT
    assert driver.exchange(b"absent", b"e") == -errno.ENOENT
    assert driver.exchange(b"../x", b"e") == -errno.EINVAL
    assert driver.list_directory() == [b"d", b"e", b"file"]


def test_a_linked_file_has_its_content_under_both_names_until_the_last_goes(driver: Any) -> None:
    for name in (b"d", b"e"):
        assert driver.make_directory(name) == 0
    file = driver.open_file(b"d/f", CREATE)
    assert driver.write(file, 0, b"content") == 7
    assert driver.link(b"d/f", b"e/g") == 0
    assert driver.link(b"d/f", b"e/g") == -errno.EEXIST
    assert driver.link(b"d/absent", b"e/h") == -errno.ENOENT
    assert driver.link(b"d", b"h") == -errno.EOPNOTSUPP
    assert driver.link(b"../x", b"h") == -errno.EINVAL
    assert driver.write(file, 0, b"CON") == 3
    assert driver.unlink(b"d/f") == 0
    assert driver.list_directory(b"d") == []
    assert driver.read(driver.open_file(b"e/g"), 0, 9) == b"CONtent"
    assert driver.unlink(b"e/g") == 0
    assert driver.read(file, 0, 9) == b"CONtent"


def test_space_counts_what_is_written_and_not_the_holes(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    assert driver.allocated_bytes(file) == 0
    driver.write(file, 100 << 20, bytes(4096))
    assert driver.sync(file) == 0
    assert 4096 <= driver.allocated_bytes(file) < 1 << 20
    assert driver.file_size(file) == (100 << 20) + 4096
    driver.close_file(file)
    assert driver.allocated_bytes(file) == -errno.EBADF


def test_a_file_opened_for_reading_refuses_writes(driver: Any) -> None:
    driver.close_file(driver.open_file(b"f", CREATE))
    file = driver.open_file(b"f", io.OPEN_READ)
    assert driver.write(file, 0, b"x") == -errno.EBADF
    channel = driver.channel()
    channel.submit([(io.WRITE, file, 0, b"x")])
    assert [r for _, r, _ in channel.reap(1, 1, -1)] == [-errno.EBADF]
    channel.close()


def test_a_closed_index_is_refused_everywhere_and_may_be_used_again(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    assert driver.close_file(file) == 0
    assert driver.close_file(file) == -errno.EBADF
    assert driver.read(file, 0, 1) == -errno.EBADF
    assert driver.write(file, 0, b"x") == -errno.EBADF
    assert driver.sync(file) == -errno.EBADF
    assert driver.file_size(file) == -errno.EBADF
    assert driver.truncate(file, 0) == -errno.EBADF
    assert driver.allocate(file, 1) == -errno.EBADF
    assert driver.close_file(1 << 30) == -errno.EBADF
    assert driver.open_file(b"g", CREATE) == file


def test_many_files_keep_apart(driver: Any) -> None:
    files = [driver.open_file(b"f%d" % i, CREATE) for i in range(600)]
    assert len(set(files)) == 600
    for i, file in enumerate(files):
        assert driver.write(file, 0, b"%d" % i) == len(str(i))
    assert [driver.read(file, 0, 9) for file in files] == [b"%d" % i for i in range(600)]
    assert len(driver.list_directory(b"", 16)) == 600


def test_direct_files_transfer_aligned_blocks(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE | io.OPEN_DIRECT)
    assert driver.allocate(file, 1 << 20) == 0
    assert driver.write(file, 8192, b"d" * 8192) == 8192
    assert driver.read(file, 4096, 16384) == b"\0" * 4096 + b"d" * 8192 + b"\0" * 4096
    assert driver.truncate(file, 10_000) == 0
    assert driver.read(file, 8192, 8192) == b"d" * 1808


# ---- channels -----------------------------------------------------------------------------------


def test_submit_takes_what_there_is_room_for(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel(4)
    assert len(channel.submit([(io.WRITE, file, i, b"x") for i in range(7)])) == 4
    assert channel.submit([(io.READ, file, 0, 1)]) == []
    done = channel.reap(1, 1, -1)
    assert len(done) == 1
    assert len(channel.submit([(io.READ, file, 0, 1)] * 3)) == 1
    assert len(channel.reap(64, 4, -1)) == 4
    channel.close()


def test_reap_never_waits_for_more_than_is_in_flight(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel()
    assert channel.reap(64, 5, -1) == []
    channel.submit([(io.SYNC, file, 0, None)])
    assert len(channel.reap(64, 64, -1)) == 1
    assert channel.reap(64, 1, 0) == []
    channel.close()


def test_requests_on_bad_files_and_bad_operations_complete_with_the_errno(driver: Any) -> None:
    channel = driver.channel()
    assert channel.submit([(io.READ, 7, 0, 10), (9, 0, 0, 0), (io.SYNC, 1 << 31, 0, 0)]) == [
        0,
        1,
        2,
    ]
    found = {ticket: result for ticket, result, _ in channel.reap(8, 3, -1)}
    assert found == {0: -errno.EBADF, 1: -errno.EINVAL, 2: -errno.EBADF}
    channel.close()


def test_close_file_lets_submitted_requests_finish(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"z" * 65536)
    channel = driver.channel(32)
    channel.submit([(io.READ, file, i * 2048, 2048) for i in range(32)])
    assert driver.close_file(file) == 0
    assert driver.read(file, 0, 1) == -errno.EBADF
    other = driver.open_file(b"other", CREATE)
    driver.write(other, 0, b"o" * 65536)
    found = channel.reap(64, 32, -1)
    assert [(r, d) for _, r, d in found] == [(2048, b"z" * 2048)] * 32
    channel.close()


def test_every_ticket_comes_back_exactly_once_from_many_threads(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, bytes(range(256)) * 256)
    problems: list[Any] = []
    taken: list[int] = []

    def work(number: int) -> None:
        channel = driver.channel(8)
        pending: dict[int, int] = {}
        for step in range(120):
            offset = (number * 7919 + step * 104_729) % 60_000
            for ticket in channel.submit([(io.READ, file, offset, 100)] * (step % 5)):
                pending[ticket] = offset
                taken.append(ticket)
            for ticket, result, data in channel.reap(3, step % 2, -1):
                at = pending.pop(ticket)
                expected = bytes((at + i) % 256 for i in range(100))
                if result != 100 or data != expected:
                    problems.append((ticket, result))
        while pending:
            for ticket, _, _ in channel.reap(8, 1, -1):
                pending.pop(ticket)
        channel.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    stats = driver.engine.stats()
    assert stats["submitted"] == stats["completed"] == len(taken) > 400
    assert stats["in_flight"] == 0


def readable(fd: int, timeout: float) -> bool:
    return select.select([fd], [], [], timeout)[0] == [fd]


def test_the_event_descriptor_is_readable_exactly_while_completions_wait(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE | io.OPEN_DIRECT)
    driver.write(file, 0, b"e" * 65536)
    channel = driver.channel(16, True)
    assert driver.channel(4).event_fd == -1
    assert not readable(channel.event_fd, 0)
    for _ in range(5):
        channel.submit([(io.READ, file, i * 4096, 4096) for i in range(8)])
        left = 8
        while left:
            assert readable(channel.event_fd, 10)
            found = channel.reap(3, 0, 0)
            assert all(r == 4096 for _, r, _ in found)
            left -= len(found)
        assert not readable(channel.event_fd, 0)
    channel.submit([(io.READ, 999, 0, 1)])
    assert readable(channel.event_fd, 10)
    assert channel.reap()[0][1] == -errno.EBADF
    channel.close()


def test_a_channel_serves_the_thread_that_first_submits_and_any_may_close_it(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE | io.OPEN_DIRECT)
    driver.write(file, 0, b"t" * 65536)
    channel = driver.channel(16)
    ready, leave = threading.Event(), threading.Event()
    found: list[Any] = []

    def owner() -> None:
        channel.submit([(io.READ, file, 0, 4096)] * 3)
        found.extend(channel.reap(8, 3, -1))
        channel.submit([(io.WRITE, file, i * 4096, b"u" * 4096) for i in range(16)])
        ready.set()
        leave.wait()

    thread = threading.Thread(target=owner)
    thread.start()
    ready.wait()
    channel.close()
    leave.set()
    thread.join()
    assert [(r, d) for _, r, d in found] == [(4096, b"t" * 4096)] * 3
    assert driver.read(file, 0, 65536) == b"u" * 65536


def test_closing_the_engine_closes_channels_with_requests_in_flight(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    channels = [driver.channel(16) for _ in range(3)]
    for channel in channels:
        channel.submit([(io.WRITE, file, i * 4096, b"q" * 4096) for i in range(16)])
    for channel in channels:
        channel.close()
    driver.engine.close()
    driver.engine.close()
    assert driver.open_file(b"f") < 0
    assert driver.read(file, 0, 1) == -errno.EBADF


def test_a_child_process_is_refused_and_the_parent_goes_on(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    driver.write(file, 0, b"parent")
    channel = driver.channel(8, True)
    channel.submit([(io.READ, file, 0, 6)])
    child = os.fork()
    if child == 0:
        try:
            refused = [
                driver.open_file(b"g", CREATE),
                driver.read(file, 0, 1),
                channel.submit([(io.READ, file, 0, 6)]),
                channel.reap(),
                driver.unlink(b"f"),
                driver.list_directory(),
                driver.close_file(file),
            ]
            channel.close()
            driver.engine.close()
            os._exit(0 if refused == [-errno.ECHILD] * 7 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert channel.reap(8, 1, -1) == [(0, 6, b"parent")]
    assert driver.read(file, 0, 6) == b"parent"
    channel.close()


def test_statistics_add_up(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel()
    channel.submit([(io.WRITE, file, i * 100, b"s" * 100) for i in range(5)])
    channel.reap(8, 5, -1)
    channel.submit([(io.READ, file, 0, 500), (io.READ, 55, 0, 5), (io.SYNC, file, 0, 0)])
    channel.reap(8, 3, -1)
    driver.read(file, 0, 100)
    stats = driver.engine.stats()
    assert (stats["read"]["finished"], stats["read"]["failed"]) == (3, 1)
    assert (stats["read"]["bytes"], stats["write"]["bytes"]) == (600, 500)
    assert (stats["write"]["finished"], stats["sync"]["finished"]) == (5, 1)
    assert stats["errors"] == {"EBADF": 1}
    for operation in ("read", "write", "sync"):
        assert sum(stats[operation]["latency_us_log2"]) == stats[operation]["finished"]
    assert (stats["submitted"], stats["completed"], stats["in_flight"]) == (8, 8, 0)
    channel.close()


def switches(but: set[str]) -> dict[str, int]:
    """Voluntary context switches of the threads of this process that are not in `but`."""
    found = {}
    for task in set(os.listdir("/proc/self/task")) - but:
        for line in Path(f"/proc/self/task/{task}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                found[task] = int(line.split()[1])
    return found


def test_an_idle_engine_does_not_wake(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    others = set(os.listdir("/proc/self/task"))
    channel = driver.channel(16, True)
    channel.submit([(io.WRITE, file, i, b"x") for i in range(16)])
    while channel.in_flight:
        channel.reap(16, channel.in_flight, -1)
    assert not readable(channel.event_fd, 0.05)
    before = switches(others)
    assert len(before) >= (driver.engine.name == "threads")
    assert not readable(channel.event_fd, 0.3)
    assert switches(others) == before
    channel.close()


def test_closing_the_engine_closes_a_channel_that_was_left_open(driver: Any) -> None:
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel(16)
    channel.submit([(io.WRITE, file, i * 4096, b"q" * 4096) for i in range(16)])
    driver.engine.close()
    stats = driver.engine.stats()
    assert (stats["submitted"], stats["completed"]) == (16, 16)
    del channel


# ---- continuation -------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.integers(1, 40), st.sampled_from([-errno.EINTR, -errno.EAGAIN]))),
    st.integers(1, 400),
    st.sampled_from([io.READ, io.WRITE]),
)
@settings(print_blob=True)
def test_a_transfer_goes_on_exactly_until_all_is_moved(
    outcomes: list[int], length: int, operation: int
) -> None:
    done, result, moved, used = io.advance(operation, length, 1, [*outcomes])
    total = 0
    for count, outcome in enumerate(outcomes, 1):
        total += max(outcome, 0)
        if total >= length:
            # The device never moves more than was left, so the surplus of the last step is ours.
            assert (done, used) == (True, count)
            assert result >= length
            return
    assert not done
    assert (moved, used) == (total, len(outcomes))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EINVAL, errno.EROFS])
def test_an_error_ends_a_transfer_also_after_progress(code: int) -> None:
    assert io.advance(io.WRITE, 100, 1, [40, -code])[:2] == (True, -code)
    assert io.advance(io.READ, 100, 1, [-code])[:2] == (True, -code)
    assert io.advance(io.SYNC, 0, 1, [-errno.EINTR, -code])[:2] == (True, -code)


def test_storms_end_in_an_error_unless_there_is_progress() -> None:
    again = [-errno.EAGAIN] * 200
    assert io.advance(io.READ, 10, 1, [*again, 5, *again, 5])[:2] == (True, 10)
    assert io.advance(io.READ, 10, 1, again * 2)[:2] == (True, -errno.EAGAIN)
    assert io.advance(io.SYNC, 0, 1, [*again, 0])[:2] == (True, 0)
    assert io.advance(io.WRITE, 10, 1, [0] * 300)[:2] == (True, -errno.EIO)


def test_a_direct_read_ends_at_the_end_of_the_file_and_a_direct_write_at_a_block() -> None:
    assert io.advance(io.READ, 8192, 4096, [1000])[:2] == (True, 1000)
    assert io.advance(io.READ, 8192, 4096, [4608, -errno.EINVAL])[:2] == (True, 4608)
    assert io.advance(io.READ, 8192, 4096, [4096, 0])[:2] == (True, 4096)
    assert io.advance(io.READ, 8192, 4096, [-errno.EINVAL])[:2] == (True, -errno.EINVAL)
    assert io.advance(io.WRITE, 8192, 4096, [5000])[2] == 4608
    assert io.advance(io.WRITE, 8192, 4096, [5000, -errno.EINVAL])[2] == 4096
    assert io.advance(io.WRITE, 8192, 4096, [5000, -errno.EINVAL, 4096])[:2] == (True, 8192)
    assert io.advance(io.WRITE, 8192, 4096, [4096, -errno.EINVAL])[:2] == (True, -errno.EINVAL)


def test_latencies_fall_into_powers_of_two() -> None:
    values = [0, 1, 2, 3, 4, 5, 1 << 22, (1 << 22) + 1, 1 << 40]
    assert [io.latency_bucket(v) for v in values] == [0, 0, 1, 2, 2, 3, 22, 23, 23]
