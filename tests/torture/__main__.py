"""The reliability campaign.

    python -m torture [ROW ...] [--short | --long] [--seed N] [--first N] [--count N]
                      [--scratch DIR] [--json FILE]

Runs the rows one after the other and prints one table. A row that this machine cannot run says why.
Status 0: every promise held; 1: one did not; 2: the rows asked for by name cannot run here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgecache import __version__
from torture.campaign import Outcome, Row, execute
from torture.rows import ROWS

DRAW_INTERVAL_S = 0.2


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", dest="is_long", action="store_false", help="what the suite runs")
    size.add_argument("--long", dest="is_long", action="store_true", help="what a release needs")
    parser.set_defaults(is_long=False)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 10**9 % 10**6)
    parser.add_argument("--first", type=int, default=0, help="number of the first injection")
    parser.add_argument("--count", type=int, help="how many injections, instead of short or long")
    parser.add_argument("--scratch", type=Path, help="where files go (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    found = parser.parse_args(arguments)
    unknown = sorted(set(found.rows) - set(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if found.first < 0 or (found.count is not None and found.count < 1):
        parser.error("--first is 0 or more, --count is 1 or more")
    return found


def run_row(row: Row, options: argparse.Namespace, directory: Path, console: Console) -> Outcome:
    # No refresh thread: rows fork, and a fork must not find a lock of another thread taken.
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(row.name, total=None)
        drawn_s = [0.0]

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if time.monotonic() - drawn_s[0] > DRAW_INTERVAL_S:
                drawn_s[0] = time.monotonic()
                progress.refresh()

        return execute(
            row, seed=options.seed, count=options.count, first=options.first,
            is_long=options.is_long, directory=directory, advance=advance,
        )  # fmt: skip


def table_of(outcomes: list[Outcome]) -> Table:
    table = Table(title="Reliability campaign", title_justify="left")
    for name, justify in (("row", "left"), ("injections", "right"), ("violations", "right"),
                          ("figure", "left"), ("s", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for outcome in outcomes:
        figure = outcome.figure
        violations = str(outcome.violation_count)
        if outcome.cannot_run:
            figure = f"[yellow]cannot run here:[/] {outcome.cannot_run}"
            violations = "-"
        elif outcome.violation_count:
            violations = f"[bold red]{violations}[/]"
        table.add_row(outcome.row, f"{outcome.injections:,}", violations, figure,
                      f"{outcome.seconds:.1f}")  # fmt: skip
    return table


def write_json(path: Path, options: argparse.Namespace, outcomes: list[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "edgecache": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "seed": options.seed,
        "is_long": options.is_long,
        "rows": [outcome.to_json() for outcome in outcomes],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    console.print(f"seed {options.seed}")
    outcomes = []
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="torture-") as directory:
        for name in options.rows or ROWS:
            outcomes.append(run_row(ROWS[name], options, Path(directory), console))
            for violation in outcomes[-1].violations:
                console.print(violation, markup=False, style="red")
    console.print(table_of(outcomes))
    if options.json:
        write_json(options.json, options, outcomes)
    if not all(outcome.is_good for outcome in outcomes):
        return 1
    return 2 if options.rows and all(outcome.cannot_run for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
