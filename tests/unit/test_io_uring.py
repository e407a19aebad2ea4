"""The io_uring engine: ownership of rings, registered memory and files, and rings that break."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecache import _testing_io as io
from edgecache._io import open_engine

CREATE = io.OPEN_CREATE | io.OPEN_WRITE


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    found = io.Driver(open_engine("uring", tmp_path))
    yield found
    found.engine.close()


def direct_file(driver: Any, name: bytes = b"f", blocks: int = 64) -> int:
    file: int = driver.open_file(name, CREATE | io.OPEN_DIRECT)
    body = b"".join(bytes([i + 1]) * 4096 for i in range(blocks))
    assert driver.write(file, 0, body) == len(body)
    return file


def drain(channel: Any) -> list[Any]:
    return list(channel.reap(4096, channel.in_flight, -1))


def test_the_engine_says_what_it_uses(driver: Any) -> None:
    stats = driver.engine.stats()
    assert (stats["engine"], stats["fallback_reason"]) == ("uring", "")
    assert "liburing" in stats["liburing"]
    assert stats["rings"] == 0
    channel = driver.channel()
    assert driver.engine.stats()["rings"] == 1
    channel.close()
    assert driver.engine.stats()["rings"] == 0


def test_registered_memory_is_used_and_reads_the_same_bytes(driver: Any) -> None:
    file = direct_file(driver)
    plain = driver.channel(16)
    assert driver.register(1 << 20) == 0
    assert driver.register(1 << 20) == -errno.EBUSY
    fixed = driver.channel(16)
    batch = [(io.READ, file, i * 4096, 4096) for i in range(16)]
    for channel in (plain, fixed):
        channel.submit(batch, True)
        found = {ticket: data for ticket, _, data in drain(channel)}
        assert found == {i: bytes([i + 1]) * 4096 for i in range(16)}
    # Opened before the registration, the first channel goes without.
    assert driver.engine.stats()["fixed_transfers"] == 16
    fixed.submit([(io.WRITE, file, 0, b"w" * 4096)], True)
    assert drain(fixed)[0][1] == 4096
    assert driver.read(file, 0, 4096) == b"w" * 4096
    assert driver.engine.stats()["fixed_transfers"] == 17
    plain.close()
    fixed.close()


def test_memory_outside_the_registered_region_is_transferred_plainly(driver: Any) -> None:
    file = direct_file(driver)
    assert driver.register(65536) == 0
    channel = driver.channel(8)
    channel.submit([(io.READ, file, 0, 4096)])
    assert drain(channel)[0][2] == b"\1" * 4096
    assert driver.engine.stats()["fixed_transfers"] == 0
    channel.close()


def test_a_registered_file_is_never_mistaken_for_a_later_one_of_its_index(driver: Any) -> None:
    channel = driver.channel(32)
    for generation in range(4):
        name = b"g%d" % generation
        file = driver.open_file(name, CREATE)
        assert file == 0
        driver.write(file, 0, name)
        for _ in range(3):  # more uses than it takes to register the file
            channel.submit([(io.READ, file, 0, 16)] * 20)
            assert {data for _, _, data in drain(channel)} == {name}
        driver.close_file(file)
    channel.close()


def test_the_space_of_a_closed_registered_file_is_freed_at_the_next_submit(
    driver: Any, tmp_path: Path
) -> None:
    file = driver.open_file(b"f", CREATE)
    other = driver.open_file(b"other", CREATE)
    channel = driver.channel(32)
    channel.submit([(io.WRITE, file, i * 4096, b"x" * 4096) for i in range(32)])
    drain(channel)
    # The lock belongs to the open file, so it shows whether anything still holds that.
    descriptor = next(
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{fd}") == str(tmp_path / "f")
    )
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
    driver.close_file(file)
    channel.submit([(io.READ, other, 0, 1)])
    drain(channel)
    with open(tmp_path / "f", "rb") as again:
        for _ in range(100_000):
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the kernel frees replaced slots a little later
                channel.submit([(io.READ, other, 0, 1)])
                drain(channel)
        else:
            pytest.fail("the ring still holds the closed file")
    channel.close()


@pytest.mark.parametrize("code", [errno.EBADF, errno.EEXIST, errno.ENXIO])
def test_a_ring_that_cannot_be_entered_any_more_fails_its_requests_once(
    driver: Any, code: int
) -> None:
    file = direct_file(driver)
    channel, spare = driver.channel(16, True), driver.channel(16)
    tickets = channel.submit([(io.READ, file, i * 4096, 4096) for i in range(8)])
    io.refuse_enter(driver.engine, code)
    assert channel.submit([(io.READ, file, 0, 4096)]) == -code
    found = channel.reap(64, 8, -1)
    assert sorted(ticket for ticket, _, _ in found) == tickets
    for ticket, result, data in found:
        if result == 4096:
            assert data == bytes([ticket + 1]) * 4096
        else:
            assert result == -code
    assert channel.in_flight == 0
    assert channel.reap(64, 1, -1) == -code
    assert channel.submit([(io.READ, file, 0, 4096)]) == -code
    io.refuse_enter(driver.engine, 0)
    assert channel.submit([(io.READ, file, 0, 4096)]) == -code
    spare.submit([(io.READ, file, 0, 4096)])
    assert drain(spare)[0][2] == b"\1" * 4096
    stats = driver.engine.stats()
    assert (stats["rings_broken"], stats["in_flight"]) == (1, 0)
    channel.close()
    spare.close()


def test_a_ring_that_breaks_while_waited_for_wakes_the_waiter(driver: Any) -> None:
    file = direct_file(driver)
    channel = driver.channel(16)
    channel.submit([(io.READ, file, 0, 4096)] * 4)
    io.refuse_enter(driver.engine, errno.EBADF)
    found = channel.reap(64, 4, -1)
    assert len(found) == 4
    assert all(result in (4096, -errno.EBADF) for _, result, _ in found)
    channel.close()


def test_another_thread_may_not_use_a_ring_but_nothing_is_lost(driver: Any) -> None:
    file = direct_file(driver)
    channel = driver.channel(8)
    assert len(channel.submit([(io.READ, file, 0, 4096)] * 4)) == 4
    answers: list[Any] = []

    def intruder() -> None:
        answers.append(channel.submit([(io.READ, file, 0, 4096)]))

    thread = threading.Thread(target=intruder)
    thread.start()
    thread.join()
    if "single_issuer" in driver.engine.stats()["ring_features"]:
        assert answers[0] < 0
    assert len(drain(channel)) >= 4
    assert channel.in_flight == 0
    channel.close()


def test_a_forked_child_does_not_keep_the_parents_ring_alive(driver: Any) -> None:
    """Closing a ring from a thread that does not own it waits for the kernel to drop the ring."""
    file = direct_file(driver)
    channel = driver.channel(16)
    ready, leave = threading.Event(), threading.Event()

    def owner() -> None:
        channel.submit([(io.READ, file, i * 4096, 4096) for i in range(16)])
        ready.set()
        leave.wait()

    thread = threading.Thread(target=owner)
    thread.start()
    ready.wait()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # lives until the parent is through
        os._exit(0)
    channel.close()
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    thread.join()
    os.close(reader)


@pytest.mark.parametrize("option", ["sqpoll", "iopoll"])
def test_kernel_polling_is_opt_in_and_gives_the_same_answers(tmp_path: Path, option: str) -> None:
    driver = io.Driver(open_engine("uring", tmp_path, **{option: True}))
    assert option in driver.engine.stats()["ring_features"]
    file = direct_file(driver)
    for wants_event in (False, True):
        channel = driver.channel(16, wants_event)
        tickets = channel.submit([(io.READ, file, i * 4096, 4096) for i in range(16)])
        found = {ticket: data for ticket, _, data in drain(channel)}
        assert found == {t: bytes([i + 1]) * 4096 for i, t in enumerate(tickets)}
        channel.submit([(io.SYNC, file, 0, 0), (io.WRITE, file, 0, b"\1" * 4096)])
        assert sorted(result for _, result, _ in drain(channel)) == [0, 4096]
        channel.close()
    driver.engine.close()


def test_polling_is_off_by_default(driver: Any) -> None:
    assert not {"sqpoll", "iopoll"} & set(driver.engine.stats()["ring_features"])


def test_a_lock_on_the_root_lasts_until_the_last_ring_is_gone(tmp_path: Path) -> None:
    """Whoever took it: this is what keeps the root of a killed process locked while the kernel
    still has requests of its rings."""
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    driver = io.Driver(open_engine("uring", tmp_path, lock_fd=held))
    channel = driver.channel(4)
    os.close(held)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    channel.close()
    fcntl.flock(other, fcntl.LOCK_EX)  # the kernel takes a ring apart in its own time
    os.close(other)
    driver.engine.close()
