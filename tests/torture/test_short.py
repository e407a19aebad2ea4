"""A short run of every row of the campaign, and proof that each would notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.model import Model, WrongAnswerError

from edgecache._core import Core
from torture import __main__ as command
from torture.campaign import CannotRunError, Outcome, Row, Run, execute
from torture.oracle import LostError, Replay, StrictModel
from torture.rows import ROWS

SEED = 20
# What fits into the suite; `sanitize` builds for half a minute and has a target of its own.
COUNTS = {"kill": 20, "shared": 6, "power": 25, "cut": 4, "rot": 120, "full": 6, "io": 120,
          "race": 200_000, "hung": 1, "no-uring": 5, "memory": 3, "clock": 2, "fuzz": 350,
          "soak": 3}  # fmt: skip


def test_every_row_has_a_short_run_here_or_a_target_of_its_own() -> None:
    assert set(COUNTS) | {"sanitize"} == set(ROWS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_short_run_finds_no_violation(name: str, tmp_path: Path) -> None:
    outcome = execute(
        ROWS[name], seed=SEED, count=COUNTS[name], first=0, is_long=False, directory=tmp_path
    )
    assert outcome.violations == []
    if outcome.cannot_run:
        # A machine without root, tools or loop devices; the reason is part of the report.
        assert len(outcome.cannot_run) > 10
    else:
        assert outcome.injections >= COUNTS[name]
        assert outcome.figure


def row_of(body: Any) -> Row:
    return Row("row", "injected", "promise", short=3, long=5, run=body)


def run_of(body: Any, tmp_path: Path, **changes: Any) -> Outcome:
    options: dict[str, Any] = {"seed": 1, "count": None, "first": 0, "is_long": False}
    return execute(row_of(body), directory=tmp_path, **{**options, **changes})


def test_what_fails_in_an_injection_is_a_violation_that_can_be_replayed(tmp_path: Path) -> None:
    def body(run: Run) -> str:
        for number in run.numbers():
            with run.judged(number):
                assert number != 1, "one is wrong"
        return "figure"

    outcome = run_of(body, tmp_path)
    assert (outcome.injections, outcome.violation_count) == (3, 1)
    assert "--seed 1 --first 1 --count 1" in outcome.violations[0]
    assert run_of(body, tmp_path, first=1, count=1).violation_count == 1
    assert run_of(body, tmp_path, first=2, count=1).is_good


def test_a_row_that_breaks_is_a_violation_and_one_that_cannot_run_says_why(tmp_path: Path) -> None:
    def breaks(run: Run) -> str:
        raise OSError("broken")

    def cannot(run: Run) -> str:
        raise CannotRunError("no such tool")

    assert not run_of(breaks, tmp_path).is_good
    assert run_of(cannot, tmp_path).cannot_run == "no such tool"


def test_an_injection_draws_the_same_numbers_whatever_ran_before_it(tmp_path: Path) -> None:
    drawn: list[float] = []

    def body(run: Run) -> str:
        drawn.extend(run.random(number).random() for number in run.numbers())
        return ""

    run_of(body, tmp_path)
    run_of(body, tmp_path, first=2, count=1)
    assert drawn[2] == drawn[3]
    assert len(set(drawn)) == 3


def test_a_row_notices_a_store_that_answers_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that gives a neighbour's value now and then is found by every row that reads one."""
    from torture import faults, power

    class Wrong(Core):
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            return found[:-1] + b"?" if found and len(found) > 1000 else found

    monkeypatch.setattr("support.model.Core", Wrong)
    for row in (power.ROW, faults.ROW):
        outcome = execute(row, seed=1, count=6, first=0, is_long=False, directory=tmp_path)
        assert outcome.violation_count > 0, row.name


def test_the_strict_model_notices_what_a_sync_covered_and_is_gone() -> None:
    model = StrictModel()
    model.add(b"key", b"value")
    model.sync()
    model.crash()
    with pytest.raises(LostError):
        model.check(b"key", None)
    model.check(b"key", b"value")


def test_a_value_that_shows_up_one_opening_late_is_noticed() -> None:
    model = Model()
    model.add(b"key", b"old")
    model.sync()
    model.add(b"key", b"new")
    model.crash()
    model.check(b"key", b"old")
    model.crash()
    with pytest.raises(WrongAnswerError):
        model.check(b"key", b"new")


def test_what_a_process_was_doing_when_it_died_may_have_happened_or_not() -> None:
    for found in (None, b"k#1#"):
        replay = Replay(Model())
        for line in ("p k 1 4", "=", "s", "=", "d k"):
            replay.line(line)
        replay.crash()
        replay.model.check(b"k", found)
    with pytest.raises(WrongAnswerError):
        replay.model.check(b"k", b"k#2#")


def test_the_command_writes_its_outcomes_and_fails_on_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "rows.json"
    words = ["power", "--seed", "3", "--count", "2", "--json", str(path)]
    assert command.main(words) == 0
    written = json.loads(path.read_text())
    assert written["seed"] == 3
    assert written["rows"][0]["injections"] == 2

    def broken(run: Run) -> str:
        run.violation(0, "wrong")
        return ""

    monkeypatch.setitem(command.ROWS, "power", row_of(broken))
    assert command.main(["power", "--seed", "3"]) == 1
