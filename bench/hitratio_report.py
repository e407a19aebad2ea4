"""Output of the hit-ratio bench: table, JSON and plot."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TOLERANCE_POINTS = 0.3


@dataclass(frozen=True)
class Result:
    """One policy on one trace at one size. Ratios are 0 to 1; `peer_*` None: not run."""

    trace: str
    policy: str
    size_fraction: float
    capacity_bytes: int
    requests: int
    miss: float
    byte_miss: float
    mops: float
    peer_miss: float | None
    peer_byte_miss: float | None
    peer_mops: float | None

    @property
    def points(self) -> float | None:
        """Our hit ratio minus the peer's, in percentage points."""
        return None if self.peer_miss is None else 100 * (self.peer_miss - self.miss)


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f}"


def difference(points: float | None) -> str:
    if points is None:
        return "-"
    style = "red" if points < -TOLERANCE_POINTS else "green" if points > 0.005 else ""
    text = f"{points + 0.0:+.2f}"
    return f"[{style}]{text}[/]" if style else text


def print_results(console: Console, results: list[Result], peer: str | None) -> None:
    table = Table(title=f"Miss ratio in percent; peer: {peer or 'none installed'}")
    table.add_column("trace")
    table.add_column("size")
    table.add_column("policy")
    for name in ("ours", "peer", "points", "ours bytes", "peer bytes", "Mops/s", "peer Mops/s"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result.trace,
            f"{result.size_fraction:g}",
            result.policy,
            percent(result.miss),
            percent(result.peer_miss),
            difference(result.points),
            percent(result.byte_miss),
            percent(result.peer_byte_miss),
            f"{result.mops:.1f}",
            "-" if result.peer_mops is None else f"{result.peer_mops:.1f}",
        )
    console.print(table)
    for policy in dict.fromkeys(result.policy for result in results):
        own = [result for result in results if result.policy == policy]
        points = [result.points for result in own if result.points is not None]
        peer_mops = [result.peer_mops for result in own if result.peer_mops is not None]
        line = f"{policy}: {median([result.mops for result in own]):.1f} Mops/s (median)"
        if points:
            line += (
                f", peer {median(peer_mops):.1f}; points: worst {min(points):+.2f}, "
                f"median {median(points):+.2f}, best {max(points):+.2f}; "
                f"{sum(p < -TOLERANCE_POINTS for p in points)} of {len(points)} cells below "
                f"-{TOLERANCE_POINTS}"
            )
        console.print(line)


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def write_json(
    path: Path, results: list[Result], peer: str | None, options: dict[str, Any]
) -> None:
    document = {
        "machine": {
            "cpu_count": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "peer": peer,
        "options": options,
        "results": [asdict(result) | {"points": result.points} for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def plot(path: Path, results: list[Result]) -> None:
    """Draw miss ratio over size, one panel per trace; dashed lines are the peer's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(result.trace for result in results))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    policies = list(dict.fromkeys(result.policy for result in results))
    for axis, name in zip(axes.flat, names, strict=False):
        for number, policy in enumerate(policies):
            cells = [r for r in results if r.trace == name and r.policy == policy]
            cells.sort(key=lambda result: result.size_fraction)
            sizes = [cell.size_fraction for cell in cells]
            color = f"C{number}"
            axis.plot(sizes, [100 * c.miss for c in cells], "o-", color=color, label=policy)
            seen = [(c.size_fraction, 100 * c.peer_miss) for c in cells if c.peer_miss is not None]
            if seen:
                axis.plot(*zip(*seen, strict=True), "x--", color=color)
        axis.set(title=name, xscale="log", xlabel="size / footprint", ylabel="miss ratio, %")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes[0][0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
