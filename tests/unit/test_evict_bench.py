"""The hit-ratio bench: reproducible traces, readers that agree, the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import hitratio, traces


@pytest.mark.parametrize("name", traces.TRACES)
def test_equal_seeds_give_equal_traces_and_others_do_not(name: str) -> None:
    first, second = (traces.generate(name, 5000, 3) for _ in range(2))
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.sizes, second.sizes)
    assert not np.array_equal(first.ids, traces.generate(name, 5000, 4).ids)


@pytest.mark.parametrize("name", traces.TRACES)
def test_an_object_has_one_size(name: str) -> None:
    trace = traces.generate(name, 20_000, 3)
    assert len(trace.ids) == 20_000
    assert np.array_equal(trace.sizes, traces.first_sizes(trace.ids, trace.sizes))
    assert trace.sizes.min() >= 1


def test_footprint_counts_distinct_objects_and_their_bytes() -> None:
    ids = np.array([5, 6, 5, 7], dtype=np.uint64)
    assert traces.Trace("t", ids, np.array([2, 3, 2, 4], np.uint32)).footprint() == (3, 9)


def test_oracle_general_round_trip(tmp_path: Path) -> None:
    trace = traces.generate("cdn", 3000, 1)
    trace.write(tmp_path / "t.bin")
    assert (tmp_path / "t.bin").stat().st_size == 24 * 3000
    back = traces.read(tmp_path / "t.bin")
    assert np.array_equal(back.ids, trace.ids)
    assert np.array_equal(back.sizes, trace.sizes)
    assert np.array_equal(traces.read(tmp_path / "t.bin", 10).ids, trace.ids[:10])


def test_compressed_trace_reads_the_same(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    trace = traces.generate("zipf10", 2000, 1)
    trace.write(tmp_path / "t.bin")
    packed = zstandard.ZstdCompressor().compress((tmp_path / "t.bin").read_bytes())
    (tmp_path / "t.bin.zst").write_bytes(packed)
    assert np.array_equal(traces.read(tmp_path / "t.bin.zst").ids, trace.ids)
    assert len(traces.read(tmp_path / "t.bin.zst", 7).ids) == 7


def test_torn_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(bytes(25))
    with pytest.raises(SystemExit, match="whole number"):
        traces.read(tmp_path / "t.bin")


def test_csv_keeps_the_first_size_and_numbers_text_keys(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,Key,size\n1,a,10\n2,b,0\n3,a,99\n")
    trace = traces.read(tmp_path / "t.csv")
    assert trace.ids.tolist() == [1, 2, 1]
    assert trace.sizes.tolist() == [10, 1, 10]


def test_csv_without_a_key_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,size\n1,2\n")
    with pytest.raises(SystemExit, match="no column"):
        traces.read(tmp_path / "t.csv")


def test_bench_writes_ratios_that_lru_can_be_checked_by(tmp_path: Path) -> None:
    """A cycle of four through a cache of two never hits under LRU; one of four in full always."""
    (tmp_path / "t.csv").write_text("id\n" + "1\n2\n3\n4\n" * 25)
    out = tmp_path / "out" / "r.json"
    arguments = ["--traces", str(tmp_path / "t.csv"), "--policies", "lru", "--sizes", "0.5,1"]
    assert hitratio.main([*arguments, "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert [result["miss"] for result in results] == [1.0, pytest.approx(0.04)]
    assert [result["capacity_bytes"] for result in results] == [2, 4]
