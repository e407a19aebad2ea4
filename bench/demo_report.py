"""What the demo says: a report on the terminal, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bench.demo_source import Source
from bench.demo_steps import TIERS, Crash, EngineRun, Fill, Reads, Setup
from bench.measure import Spread

PERCENTILES = (50, 90, 99, 99.9)
TIER_WORDS = {
    "front": "front (ready objects)",
    "memory": "memory",
    "disk": "disk",
    "miss": "miss",
}
TIER_COLORS = {"front": "#2a9d8f", "memory": "#8ab17d", "disk": "#e9a23b", "miss": "#d1495b"}


@dataclass
class Outcome:
    """All that the steps found."""

    machine: dict[str, str]
    setup: Setup
    source: Source
    seed: int
    engine_name: str = ""
    fill: Fill = field(default_factory=Fill)
    reopen_s: float = 0
    reads: Reads = field(default_factory=Reads)
    engines: list[EngineRun] = field(default_factory=list)
    engines_wrong: list[str] = field(default_factory=list)
    crash: Crash = field(default_factory=Crash)
    total_s: float = 0

    @property
    def wrong(self) -> list[str]:
        """Keys whose bytes were not those of the source."""
        return [*self.reads.wrong, *self.engines_wrong, *self.crash.wrong]

    @property
    def is_right(self) -> bool:
        return not self.wrong and not self.crash.lost


def percentile(ordered: Sequence[int], percent: float) -> float:
    """Nearest-rank percentile of sorted values."""
    if not ordered:
        raise ValueError("no values")
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def percentiles(values: list[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{percent:g}": percentile(ordered, percent) for percent in PERCENTILES}


def nanoseconds(value: float) -> str:
    for limit, unit, divisor in ((1e3, "ns", 1), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if value < limit:
            scaled = value / divisor
            whole = scaled >= 100 or divisor == 1
            return f"{scaled:.0f} {unit}" if whole else f"{scaled:.3g} {unit}"
    return f"{value / 1e9:.2f} s"


def size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s" if seconds else "-"


def facts(title: str, pairs: Sequence[tuple[str, str]]) -> Panel:
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right")
    for name, value in pairs:
        table.add_row(name, value)
    return Panel(table, title=f"[bold]{title}", title_align="left", border_style="grey42")


def bar(share: float, color: str, width: int = 24) -> Text:
    full = round(share * width)
    return Text("━" * full, style=color) + Text(" " * (width - full))


def tier_table(reads: Reads) -> Table:
    table = Table(
        title="Where the gets were answered", title_justify="left", box=box.SIMPLE_HEAD,
        title_style="bold",
    )  # fmt: skip
    table.add_column("tier")
    table.add_column("share", justify="right")
    table.add_column("")
    table.add_column("gets", justify="right")
    table.add_column("bytes", justify="right")
    for percent in PERCENTILES:
        table.add_column(f"p{percent:g}", justify="right")
    for tier in TIERS:
        values = reads.latencies[tier]
        share = len(values) / max(1, reads.count)
        cells = [nanoseconds(v) for v in percentiles(values).values()] if values else ["-"] * 4
        table.add_row(
            TIER_WORDS[tier], f"{100 * share:.2f} %", bar(share, TIER_COLORS[tier]),
            f"{len(values):,}", size(reads.sizes[tier]), *cells,
        )  # fmt: skip
    return table


def engine_table(runs: Sequence[EngineRun]) -> Table:
    table = Table(
        title="io_uring and threads on the same store (64 random files per get_many)",
        title_justify="left", box=box.SIMPLE_HEAD, title_style="bold",
    )  # fmt: skip
    table.add_column("engine")
    for name in ("gets/s", "spread", "bandwidth", "CPU per get"):
        table.add_column(name, justify="right")
    for run in runs:
        if not run.rates:
            table.add_row(run.engine, "-", "-", "-", run.refused or "no file was read")
            continue
        rates = Spread.of(run.rates)
        table.add_row(
            run.engine, f"{rates.median:,.0f}", f"{rates.low:,.0f} .. {rates.high:,.0f}",
            f"{size(Spread.of(run.bandwidths).median)}/s", f"{Spread.of(run.cpu_us).median:.1f} us",
        )  # fmt: skip
    return table


def fill_panel(outcome: Outcome) -> Panel:
    fill = outcome.fill
    puts = percentiles(fill.latencies) if fill.latencies else {}
    return facts(
        "Write",
        [
            ("files put", f"{len(fill.latencies):,}"),
            ("bytes", size(fill.payload_bytes)),
            ("rate", rate(len(fill.latencies), fill.wall_s)),
            ("bandwidth, durable", f"{size(fill.payload_bytes / max(fill.wall_s, 1e-9))}/s"),
            ("CPU per put", f"{1e6 * fill.cpu_s / max(1, len(fill.latencies)):.1f} us"),
            ("put p50 / p99", f"{nanoseconds(puts['p50'])} / {nanoseconds(puts['p99'])}"
             if puts else "-"),
            ("last sync", nanoseconds(1e9 * fill.sync_s)),
            ("shed", f"{fill.shed_count:,}"),
        ],
    )  # fmt: skip


def space_panel(outcome: Outcome) -> Panel:
    fill, after = outcome.fill, outcome.reads.after
    payload = max(1, fill.payload_bytes)
    objects = max(1, after.get("objects", 0))
    return facts(
        "Space",
        [
            ("payload", size(fill.payload_bytes)),
            ("written to the log", size(fill.log_bytes)),
            ("write amplification", f"{fill.log_bytes / payload:.3f}"),
            ("with regions made ahead", f"{fill.device_write_bytes / payload:.3f}"),
            ("RAM budget", size(outcome.setup.memory_bytes)),
            ("RAM in use", size(after.get("memory_used_bytes", 0))),
            ("index per object", f"{after.get('index_used_bytes', 0) / objects:.1f} B"),
            ("objects", f"{after.get('objects', 0):,}"),
        ],
    )


def crash_panel(outcome: Outcome) -> Panel:
    crash = outcome.crash
    if not crash.open_s:
        return facts("kill -9", [("not run", "-")])
    opened = Spread.of(crash.open_s)
    return facts(
        "kill -9 while writing",
        [
            ("kills", str(len(crash.open_s))),
            ("open afterwards", nanoseconds(1e9 * opened.median)),
            ("  least .. greatest", f"{nanoseconds(1e9 * opened.low)} .. "
             f"{nanoseconds(1e9 * opened.high)}"),
            ("clean reopen", nanoseconds(1e9 * outcome.reopen_s)),
            ("synced before", f"{crash.synced:,}"),
            ("of these lost", f"{len(crash.lost):,}"),
            ("unsynced, kept anyway", f"{crash.unsynced_found:,}"),
            ("older files checked", f"{crash.originals_checked:,}"),
        ],
    )  # fmt: skip


def verdict_panel(outcome: Outcome) -> Panel:
    reads, crash = outcome.reads, outcome.crash
    if outcome.is_right:
        text = Text.assemble(
            ("Every byte was right. ", "bold green"),
            f"{reads.count:,} gets and {size(reads.verified_bytes)} were checked against checksums "
            f"of the source files; all {crash.synced:,} entries synced before a kill came back.",
        )
        return Panel(text, border_style="green", title="Verdict", title_align="left")
    lines = [f"wrong bytes: {key}" for key in outcome.wrong[:10]]
    lines += [f"lost after sync: {key}" for key in crash.lost[:10]]
    text = Text.assemble(
        (f"{len(outcome.wrong)} values were wrong, {len(crash.lost)} lost.\n", "bold red"),
        "\n".join(lines),
    )
    return Panel(text, border_style="red", title="Verdict", title_align="left")


def print_outcome(console: Console, outcome: Outcome) -> None:
    console.print()
    console.print(tier_table(outcome.reads))
    reads = outcome.reads
    hits = reads.count - len(reads.latencies["miss"])
    in_ram = len(reads.latencies["front"]) + len(reads.latencies["memory"])
    console.print(
        f"hit ratio [bold]{100 * hits / max(1, reads.count):.2f} %[/], from RAM "
        f"[bold]{100 * in_ram / max(1, reads.count):.2f} %[/] with RAM for "
        f"{100 * outcome.setup.memory_bytes / max(1, outcome.source.total_bytes):.0f} % of the "
        f"bytes; {rate(reads.count, reads.wall_s)} gets on one thread, "
        f"{size(reads.device_read_bytes)} read from the device\n"
    )
    console.print(engine_table(outcome.engines))
    panels = [fill_panel(outcome), space_panel(outcome), crash_panel(outcome)]
    console.print(Columns(panels, padding=(0, 1)) if console.width >= 120 else Group(*panels))
    console.print(verdict_panel(outcome))


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Everything as plain values; latencies as percentiles in ns."""
    reads, fill, crash = outcome.reads, outcome.fill, outcome.crash
    return {
        "machine": outcome.machine,
        "setup": {
            "directory": str(outcome.source.directory),
            "files": len(outcome.source.files),
            "bytes": outcome.source.total_bytes,
            "skipped": outcome.source.skipped,
            "memory_bytes": outcome.setup.memory_bytes,
            "disk_bytes": outcome.setup.disk_bytes,
            "engine": outcome.engine_name,
            "seed": outcome.seed,
        },
        "fill": {k: v for k, v in vars(fill).items() if k != "latencies"}
        | {"put_ns": percentiles(fill.latencies) if fill.latencies else {}},
        "reads": {
            "gets": reads.count,
            "shares": {t: len(reads.latencies[t]) / max(1, reads.count) for t in TIERS},
            "get_ns": {t: percentiles(v) for t, v in reads.latencies.items() if v},
            "bytes": reads.sizes,
            "verified_bytes": reads.verified_bytes,
            "device_read_bytes": reads.device_read_bytes,
            "wall_s": reads.wall_s,
            "cpu_s": reads.cpu_s,
        },
        "engines": [vars(run) for run in outcome.engines],
        "crash": vars(crash),
        "reopen_s": outcome.reopen_s,
        "wrong": outcome.wrong,
        "is_right": outcome.is_right,
        "total_s": outcome.total_s,
    }


def write_json(path: Path, outcome: Outcome) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(outcome), indent=1) + "\n", "utf-8")
