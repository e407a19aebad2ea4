"""Parts of `make demo` by themselves: its input, its order, its arithmetic, its verdict."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bench import demo_source
from bench.demo_plot import draw
from bench.demo_report import Outcome, nanoseconds, percentile, size, to_json
from bench.demo_source import Source, SourceFile, is_right, read_source, zipf_order
from bench.demo_steps import Crash, EngineRun, Reads, Setup, crash_value, tier_of
from bench.machine import describe


def never() -> bool:
    return False


def nothing(done: int, total: int) -> None:
    pass


def test_input_is_every_regular_file_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "two")
    (tmp_path / "loop").symlink_to(tmp_path)
    source = read_source(tmp_path, nothing, never)
    assert sorted(file.key for file in source.files) == [b"a/one", b"two"]
    assert source.total_bytes == 1


def test_input_is_limited_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        (tmp_path / f"f{number}").write_bytes(b"x" * 100)
    (tmp_path / "big").write_bytes(b"x" * 5000)
    monkeypatch.setattr(demo_source, "OBJECT_BYTES_MAX", 1000)
    monkeypatch.setattr(demo_source, "FILE_COUNT_MAX", 8)
    monkeypatch.setattr(demo_source, "TOTAL_BYTES_MAX", 500)
    source = read_source(tmp_path, nothing, never)
    assert len(source.files) == 5
    assert source.skipped == {
        "larger than an object may be": 1, "over the limit of files": 2,
        "over the limit of bytes": 3,
    }  # fmt: skip


def test_input_ends_when_the_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    source = read_source(tmp_path, nothing, lambda: True)
    assert source.files == []
    assert source.skipped == {"out of time": 1}


def test_one_changed_byte_is_not_right(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (file,) = read_source(tmp_path, nothing, never).files
    assert is_right(file, b"abc")
    assert not is_right(file, b"abd")
    assert not is_right(file, b"abc\0")


def test_zipf_order_is_seeded_and_skewed_as_it_says() -> None:
    first = list(islice(zipf_order(1000, 7), 50_000))
    assert first == list(islice(zipf_order(1000, 7), 50_000))
    assert set(first) <= set(range(1000))
    counts = [count for _, count in Counter(first).most_common()]
    # The first rank has 1 / H(1000) = 13.4 % of the draws, twice the second.
    assert 0.12 < counts[0] / 50_000 < 0.15
    assert 1.7 < counts[0] / counts[1] < 2.3


def test_percentiles_are_by_nearest_rank() -> None:
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (50, 90, 99, 99.9)] == [50, 90, 99, 100]
    assert percentile([7], 50) == 7


@pytest.mark.parametrize(
    ("value", "text"), [(27, "27 ns"), (1800, "1.8 us"), (123_456, "123 us"), (2e9, "2.00 s")]
)
def test_times_are_short(value: float, text: str) -> None:
    assert nanoseconds(value) == text


def test_sizes_are_short() -> None:
    assert [size(v) for v in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB",
                                                              "5.00 GiB"]  # fmt: skip


def test_the_tier_is_the_counter_that_moved() -> None:
    before = {"front_hits": 1, "memory_hits": 2, "disk_hits": 3}
    assert tier_of(before, {**before, "memory_hits": 3}) == "memory"
    assert tier_of(before, {**before, "disk_hits": 4}) == "disk"
    assert tier_of(before, before) == "miss"


def test_values_of_the_killed_writer_follow_from_the_key() -> None:
    assert crash_value(1, 5) == crash_value(1, 5) != crash_value(2, 5)
    assert {len(crash_value(0, n)) for n in range(200)} == {64 << n for n in range(9)}


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    source = Source(tmp_path, [SourceFile("f", b"f", 3, 1)], {})
    found = Outcome(describe(), Setup.for_source(tmp_path, source, 0.1, "auto"), source, 1)
    found.reads = Reads()
    found.reads.latencies["front"] = [100, 200]
    found.engines = [EngineRun("uring", [10.0], [20.0], [3.0]), EngineRun("threads", refused="no")]
    return found


def test_one_wrong_value_or_one_lost_entry_fails_the_demo(outcome: Outcome) -> None:
    assert outcome.is_right
    outcome.reads.wrong.append("f")
    assert not outcome.is_right
    outcome.reads.wrong.clear()
    outcome.crash = Crash(lost=["crash/0/000000001"])
    assert not outcome.is_right
    assert to_json(outcome)["is_right"] is False


def test_the_picture_is_drawn_with_an_empty_tier_and_a_refused_engine(
    outcome: Outcome, tmp_path: Path
) -> None:
    draw(outcome, tmp_path / "out" / "demo.png")
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["out"]
