"""What every row of the campaign has in common: its run, its violations, its outcome.

A row injects one kind of trouble many times and checks one promise after each. Injections are
numbered; the random numbers of one depend on the seed and on its number alone, so `--first N
--count 1` repeats it, up to what threads and the clock do.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# More than these of one row say nothing new.
VIOLATIONS_MAX = 20


class CannotRunError(Exception):
    """This machine cannot do what the row needs; says what is missing."""


@dataclass
class Outcome:
    """What a row found."""

    row: str
    seed: int
    injections: int = 0
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    figure: str = ""
    cannot_run: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return not self.violation_count

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Run:
    """One run of a row: how much it is to do, where, and what it found."""

    def __init__(
        self, row: str, *, seed: int, count: int, first: int, is_long: bool,
        directory: Path, advance: Callable[[int, int], object],
    ) -> None:  # fmt: skip
        self.outcome = Outcome(row, seed)
        self.seed, self.count, self.first, self.is_long = seed, count, first, is_long
        self.directory = directory
        self._advance = advance

    def numbers(self) -> Iterator[int]:
        """Numbers of the injections to make; stops early when there is nothing new to learn."""
        for number in range(self.first, self.first + self.count):
            yield number
            self.done()
            if self.outcome.violation_count >= VIOLATIONS_MAX:
                return

    def done(self, count: int = 1) -> None:
        """Count injections that were made and checked."""
        self.outcome.injections += count
        self._advance(self.outcome.injections, self.count)

    def random(self, number: int) -> random.Random:
        return random.Random(f"{self.outcome.row}/{self.seed}/{number}")

    def violation(self, number: int, what: object) -> None:
        self.outcome.violation_count += 1
        if len(self.outcome.violations) < VIOLATIONS_MAX:
            name = self.outcome.row
            again = f"python -m torture {name} --seed {self.seed} --first {number} --count 1"
            self.outcome.violations.append(f"[{again}] {what}")

    @contextmanager
    def judged(self, number: int) -> Iterator[None]:
        """What fails inside is a violation of this injection, not the end of the row."""
        try:
            yield
        except CannotRunError:
            raise
        except Exception as error:
            self.violation(number, f"{type(error).__name__}: {error}")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory that goes when it is done with."""
        path = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Row:
    """A row: `run` returns its figure; `short` and `long` are numbers of injections."""

    name: str
    injected: str
    promise: str
    short: int
    long: int
    run: Callable[[Run], str]


def execute(
    row: Row, *, seed: int, count: int | None, first: int, is_long: bool,
    directory: Path, advance: Callable[[int, int], object] = lambda _done, _total: None,
) -> Outcome:  # fmt: skip
    """Run one row; whatever it raises is a violation."""
    wanted = count if count is not None else row.long if is_long else row.short
    run = Run(
        row.name, seed=seed, count=wanted, first=first, is_long=is_long,
        directory=directory, advance=advance,
    )  # fmt: skip
    begin = time.monotonic()
    try:
        run.outcome.figure = row.run(run)
    except CannotRunError as reason:
        run.outcome.cannot_run = str(reason)
    except Exception as error:
        run.violation(first + run.outcome.injections, f"{type(error).__name__}: {error}")
    run.outcome.seconds = time.monotonic() - begin
    return run.outcome
