"""What edgecache does, shown on real files: `make demo`.

    python -m bench.demo [--from DIR] [--memory-ratio 0.1] [--engine auto] [--out out/demo]

Puts the files below DIR through a cache whose RAM is a tenth of them, reads them back in Zipf
order and checks every byte, races io_uring against threads, and kills a writing process to see
what a restart finds. No service, no network; everything it writes but `--out` is removed.
Status 0: every byte was right; 1: not; 2: nothing to do; 130: interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bench import demo_report, demo_steps
from bench.demo_source import Source, default_directory, read_source
from bench.engine import engine_report
from bench.machine import describe
from bench.measure import scratch

READ_COUNT = 200_000
# Shares of --seconds-max that a step may use before it stops with what it has.
SOURCE_SHARE, READ_SHARE, RACE_SHARE = 0.2, 0.4, 0.12


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="directory", type=Path, default=default_directory())
    parser.add_argument("--memory-ratio", type=float, default=0.1)
    parser.add_argument("--engine", choices=("auto", "uring", "threads"), default="auto")
    parser.add_argument("--seconds-max", type=float, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where the cache goes (default: temporary)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    found = parser.parse_args(arguments)
    if not 0 < found.memory_ratio <= 1:
        parser.error("--memory-ratio is above 0 and at most 1")
    if not found.directory.is_dir():
        parser.error(f"{found.directory} is no directory")
    return found


@contextmanager
def step(progress: Progress, text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for one step; gives the function that moves it."""
    task = progress.add_task(text, total=None)
    if not progress.console.is_terminal:
        progress.console.print(f"... {text}", highlight=False)

    def advance(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    yield advance
    progress.stop_task(task)


def limit(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=36, complete_style="#1d6996", finished_style="#2a9d8f"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def greet(console: Console, options: argparse.Namespace, machine: dict[str, str]) -> None:
    console.print(
        Panel(
            f"[bold]edgecache {machine['edgecache']}[/]: a cache in RAM and on disk, "
            f"shown on the files below [bold]{options.directory}[/]\n"
            f"[dim]{machine['processor']}, {machine['CPUs']} CPUs, {machine['memory']}; Linux "
            f"{machine['kernel']}, {machine['file system']}; Python {machine['python']}",
            border_style="#1d6996",
        )
    )


def run(
    options: argparse.Namespace,
    folder: Path,
    source: Source,
    progress: Progress,
    machine: dict[str, str],
) -> demo_report.Outcome:
    """All steps after the source was read."""
    setup = demo_steps.Setup.for_source(
        folder / "store", source, options.memory_ratio, options.engine
    )
    outcome = demo_report.Outcome(machine, setup, source, options.seed)
    outcome.engine_name = engine_report(folder, options.engine)
    budget_s = options.seconds_max
    with step(progress, "put every file, then sync") as advance:
        store = setup.open()
        try:
            outcome.fill = demo_steps.fill(setup, store, source, advance)
        finally:
            store.close()
    began = time.perf_counter()
    store = setup.open()
    outcome.reopen_s = time.perf_counter() - began
    try:
        with step(progress, "get in Zipf order, check every byte") as advance:
            count = min(READ_COUNT, 20 * len(source.files))
            outcome.reads = demo_steps.read(
                store, source, options.seed, count, advance, limit(READ_SHARE * budget_s)
            )
    finally:
        store.close()
    with step(progress, "race io_uring against threads") as advance:
        seconds = min(1.2, RACE_SHARE * budget_s / (2 * demo_steps.ENGINE_ROUNDS))
        outcome.engines, outcome.engines_wrong = demo_steps.race(
            setup, source, options.seed, seconds, advance
        )
    with step(progress, "kill -9 a writing process, reopen, check") as advance:
        syncs = 20 if budget_s >= 60 else 3
        outcome.crash = demo_steps.crash(setup, source, options.seed, syncs, advance)
    return outcome


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    began = time.perf_counter()
    try:
        machine = describe(options.scratch)
        greet(console, options, machine)
        with scratch("demo", options.scratch) as folder, bars(console) as progress:
            with step(progress, "read the files, compute checksums") as advance:
                source = read_source(
                    options.directory, advance, limit(SOURCE_SHARE * options.seconds_max)
                )
            if not source.files:
                console.print(f"[red]no readable file below {options.directory}")
                return 2
            outcome = run(options, folder, source, progress, machine)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; what was written is removed")
        return 130
    outcome.total_s = time.perf_counter() - began
    demo_report.print_outcome(console, outcome)
    demo_report.write_json(options.out / "demo.json", outcome)
    from bench.demo_plot import draw

    draw(outcome, options.out / "demo.png")
    console.print(
        f"{outcome.total_s:.0f} s in all; [bold]{options.out / 'demo.png'}[/] shows it, "
        f"{options.out / 'demo.json'} has the figures"
    )
    return 0 if outcome.is_right else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
