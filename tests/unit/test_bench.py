"""The bench's own arithmetic: rounds, ratios, verdicts, reports, its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report, report_docs
from bench.compare import PEERS, is_installed, open_peer
from bench.machine import describe, file_system
from bench.measure import (
    ChildError,
    Sample,
    Spread,
    Stopwatch,
    allocated_bytes,
    child_environment,
    in_child,
    interleave,
    make_cold,
    resolve,
    scratch,
)
from bench.plots import draw, series
from bench.rows import AIM, MISS, MUST, NONE, Row, compare
from bench.run import main, parse
from bench.workloads import SUITES, WORKLOADS, Plan, names_of

PEER_NAMES = sorted(set(PEERS) - {"fio"})


def samples(*walls_s: float) -> list[Sample]:
    return [Sample(1000, wall_s, wall_s / 2) for wall_s in walls_s]


# ---- measuring


def test_rounds_start_with_another_side_each_time() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str):  # type: ignore[no-untyped-def]
        def measure(number: int) -> Sample:
            calls.append((name, number))
            return Sample(1, 1.0, 1.0)

        return measure

    found = interleave({"a": side("a"), "b": side("b")}, 3)
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


def test_a_sample_gives_time_per_operation_and_rate() -> None:
    sample = Sample(1000, 0.5, 0.25)
    assert (sample.wall_us, sample.cpu_us, sample.rate) == (500.0, 250.0, 2000.0)


def test_spread_is_median_least_and_greatest_and_refuses_nothing() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_a_stopwatch_adds_up_and_counts_only_inside() -> None:
    watch = Stopwatch()
    with watch:
        sum(range(20000))
    once = watch.wall_s
    sum(range(200000))
    assert watch.wall_s == once
    with watch:
        sum(range(20000))
    assert watch.wall_s > once
    assert watch.sample(2, bytes=7.0).extra == {"bytes": 7.0}


def test_a_child_returns_its_result_and_a_failing_child_says_why() -> None:
    facts = in_child("bench.machine:describe")
    assert facts["python"] == describe()["python"]
    with pytest.raises(ChildError, match="no_such_side"):
        in_child("bench.ram:rss_of", side="no_such_side", count=1, seed=1)


def test_children_run_functions_of_the_bench_only() -> None:
    with pytest.raises(ValueError, match="not part of the bench"):
        resolve("os:getcwd")


def test_a_child_finds_the_bench_from_any_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import bench.child, edgecache"]
    subprocess.run(command, cwd=tmp_path, env=child_environment(), check=True)


def test_scratch_is_removed_also_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with scratch("x", tmp_path) as path:
            (path / "deep").mkdir()
            (path / "deep" / "file").write_bytes(b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_files_are_unchanged_by_making_them_cold(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 10000)
    make_cold(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"a" * 10000
    assert allocated_bytes(tmp_path) >= 10000


def test_the_machine_is_named_and_the_root_has_a_file_system() -> None:
    facts = describe()
    assert facts["processor"]
    assert facts["kernel"]
    assert "xxhash" in facts
    assert file_system(Path("/")) != "unknown"


# ---- rows


@pytest.mark.parametrize(
    ("ours_s", "expected"), [(0.5, AIM), (0.9, MUST), (1.0, MUST), (1.01, MISS)]
)
def test_the_verdict_follows_the_median_ratio(ours_s: float, expected: str) -> None:
    found = {"edgecache": samples(9.0, ours_s, 0.01), "peer": samples(1.0, 1.0, 1.0)}
    row = compare("w", "l", "wall us", found, "peer", must=1.0, aim=0.5)
    assert row.verdict == expected


def test_more_is_better_for_rates() -> None:
    found = {"edgecache": samples(1.0), "peer": samples(2.0)}
    row = compare("w", "l", "rate", found, "peer", must=1.5, aim=3.0)
    assert row.judged == Spread(2.0, 2.0, 2.0)
    assert row.verdict == MUST


def test_ratios_are_taken_per_round() -> None:
    row = Row("w", "l", "us", [1.0, 20.0, 3.0], "peer", [2.0, 10.0, 3.0])
    assert row.judged == Spread(1.0, 0.5, 2.0)


def test_an_absent_peer_gives_a_row_without_verdict_that_says_so() -> None:
    row = compare("w", "l", "wall us", {"edgecache": samples(1.0)}, "lmdb", must=1.0)
    assert (row.verdict, row.judged) == (NONE, None)
    assert "not installed" in row.note


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds against 1"):
        Row("w", "l", "us", [1.0, 2.0], "peer", [1.0])


def test_an_absolute_row_is_judged_by_its_value() -> None:
    assert Row("w", "l", "s", [0.5], must=1.0, aim=0.4).verdict == MUST
    assert Row("w", "l", "s", [0.0], aim=0.0).verdict == AIM


def test_rows_survive_json(tmp_path: Path) -> None:
    rows = [
        compare("get_hot", "a", "rate", {"edgecache": samples(1.0), "p": samples(2.0)}, "p", aim=1),
        Row("idle", "b", "%", [0.1], must=0.5, at={"figure": "depth", "x": 4}),
    ]
    report.write_json(tmp_path / "deep" / "x.json", {"cpu": "c"}, {"quick": True}, rows)
    machine, options, found = report.read_json(tmp_path / "deep" / "x.json")
    assert (machine, options, found) == ({"cpu": "c"}, {"quick": True}, rows)


# ---- reports


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00"), (0.0257, "0.0257"), (0.5, "0.50"), (12.34, "12.3"),
     (123.4, "123"), (12345.6, "12,346")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_short_times_are_given_in_ns() -> None:
    assert report.pair(0.0257, 1.5) == "26 ns / 1.50 us"
    assert report.pair(2.0, None) == "2.00 us"


def test_the_document_gets_the_figures_between_its_marks(tmp_path: Path) -> None:
    rows = [
        Row("idle", "idle CPU | uring", "%", [0.9], must=0.5),
        compare("get_hot", "hot", "wall us", {"edgecache": samples(1.0), "d": samples(1.0)}, "d"),
    ]
    options = {"quick": False, "repeat": 5, "seed": 1, "date": "2024-01-02"}
    report.write_json(tmp_path / "run.json", {"kernel": "6"}, options, rows)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report_docs.BEGIN}\nold\n{report_docs.END}\nafter\n")
    for _ in range(2):
        assert report_docs.main([str(tmp_path / "run.json"), "--document", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.index("| hot") < text.index("| idle CPU \\| uring")
    assert "Missed in this run: `idle`." in text


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="has no"):
        report_docs.replace_between("no marks", "x")


def test_the_page_in_docs_has_its_marks() -> None:
    report_docs.replace_between(report_docs.DOCUMENT.read_text("utf-8"), "x")


def test_a_series_holds_each_engine_once_per_point() -> None:
    rows = [
        Row("w", "l", "op/s", [10.0], peer, [5.0], at={"figure": "depth", "mode": "m", "x": x,
                                                      "first": "uring"})
        for x in (1, 4)
        for peer in ("threads", "fio")
    ]  # fmt: skip
    found = series(rows, "depth", "m")
    assert {name: [x for x, _, _ in points] for name, points in found.items()} == {
        "uring": [1, 4], "threads": [1, 4], "fio": [1, 4],
    }  # fmt: skip


def test_plots_are_drawn_for_the_rows_there_are(tmp_path: Path) -> None:
    at = {"figure": "mix", "mode": "mix", "x": 0, "first": "uring"}
    rows = [
        Row("io_mix", "l", "op/s", [10.0], "threads", [5.0], cpu_us=1, peer_cpu_us=2, at=at),
        Row("get_hot", "l", "us", [1.0], "dict", [2.0], must=1.0, aim=0.4),
    ]
    paths = draw(rows, describe(), tmp_path / "plots")
    assert [path.name for path in paths] == ["mix.png", "targets.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


# ---- workloads, peers, command line


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_exists_and_says_what_it_measures(name: str) -> None:
    suite, target, line = WORKLOADS[name]
    assert callable(resolve(f"bench.{target}"))
    assert suite in {kind for kinds in SUITES.values() for kind in kinds}
    assert 10 < len(line) < 80


def test_suites_keep_the_order_of_the_table() -> None:
    assert names_of("all") == list(WORKLOADS)
    assert set(names_of("io")) & set(names_of("targets")) == set()


def test_listing_imports_no_peer() -> None:
    code = (
        "import sys; from bench.run import main; main(['--list']);"
        "sys.exit(any(n in sys.modules for n in ('lmdb', 'rocksdict', 'diskcache', 'cachebox')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=child_environment(),
    )  # fmt: skip
    assert all(name in done.stdout for name in WORKLOADS)


@pytest.mark.parametrize("name", PEER_NAMES)
def test_an_installed_peer_keeps_what_it_is_given(name: str, tmp_path: Path) -> None:
    if not is_installed(name):
        with pytest.raises(ModuleNotFoundError):
            open_peer(name, tmp_path / name)
        return
    peer = open_peer(name, tmp_path / name, entries=10, size_bytes=64 << 20)
    peer.put(b"key", b"value" * 100)
    peer.flush()
    assert peer.get(b"key") == b"value" * 100
    assert peer.get(b"other") is None
    peer.close()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--engine", "warp"], ["--peers", "x"], ["--repeat", "0", "idle"]]
)
def test_unknown_names_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)


def test_nothing_to_run_is_an_error_of_its_own() -> None:
    assert main([]) == 2


def test_a_run_prints_rows_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "run.json"
    arguments = ["get_many_hot", "rss_small", "--quick", "--repeat", "1", "--peers", "dict"]
    assert main([*arguments, "--json", str(target), "--directory", str(tmp_path)]) == 0
    document = json.loads(target.read_text())
    assert {row["workload"] for row in document["rows"]} == {"get_many_hot", "rss_small"}
    assert document["options"]["repeat"] == 1
    assert "not installed" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_failing_workload_stops_no_other_and_gives_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.json"
    monkeypatch.setitem(WORKLOADS, "view_hot", ("targets", "ram:no_such_function", "broken"))
    arguments = ["view_hot", "get_many_hot", "--quick", "--repeat", "1", "--json", str(target)]
    assert main(arguments) == 1
    found = {row["workload"]: row for row in json.loads(target.read_text())["rows"]}
    assert "no_such_function" in found["view_hot"]["note"]
    assert found["view_hot"]["judged"] is None
    assert found["get_many_hot"]["judged"]["median"] > 0


def test_a_plan_measures_the_peers_that_were_asked_for() -> None:
    plan = Plan(scratch=Path("unused"), peers=frozenset({"dict"}))
    assert plan.among("dict", "sqlite") == ["dict"]
    assert plan.sized(10, 1) == 10
