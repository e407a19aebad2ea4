"""What a run prints and writes: tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.rows import AIM, MISS, MUST, Row

VERDICT_STYLES = {AIM: "bold green", MUST: "green", MISS: "bold red"}
VERDICT_WORDS = {AIM: "pass (aim)", MUST: "pass", MISS: "miss"}


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def ratio_text(row: Row) -> str:
    judged = row.judged
    if judged is None:
        return "-"
    suffix = f" {row.unit}" if row.is_absolute else "x"
    return f"{number(judged.median)}{suffix}"


def spread_text(row: Row) -> str:
    judged = row.judged
    return "-" if judged is None else f"{number(judged.low)} .. {number(judged.high)}"


def bound_text(row: Row, bound: float | None) -> str:
    if bound is None:
        return "-"
    return f"{'<=' if row.lower_is_better else '>='} {number(bound)}"


def median_text(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{number(ordered[len(ordered) // 2])} {unit}"


def duration(value_us: float) -> str:
    """A time per operation: ns below one us, else us."""
    return f"{1000 * value_us:.0f} ns" if value_us < 1 else f"{number(value_us)} us"


def pair(left: float | None, right: float | None) -> str:
    """Ours and the peer's time per operation."""
    if left is None:
        return "-"
    return duration(left) if right is None else f"{duration(left)} / {duration(right)}"


def print_machine(console: Console, machine: dict[str, str]) -> None:
    table = Table(title="Machine", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in machine.items():
        table.add_row(name, value)
    console.print(table)


def print_rows(console: Console, rows: Iterable[Row], title: str) -> None:
    """One line a row: ratio with spread, bounds, verdict, wall and CPU of both sides."""
    table = Table(title=title, title_justify="left", row_styles=("", "on grey7"))
    table.add_column("what", ratio=3, overflow="fold")
    table.add_column("against")
    for name in ("ours", "peer", "ratio", "spread", "must", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("wall per op\nours / peer", justify="right", no_wrap=True)
    table.add_column("CPU per op\nours / peer", justify="right", no_wrap=True)
    for row in rows:
        verdict = row.verdict
        what = Text(row.label)
        if row.note:
            what.append(f"\n{row.note}", style="dim italic")
        table.add_row(
            what,
            row.peer_name or "-",
            median_text(row.ours, row.unit),
            median_text(row.peer, row.unit),
            ratio_text(row),
            spread_text(row),
            bound_text(row, row.must),
            bound_text(row, row.aim),
            Text(VERDICT_WORDS.get(verdict, "-"), style=VERDICT_STYLES.get(verdict, "dim")),
            pair(row.wall_us, row.peer_wall_us),
            pair(row.cpu_us, row.peer_cpu_us),
        )
    console.print(table)


def summary(rows: Iterable[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    judged = [verdict for verdict in verdicts if verdict in VERDICT_WORDS]
    return (
        f"{judged.count(AIM)} reach the aim, {judged.count(MUST)} the must, "
        f"{judged.count(MISS)} miss; {len(verdicts) - len(judged)} rows are not judged"
    )


def write_json(
    path: Path, machine: dict[str, str], options: dict[str, Any], rows: list[Row]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "options": options, "rows": [row.to_dict() for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read_json(path: Path) -> tuple[dict[str, str], dict[str, Any], list[Row]]:
    document = json.loads(path.read_text("utf-8"))
    return document["machine"], document["options"], [Row.from_dict(r) for r in document["rows"]]
