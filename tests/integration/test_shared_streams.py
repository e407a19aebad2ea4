"""Writes in progress that readers of other processes follow: chunk by chunk, to whatever end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.stepping import CannotTraceError, begin_steps, end_steps, run_and_kill

from edgecache import AsyncStorage, Config, Meta, Storage, errors
from edgecache.objects import remote
from edgecache.proxy.content import FollowContent

MIB = 1024 * 1024
DEADLINE_S = 30.0
CHUNK = 64 * 1024
FIRST = bytes(range(256)) * (CHUNK // 256)
SECOND = FIRST[::-1]
STEPS_MAX = 4_000_000
DEATHS = 8


def config_of(root: Path, **changes: Any) -> Config:
    options: dict[str, Any] = {
        "shared": True, "memory": 8 * MIB, "disk": 64 * MIB, "region_size": MIB, "shards": 1,
        "flush_size": 64 * 1024, "flush_interval": 0.005, "chunk_size": CHUNK,
    }  # fmt: skip
    return Config(root=str(root), **{**options, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Iterator[Storage]:
    with Storage(config_of(root)) as opened:
        yield opened
        assert opened.check() == []


@pytest.fixture
def other(root: Path) -> Iterator[Storage]:
    """Another store of this process: another slot, and nothing else in common."""
    with Storage(config_of(root)) as opened:
        yield opened


class Writer:
    """A process that writes an object as it is told.

    Args:
        root: Of the cache.
        key: Of the object.
        store: Opened before the fork; None: the process opens one.
    """

    def __init__(self, root: Path, key: str = "key", store: Storage | None = None) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._is_over = False
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.close(self._orders)
                self._write(root, key, store, orders, answers)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(orders)
        os.close(answers)
        self.tag = os.read(self._answers, 8)

    @staticmethod
    def _write(root: Path, key: str, store: Storage | None, orders: int, answers: int) -> None:
        store = Storage(config_of(root)) if store is None else store
        miss = store.get_miss_handler(key, Meta(created=1, updated=1, status=200))
        os.write(answers, miss.streaming_write_tag)
        while order := os.read(orders, 1):
            if order == b"1":
                miss.write(FIRST)
            elif order == b"2":
                miss.write(SECOND)
            elif order == b"s":
                miss.write(b"short")
            elif order == b"f":
                miss.finish()
            elif order == b"a":
                miss.abort()
            os.write(answers, b"x")
        store.close()

    def do(self, order: str) -> None:
        """Write "1"st or "2"nd chunk, or a "s"hort piece; "f"inish, "a"bort."""
        os.write(self._orders, order.encode())
        assert os.read(self._answers, 1) == b"x"

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def join(self, code: int = 0) -> None:
        os.close(self._orders)
        os.close(self._answers)
        self._is_over = True
        assert os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]) == code

    def close(self) -> None:
        if not self._is_over:
            self.kill()
            self.join(-signal.SIGKILL)


@contextlib.contextmanager
def writing(root: Path, **options: Any) -> Iterator[Writer]:
    writer = Writer(root, **options)
    try:
        yield writer
    finally:
        writer.close()


def test_a_reader_sees_the_bytes_of_another_process_as_they_are_stored(
    store: Storage, root: Path
) -> None:
    with writing(root) as writer:
        with store.lookup_streaming_write("key", writer.tag) as hit:  # type: ignore[union-attr]
            assert hit.meta is not None
            assert hit.meta.status == 200
            assert hit.source == "stream"
            assert hit.size is None
            writer.do("1")
            writer.do("2")  # only now the first chunk is more than an ordinary entry would be
            assert read(hit, CHUNK) == FIRST
            assert store.lookup("key") is None  # nothing is published
            writer.do("1")
            assert read(hit, CHUNK) == SECOND
            writer.do("s")
            writer.do("f")
            assert b"".join(hit) == FIRST + b"short"
            assert hit.size == 3 * CHUNK + 5
            hit.seek(CHUNK)
            assert b"".join(hit) == SECOND + FIRST + b"short"
        writer.join()
    assert store.get("key") == FIRST + SECOND + FIRST + b"short"
    leases = store.stats()["leases"]
    assert leases["stream_attaches"] == store.stats()["requests"]["stream_attaches"] == 1


def read(hit: Any, size: int) -> bytes:
    pieces = []
    while size:
        piece = hit.read(size)
        assert piece
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def test_tasks_follow_without_stopping_their_loop(store: Storage, root: Path) -> None:
    async def follow(writer: Writer) -> None:
        async with AsyncStorage(storage=store) as own:
            hits = [await own.lookup_streaming_write("key", writer.tag) for _ in range(5)]
            reading = [asyncio.ensure_future(whole(hit)) for hit in hits]
            await asyncio.sleep(0)
            for order in ("1", "2", "1", "s", "f"):
                assert not any(task.done() for task in reading)
                # The tasks wait, and the loop does not: it is this very thread that goes on.
                writer.do(order)
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE_S):
                found = await asyncio.gather(*reading)
            assert found == [FIRST + SECOND + FIRST + b"short"] * 5

    async def whole(hit: Any) -> bytes:
        async with hit:
            return b"".join([piece async for piece in hit])

    with writing(root) as writer:
        asyncio.run(follow(writer))
        writer.join()


def test_the_end_of_a_short_object_is_seen_when_it_is_complete(store: Storage, root: Path) -> None:
    with writing(root) as writer:
        hit = store.lookup_streaming_write("key", writer.tag)
        assert hit is not None
        writer.do("s")
        assert hit.weight == 0
        writer.do("f")
        assert b"".join(hit) == b"short"
        assert hit.size == 5
        # The tag finds what it published.
        late = store.lookup_streaming_write("key", writer.tag)
        assert late is not None
        assert late.read() == b"short"
        writer.join()


def test_a_short_object_that_was_replaced_is_not_mixed_up(store: Storage, root: Path) -> None:
    with writing(root) as writer:
        hit = store.lookup_streaming_write("key", writer.tag)
        assert hit is not None
        writer.do("s")
        writer.do("f")
        store.put("key", b"other")
        with pytest.raises(errors.ObjectChangedError):
            hit.read()
        writer.join()


def test_readers_hear_of_an_abort(store: Storage, root: Path) -> None:
    with writing(root) as writer:
        hit = store.lookup_streaming_write("key", writer.tag)
        assert hit is not None
        writer.do("1")
        writer.do("2")
        assert read(hit, CHUNK) == FIRST
        writer.do("a")
        with pytest.raises(errors.StreamAbortedError):
            hit.read()
        hit.close()
        assert store.lookup_streaming_write("key", writer.tag) is None
        writer.join()


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_readers_hear_that_the_writer_was_killed(store: Storage, root: Path, kind: str) -> None:
    async def follow(writer: Writer) -> None:
        async with AsyncStorage(storage=store) as own:
            hit = await own.lookup_streaming_write("key", writer.tag)
            assert hit is not None
            task = asyncio.ensure_future(hit.read())
            await asyncio.sleep(0)
            writer.kill()
            async with asyncio.timeout(DEADLINE_S):
                await task

    with writing(root) as writer:
        writer.do("1")
        if kind == "task":
            with pytest.raises(errors.StreamAbortedError):
                asyncio.run(follow(writer))
        else:
            hit = store.lookup_streaming_write("key", writer.tag)
            assert hit is not None
            writer.kill()
            with pytest.raises(errors.StreamAbortedError):
                hit.read()
        writer.join(-signal.SIGKILL)


def test_a_writer_without_progress_is_given_up(
    store: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.01)

    async def follow(tag: bytes) -> None:
        async with AsyncStorage(storage=store) as own:
            hit = await own.lookup_streaming_write("key", tag)
            assert hit is not None
            await hit.read()

    with writing(root) as writer:
        hit = store.lookup_streaming_write("key", writer.tag)
        assert hit is not None
        with pytest.raises(errors.StreamAbortedError, match="no progress"):
            hit.read()
        with pytest.raises(errors.StreamAbortedError, match="no progress"):
            asyncio.run(follow(writer.tag))


def test_a_reader_whose_own_store_closes_is_told(root: Path) -> None:
    own = Storage(config_of(root))
    with writing(root) as writer:
        hit = own.lookup_streaming_write("key", writer.tag)
        assert hit is not None
        own.close()
        with pytest.raises((errors.StreamAbortedError, errors.StoreClosedError)):
            hit.read()


def test_a_child_of_fork_writes_streams_of_its_own(store: Storage, root: Path) -> None:
    mine = store.get_miss_handler("key")
    mine.write(FIRST + SECOND)
    with writing(root, store=store) as writer:
        theirs = store.lookup_streaming_write("key", writer.tag)
        assert theirs is not None
        writer.do("2")
        writer.do("s")
        assert read(theirs, CHUNK) == SECOND
        # What the parent writes the child neither ends nor shows as its own.
        writer.do("f")
        writer.join()
    mine.finish()
    assert store.get("key") == FIRST + SECOND


def test_a_write_of_another_process_is_found_by_key_where_publishing_is_not_atomic(
    root: Path,
) -> None:
    config = config_of(root, atomic_publish=False)
    with Storage(config) as writer, Storage(config) as reader:
        assert reader.lookup("key") is None
        with writer.get_miss_handler("key") as miss:
            miss.write(FIRST + SECOND)
            hit = reader.lookup("key")
            assert hit is not None
            assert hit.source == "stream"
            assert read(hit, CHUNK) == FIRST
            miss.finish()
            assert b"".join(hit) == SECOND


def test_a_range_of_what_is_on_its_way_is_waited_for(store: Storage, other: Storage) -> None:
    """As the proxy sends it: a range that lies in what is there, and one that does not yet."""

    async def part(own: AsyncStorage, tag: bytes, first: int, last: int) -> bytes:
        hit = await own.lookup_streaming_write("key", tag)
        assert hit is not None
        pieces = FollowContent(hit, None).part(first, last)
        assert not isinstance(pieces, bytes)
        return b"".join([piece async for piece in pieces])

    async def main() -> None:
        async with AsyncStorage(storage=other) as own:
            with store.get_miss_handler("key") as miss:
                tag = miss.streaming_write_tag
                miss.write(FIRST + SECOND)
                miss.write(b"more")
                assert await part(own, tag, CHUNK - 2, CHUNK + 1) == FIRST[-2:] + SECOND[:2]
                end = 2 * CHUNK
                task = asyncio.ensure_future(part(own, tag, end - 1, end + 2))
                late = asyncio.ensure_future(part(own, tag, end + 1, end + 1000))
                beyond = asyncio.ensure_future(part(own, tag, end + 1000, end + 2000))
                await asyncio.sleep(0)
                assert not any(one.done() for one in (task, late, beyond))
                miss.finish()
                assert await task == SECOND[-1:] + b"mor"
                assert await late == b"ore"
                assert await beyond == b""

    asyncio.run(main())


def test_of_several_writes_of_a_key_each_tag_finds_its_own(store: Storage, other: Storage) -> None:
    pieces = {b"a": FIRST + SECOND, b"b": SECOND + FIRST, b"c": FIRST + FIRST}
    misses = {name: store.get_miss_handler("key") for name in pieces}
    for name, miss in misses.items():
        miss.write(pieces[name])
        miss.write(b"more")
    hits = {
        n: other.lookup_streaming_write("key", m.streaming_write_tag) for n, m in misses.items()
    }
    for name, hit in hits.items():
        assert hit is not None
        assert read(hit, 2 * CHUNK) == pieces[name]
    assert other.lookup_streaming_write("other", misses[b"a"].streaming_write_tag) is None
    for miss in misses.values():
        miss.abort()


def test_streams_beyond_the_table_are_counted_and_not_seen(store: Storage, other: Storage) -> None:
    misses = [store.get_miss_handler(f"key-{number}") for number in range(257)]
    assert store.stats()["leases"]["streams_full"] == 1
    assert other.lookup_streaming_write("key-255", misses[255].streaming_write_tag) is not None
    assert other.lookup_streaming_write("key-256", misses[256].streaming_write_tag) is None
    misses[256].write(b"value")
    misses[256].finish()
    for miss in misses:
        miss.abort()
    long = store.get_miss_handler("long", Meta(created=1, updated=1, headers=bytes(16384)))
    assert store.stats()["leases"]["streams_full"] == 2
    assert other.lookup_streaming_write("long", long.streaming_write_tag) is None
    long.abort()


def test_a_record_that_others_need_tells_late_readers_nothing_wrong(
    store: Storage, other: Storage
) -> None:
    """A reader that slept while hundreds of streams came and went does not read theirs."""
    miss = store.get_miss_handler("key")
    miss.write(FIRST + SECOND)
    miss.write(b"more")
    hit = other.lookup_streaming_write("key", miss.streaming_write_tag)
    assert hit is not None
    miss.finish()
    for number in range(300):
        with store.get_miss_handler(f"key-{number}") as one:
            one.write(b"x")
    with pytest.raises(errors.StreamAbortedError):
        hit.read()
    # The tag finds the object all the same.
    again = other.lookup_streaming_write("key", miss.streaming_write_tag)
    assert again is not None
    assert b"".join(again) == FIRST + SECOND + b"more"


def test_whoever_dies_at_any_instruction_of_a_write_ends_it(root: Path) -> None:
    config = config_of(root)
    reports, tags = os.pipe()

    def work() -> None:
        own = Storage(config)
        warm = own.get_miss_handler("warm")
        warm.write(FIRST)
        warm.abort()
        miss = own.get_miss_handler("key")
        miss.write(FIRST)
        miss.write(b"x")  # the first chunk is on its way
        os.write(tags, miss.streaming_write_tag)
        begin_steps()
        miss.write(b"y")
        miss.abort()
        end_steps()

    with Storage(config) as store:
        try:
            count = run_and_kill(work, STEPS_MAX)
        except CannotTraceError as error:
            pytest.skip(f"ptrace: {error}")
        assert count is not None
        os.read(reports, 8)
        rng = random.Random(7)
        for _ in range(DEATHS):
            run_and_kill(work, rng.randrange(count))
            tag = os.read(reports, 8)
            began_s = time.monotonic()
            hit = store.lookup_streaming_write("key", tag)
            if hit is not None:
                with pytest.raises(errors.StreamAbortedError):
                    b"".join(hit)
            with store.get_miss_handler("key") as miss:
                miss.write(FIRST)
            assert time.monotonic() - began_s < DEADLINE_S
        os.close(reports)
        os.close(tags)


def test_killed_writers_never_show_wrong_bytes(root: Path, store: Storage) -> None:
    """At random moments, under way: what was read until then is what was written."""
    rng = random.Random(11)
    whole = (FIRST + SECOND) * 20
    for _ in range(8):
        starts, started = os.pipe()
        child = os.fork()
        if child == 0:
            own = Storage(config_of(root))
            miss = own.get_miss_handler("key")
            os.write(started, miss.streaming_write_tag)
            for position in range(0, len(whole), 10_000):
                miss.write(whole[position : position + 10_000])
            signal.pause()
        hit = store.lookup_streaming_write("key", os.read(starts, 8))
        assert hit is not None
        position, limit = 0, rng.randrange(len(whole) - 2 * CHUNK)
        with contextlib.suppress(errors.StreamAbortedError):
            while position < limit:
                piece = hit.read()
                assert piece == whole[position : position + len(piece)]
                position += len(piece)
            os.kill(child, signal.SIGKILL)
            while piece := hit.read():
                assert piece == whole[position : position + len(piece)]
                position += len(piece)
        assert position >= limit
        hit.close()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(starts)
        os.close(started)
