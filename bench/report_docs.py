"""Write the tables of docs/performance.md from the JSON of one or more runs.

    python -m bench.run --suite targets --json out/bench/targets.json
    python -m bench.report_docs out/bench/targets.json

Only the part between the two marks is replaced; the words around it are written by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.report import (
    VERDICT_WORDS,
    bound_text,
    median_text,
    pair,
    ratio_text,
    read_json,
    spread_text,
)
from bench.rows import MISS, Row
from bench.workloads import WORKLOADS

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
COLUMNS = (
    "what", "against", "ours", "peer", "ratio", "spread", "must", "aim", "verdict",
    "wall, ours / peer", "CPU, ours / peer",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    verdict = VERDICT_WORDS.get(row.verdict, "-")
    label = row.label + (f"; {row.note}" if row.note else "")
    return [
        label, row.peer_name or "-", median_text(row.ours, row.unit),
        median_text(row.peer, row.unit), ratio_text(row), spread_text(row),
        bound_text(row, row.must), bound_text(row, row.aim),
        f"**{verdict}**" if row.verdict == MISS else verdict,
        pair(row.wall_us, row.peer_wall_us), pair(row.cpu_us, row.peer_cpu_us),
    ]  # fmt: skip


def markdown_row(values: list[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def tables(paths: list[Path]) -> str:
    """Machine, rows and a summary, as Markdown."""
    rows: list[Row] = []
    lines: list[str] = []
    for path in paths:
        machine, options, found = read_json(path)
        rows += found
        size = "small data sets (`--quick`)" if options["quick"] else "full data sets"
        lines += [
            f"Run of {options['date']}, {size}, {options['repeat']} rounds, seed "
            f"{options['seed']}: " + ", ".join(f"{k} {v}" for k, v in machine.items()) + ".",
            "",
        ]
    rows.sort(key=lambda row: list(WORKLOADS).index(row.workload))
    lines += [markdown_row(list(COLUMNS)), "|---|---|" + "---:|" * 6 + "---|---:|---:|"]
    lines += [markdown_row(cells(row)) for row in rows]
    missed = list(dict.fromkeys(row.workload for row in rows if row.verdict == MISS))
    lines += [
        "",
        f"Missed in this run: {', '.join(f'`{name}`' for name in missed)}."
        if missed
        else "Nothing was missed in this run.",
    ]
    return "\n".join(lines)


def replace_between(document: str, text: str) -> str:
    """Put `text` between the marks.

    Raises:
        ValueError: A mark is missing, or they are in the wrong order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.report_docs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(arguments)
    document = options.document.read_text("utf-8")
    options.document.write_text(replace_between(document, tables(options.runs)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
