"""Objects under overlapping writers, readers, ranges, purges and restarts, against dicts.

What may differ from the model, and nothing else:

1. An object that the store may have evicted (the tier in use is smaller than what was written) is a
   miss, or a range of it a hole. Bytes that are read are always those of the model.
2. After a crash without `sync`, what an unfinished object had may be missing.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgecache import Config, Hit, Meta, Miss, PurgeType, Storage, errors
from edgecache._io_memory import MemoryDisk

KEYS = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 10)
# In sixteenths of a chunk: below, at and above the borders.
SIZES = st.sampled_from([0, 1, 7, 16, 17, 32, 40, 64, 75])
PLACES = st.integers(0, 75)
BUDGETS = {"roomy": ("64MiB", 8), "tight": ("16MiB", 1)}


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Writer:
    def __init__(self, key: str, miss: Miss) -> None:
        self.key = key
        self.miss = miss
        self.written = b""


class Reader:
    def __init__(self, hit: Hit, expected: bytes | Writer) -> None:
        self.hit = hit
        self.source = expected
        self.position = 0

    @property
    def expected(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.written


class Objects(RuleBasedStateMachine):
    """See the module. Subclasses name an engine and a budget."""

    engine = "memory"
    budget = "roomy"
    layout = "log"
    shares = False

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="objects"))
        self.disk = MemoryDisk()
        self.published: dict[str, bytes] = {}
        self.unfinished: dict[str, dict[int, int]] = {}
        self.sizes: dict[str, int] = {}
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.open()

    def open(self) -> None:
        disk, shards = BUDGETS[self.budget]
        options: dict[str, Any] = {
            "io": self.engine, "memory": "2MiB", "disk": disk, "shards": 1, "flush_interval": 3600,
            "layout": self.layout, "chunk_size": "64KiB" if self.layout == "files" else "4MiB",
            "max_in_mem_partial_bytes": None if shards == 8 else "300KiB",
        }  # fmt: skip
        if self.shares:
            options |= {"share_chunks": True, "first_chunk_size": "4KiB"}
        if self.engine != "memory":
            options["root"] = str(self.root / "r")
        self.store = Storage(Config(**options), disk=self.disk if self.engine == "memory" else None)
        self.unit = self.store._objects.chunk_bytes // 16

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def is_lossless(self) -> bool:
        return self.budget == "roomy"

    # Streams

    @rule(key=KEYS)
    def start_write(self, key: str) -> None:
        if len(self.writers) < 3:
            try:
                self.writers.append(Writer(key, self.store.get_miss_handler(key)))
            except errors.PartialWritesError:
                assert not self.is_lossless()

    @rule(which=st.integers(0, 2), size=SIZES, seed=SEEDS)
    def write(self, which: int, size: int, seed: int) -> None:
        if which < len(self.writers):
            writer = self.writers[which]
            piece = content(size * self.unit, seed)
            if len(writer.written) + len(piece) < 3 << 20:
                writer.miss.write(piece)
                writer.written += piece

    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        if which < len(self.writers):
            writer = self.writers.pop(which)
            assert writer.miss.finish() == len(writer.written)
            self.published[writer.key] = writer.written

    @rule(which=st.integers(0, 2))
    def abort(self, which: int) -> None:
        if which < len(self.writers):
            writer = self.writers.pop(which)
            writer.miss.abort()
            for reader in [one for one in self.readers if one.source is writer]:
                self.readers.remove(reader)
                with pytest.raises(errors.StreamAbortedError):
                    reader.hit.read()

    @rule(which=st.integers(0, 2))
    def attach(self, which: int) -> None:
        if which < len(self.writers) and len(self.readers) < 4:
            writer = self.writers[which]
            hit = self.store.lookup_streaming_write(writer.key, writer.miss.streaming_write_tag)
            assert hit is not None
            self.readers.append(Reader(hit, writer))

    # Readers, pinned to what they found

    @rule(key=KEYS)
    def lookup(self, key: str) -> None:
        hit = self.store.lookup(key)
        if hit is None:
            assert key not in self.published or not self.is_lossless()
        elif len(self.readers) < 4:
            assert hit.size == len(self.published[key])
            self.readers.append(Reader(hit, self.published[key]))

    @rule(which=st.integers(0, 3), place=PLACES)
    def seek(self, which: int, place: int) -> None:
        if which < len(self.readers):
            reader = self.readers[which]
            position = min(place * self.unit, len(reader.expected))
            reader.hit.seek(position)
            reader.position = position

    @rule(which=st.integers(0, 3), size=SIZES)
    def read(self, which: int, size: int) -> None:
        if which >= len(self.readers):
            return
        reader = self.readers[which]
        if reader.position >= len(reader.expected) and reader.source in self.writers:
            return  # it would wait for the writer
        try:
            piece = reader.hit.read(size * self.unit or -1)
        except (errors.RangeMissingError, errors.ObjectChangedError):
            assert not self.is_lossless()
            self.readers.remove(reader)
            return
        assert reader.expected.startswith(piece, reader.position)
        assert piece or reader.position == len(reader.expected)
        reader.position += len(piece)

    @rule(which=st.integers(0, 3), places=st.lists(PLACES, min_size=2, max_size=6))
    def read_ranges(self, which: int, places: list[int]) -> None:
        if which >= len(self.readers):
            return
        reader = self.readers[which]
        ends = [min(place * self.unit, len(reader.expected)) for place in places]
        spans = [(min(pair), max(pair)) for pair in itertools.pairwise(ends)]
        try:
            pieces = reader.hit.read_ranges(spans)
        except (errors.RangeMissingError, errors.ObjectChangedError):
            assert not self.is_lossless()
            return
        assert pieces == [reader.expected[start:end] for start, end in spans]

    @rule(which=st.integers(0, 3))
    def let_go(self, which: int) -> None:
        if which < len(self.readers):
            self.readers.pop(which).hit.close()

    # Sparse objects

    @rule(key=KEYS, size=SIZES)
    def create(self, key: str, size: int) -> None:
        if key in self.unfinished:
            with pytest.raises(errors.ObjectExistsError):
                self.store.create_sparse(key, 5)
        else:
            self.store.create_sparse(key, size * self.unit)
            self.unfinished[key] = {}
            self.sizes[key] = size * self.unit

    @rule(key=KEYS, start=PLACES, end=PLACES, seed=SEEDS, extra=st.sampled_from([0, 1, 3]))
    def write_range(self, key: str, start: int, end: int, seed: int, extra: int) -> None:
        low, high = min(start, end) * self.unit, max(start, end) * self.unit + extra
        if key not in self.unfinished:
            return
        if high > self.sizes[key]:
            with pytest.raises(errors.RangeError):
                self.store.write_range(key, low, bytes(high - low))
        else:
            data = content(high - low, seed)
            assert self.store.write_range(key, low, data)
            # One byte in 61 tells the ranges apart as well as all of them do.
            self.unfinished[key].update(
                {place: data[place - low] for place in self.samples(low, high)}
            )

    def samples(self, low: int, high: int) -> range:
        return range(-(-low // 61) * 61, high, 61)

    @rule(key=KEYS)
    def check_unfinished(self, key: str) -> None:
        if key not in self.unfinished:
            return
        available = self.store.availability(key)
        assert available is not None
        assert (available.size, available.is_finalized) == (self.sizes[key], False)
        if key in self.published:
            return  # read_range shows the complete one
        for start, end in available.ranges:
            try:
                data = self.store.read_range(key, start, end - start)
            except errors.RangeMissingError:
                assert not self.is_lossless()
                continue
            assert data is not None
            for place, value in self.unfinished[key].items():
                if start <= place < end:
                    assert data[place - start] == value
        for start, end in available.missing:
            with pytest.raises(errors.RangeMissingError):
                self.store.read_range(key, start, end - start)
            if self.is_lossless():
                assert not any(start <= place < end for place in self.unfinished[key])

    @rule(key=KEYS)
    def complete(self, key: str) -> None:
        """Write all over and finalize."""
        if key not in self.unfinished:
            with pytest.raises(errors.ObjectNotFoundError):
                self.store.finalize(key)
            return
        data = content(self.sizes[key], 99)
        assert self.store.write_range(key, 0, data)
        try:
            assert self.store.finalize(key) == len(data)
        except errors.IncompleteObjectError:
            assert not self.is_lossless()
            return
        del self.unfinished[key]
        self.published[key] = data

    # The rest of the store

    @rule(key=KEYS, size=SIZES, seed=SEEDS)
    def put(self, key: str, size: int, seed: int) -> None:
        value = content(size * self.unit, seed)
        assert self.store.put(key, value)
        self.published[key] = value

    @rule(key=KEYS, start=PLACES, end=PLACES, extra=st.integers(0, 3))
    def read_range(self, key: str, start: int, end: int, extra: int) -> None:
        if key not in self.published:
            return
        low, high = min(start, end) * self.unit + extra, max(start, end) * self.unit + 2 * extra
        try:
            found = self.store.read_range(key, low, high - low)
        except (errors.RangeMissingError, errors.ObjectChangedError):
            assert not self.is_lossless()
            return
        if found is None or key in self.unfinished:
            assert not self.is_lossless() or key in self.unfinished
        else:
            assert found == self.published[key][low:high]

    @rule(key=KEYS, number=st.integers(0, 9))
    def update_meta(self, key: str, number: int) -> None:
        """Readers in the middle keep their bytes: `read` above checks it."""
        meta = Meta(created=1, updated=number, fresh_until=1 << 62)
        is_there = self.store.update_meta(key, meta)
        if self.is_lossless():
            assert is_there == (key in self.published)
        if is_there:
            found = self.store.lookup(key)
            if found is not None:
                assert found.meta == meta
                found.close()

    @rule()
    def scrub(self) -> None:
        assert self.store.scrub().corrupt == 0

    @rule(key=KEYS, kind=st.sampled_from(PurgeType))
    def purge(self, key: str, kind: PurgeType) -> None:
        existed = self.store.purge(key, kind)
        if self.is_lossless():
            assert existed == (key in self.published or key in self.unfinished)
        self.published.pop(key, None)
        self.unfinished.pop(key, None)

    @rule(number=st.integers(0, 50))
    def press(self, number: int) -> None:
        """Other entries, which push objects out of RAM, and of a small disk."""
        count, size = 300 if self.is_lossless() else 1500, 4000
        if self.layout == "files":
            # A directory costs more than its bytes.
            count, size = count // 10, 10 * size
        self.store.put_many((f"other/{number % 3}/{one}", bytes(size)) for one in range(count))
        self.store.flush()

    @rule()
    def restart(self) -> None:
        for reader in self.readers:
            reader.hit.close()
        self.readers.clear()
        self.writers.clear()
        self.store.close()
        self.open()
        self.forget_evicted()

    def forget_evicted(self) -> None:
        """The head of an unfinished object that is known to the disk alone may be evicted there."""
        for key in list(self.unfinished):
            found = self.store.availability(key)
            if found is None or found.is_finalized:
                assert not self.is_lossless()
                del self.unfinished[key]

    @rule()
    def crash(self) -> None:
        """Only what was synced is known to stay; objects are synced here, ranges since may go."""
        if self.engine != "memory":
            return
        self.store.sync()
        for reader in self.readers:
            reader.hit.close()
        self.readers.clear()
        self.writers.clear()
        self.store.abandon()
        self.open()
        self.forget_evicted()

    @invariant()
    def what_is_published_is_read(self) -> None:
        if not hasattr(self, "store"):
            return
        for key in "abc":
            value = self.store.get(key)
            if value is None:
                assert key not in self.published or not self.is_lossless()
            else:
                assert value == self.published[key]


SETTINGS = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def machine(
    engine: str, budget: str, examples: int, layout: str = "log", *, shares: bool = False
) -> Any:
    facts = {"engine": engine, "budget": budget, "layout": layout, "shares": shares}
    kind = type("Objects_{engine}_{budget}_{layout}_{shares}".format(**facts), (Objects,), facts)
    kind.TestCase.settings = settings(SETTINGS, max_examples=examples)
    return kind.TestCase


TestMemory = machine("memory", "roomy", 40)
TestMemoryTight = machine("memory", "tight", 25)
TestThreads = machine("threads", "roomy", 5)
TestAuto = machine("auto", "roomy", 5)
TestShared = machine("memory", "roomy", 30, shares=True)
TestSharedTight = machine("memory", "tight", 15, shares=True)
TestSharedThreads = machine("threads", "roomy", 4, shares=True)
TestFiles = machine("memory", "roomy", 25, "files")
TestFilesTight = machine("memory", "tight", 15, "files")
TestFilesThreads = machine("threads", "roomy", 4, "files")
TestFilesAuto = machine("auto", "roomy", 4, "files")
