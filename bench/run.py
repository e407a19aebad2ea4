"""Run workloads and print how they compare.

python -m bench.run --list
python -m bench.run get_hot put_4k --repeat 9
python -m bench.run --suite targets --json out/bench/targets.json
python -m bench.run --suite io --plot out/bench --json out/bench/io.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import report
from bench.compare import PEERS, is_installed
from bench.engine import ENGINES
from bench.machine import describe
from bench.measure import scratch
from bench.rows import MISS, Row
from bench.workloads import SUITES, WORKLOADS, Plan, names_of, run

WIDTH_COLUMNS = 170


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads; see --list")
    parser.add_argument("--list", action="store_true", help="print all workloads and peers")
    parser.add_argument("--suite", choices=sorted(SUITES))
    parser.add_argument("--engine", default=",".join(ENGINES), help="I/O engines, by commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="peers to measure, by commas")
    parser.add_argument("--quick", action="store_true", help="small data sets, three rounds")
    parser.add_argument("--repeat", type=int, help="rounds per measurement (5; quick: 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where data goes (default: temporary)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw plots into this directory")
    parser.add_argument("--strict", action="store_true", help="status 1 when a must is missed")
    found = parser.parse_args(arguments)
    found.engine = tuple(filter(None, found.engine.split(",")))
    found.peers = frozenset(filter(None, found.peers.split(",")))
    for given, known in ((found.names, WORKLOADS), (found.engine, ENGINES), (found.peers, PEERS)):
        for name in given:
            if name not in known:
                parser.error(f"unknown name {name!r}; known: {', '.join(known)}")
    if found.repeat is not None and found.repeat < 1:
        parser.error("--repeat is at least 1")
    return found


def print_list(console: Console) -> None:
    table = Table(title="Workloads", title_justify="left")
    for name in ("name", "suite", "what it measures"):
        table.add_column(name)
    for name, (suite, _, line) in WORKLOADS.items():
        table.add_row(name, suite, line)
    console.print(table)
    peers = (f"{name}{'' if is_installed(name) else ' (not installed)'}" for name in PEERS)
    console.print("peers: " + ", ".join(peers))


def run_all(names: list[str], plan: Plan, console: Console) -> tuple[list[Row], list[str]]:
    """Run the workloads; their rows, and the names of those that failed."""
    rows: list[Row] = []
    failed: list[str] = []
    for number, name in enumerate(names, 1):
        began = time.perf_counter()
        console.print(f"[dim]{number}/{len(names)}[/] [bold]{name}[/] {WORKLOADS[name][2]}")
        try:
            found = run(name, plan)
        except Exception as error:
            # The others are still worth their time; the status tells.
            console.print_exception(max_frames=4)
            failed.append(name)
            found = [Row(name, WORKLOADS[name][2], "", [], note=f"failed: {error}"[:300])]
        rows += found
        report.print_rows(console, found, f"{name}, {time.perf_counter() - began:.1f} s")
    return rows, failed


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_COLUMNS)
    if options.list:
        print_list(console)
        return 0
    names = [*options.names, *(names_of(options.suite) if options.suite else [])]
    names = list(dict.fromkeys(names))
    if not names:
        console.print("nothing to run: give names or --suite; --list shows them")
        return 2
    machine = describe(options.directory)
    report.print_machine(console, machine)
    repeat = options.repeat or (3 if options.quick else 5)
    with scratch("bench", options.directory) as folder:
        plan = Plan(
            scratch=folder,
            repeat=repeat,
            seed=options.seed,
            is_quick=options.quick,
            engines=options.engine,
            peers=options.peers,
            say=lambda text: console.print(f"  [dim]{text}[/]"),
        )
        rows, failed = run_all(names, plan, console)
    report.print_rows(console, rows, f"Everything; median of {repeat} rounds, least .. greatest")
    console.print(report.summary(rows))
    finish(options, names, repeat, machine, rows, console)
    if failed:
        console.print(f"[bold red]failed: {', '.join(failed)}")
    missed = options.strict and any(row.verdict == MISS for row in rows)
    return 1 if failed or missed else 0


def finish(
    options: argparse.Namespace,
    names: list[str],
    repeat: int,
    machine: dict[str, str],
    rows: list[Row],
    console: Console,
) -> None:
    """Write what was asked for."""
    machine = {**machine, "load after": f"{os.getloadavg()[0]:.1f}"}
    settings = {
        "names": names, "repeat": repeat, "seed": options.seed, "quick": options.quick,
        "engines": list(options.engine), "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    if options.json:
        report.write_json(options.json, machine, settings, rows)
        console.print(f"wrote {options.json}")
    if options.plot:
        from bench.plots import draw

        for path in draw(rows, machine, options.plot):
            console.print(f"drew {path}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
