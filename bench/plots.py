"""Plots of the io suite, one PNG a figure, and one of all ratios against their targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Spread
from bench.rows import AIM, MUST, Row
from bench.style import ENGINE_COLORS, ENGINE_MARKERS, GREY, pyplot, tidy

Point = tuple[Any, Spread, float | None]  # x, values, CPU us per operation

SERIES_WORDS = {
    "uring": "io_uring",
    "threads": "threads",
    "fio": "fio, io_uring (no cache, no Python)",
}


def series(rows: list[Row], figure: str, mode: str) -> dict[str, list[Point]]:
    """Points of each engine in the order of the rows; the first engine is in several rows."""
    found: dict[str, dict[Any, Point]] = {}
    for row in rows:
        if row.at.get("figure") != figure or row.at.get("mode") != mode:
            continue
        x = row.at["x"]
        if row.ours:
            name = row.at["first"]
            found.setdefault(name, {})[x] = (x, Spread.of(row.ours), row.cpu_us)
        if row.peer:
            found.setdefault(row.peer_name, {})[x] = (x, Spread.of(row.peer), row.peer_cpu_us)
    return {name: list(points.values()) for name, points in found.items()}


def draw_lines(
    axis: Any, lines: dict[str, list[Point]], take_cpu: bool = False, scale: float = 1
) -> None:
    for name, points in lines.items():
        color, marker = ENGINE_COLORS.get(name, GREY), ENGINE_MARKERS.get(name, "o")
        xs = [x for x, _, _ in points]
        style = {"color": color, "marker": marker, "label": SERIES_WORDS.get(name, name)}
        if name == "fio":
            style["linestyle"] = "--"
        if take_cpu:
            axis.plot(xs, [cpu for _, _, cpu in points], **style)
            continue
        axis.plot(xs, [values.median / scale for _, values, _ in points], **style)
        axis.fill_between(
            xs, [v.low / scale for _, v, _ in points], [v.high / scale for _, v, _ in points],
            color=color, alpha=0.15, linewidth=0,
        )  # fmt: skip


def size_word(size_bytes: int) -> str:
    if size_bytes >= 1 << 20:
        return f"{size_bytes >> 20} MiB"
    return f"{size_bytes >> 10} KiB" if size_bytes >= 1024 else f"{size_bytes} B"


def log_ticks(axis: Any, values: list[int], word: Callable[[int], str] = str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [word(value) for value in values])
    axis.minorticks_off()


def draw_depth(plot: Any, rows: list[Row]) -> Any:
    modes = {"get_many": "keys per get_many", "asyncio": "asyncio tasks"}
    figure, axes = plot.subplots(2, 2, figsize=(13, 8.4), layout="constrained", sharey="row")
    for column, (mode, word) in enumerate(modes.items()):
        lines = series(rows, "depth", mode)
        depths = sorted({x for points in lines.values() for x, _, _ in points})
        draw_lines(axes[0][column], lines, scale=1000)
        draw_lines(axes[1][column], lines, take_cpu=True)
        for axis in axes[:, column]:
            log_ticks(axis, depths)
            axis.set_xlabel(f"depth: {word} (fio: iodepth)")
        tidy(axes[0][column], f"4 KiB random reads, {mode}: thousand reads per second")
        tidy(axes[1][column], f"4 KiB random reads, {mode}: CPU us per read")
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)
    axes[0][0].legend(frameon=False)
    return figure


def draw_size(plot: Any, rows: list[Row]) -> Any:
    titles = {"put": "put until the device has it", "get_many": "get_many of 16 random keys"}
    figure, axes = plot.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    for axis, (mode, title) in zip(axes, titles.items(), strict=True):
        lines = series(rows, "size", mode)
        sizes = sorted({x for points in lines.values() for x, _, _ in points})
        draw_lines(axis, lines)
        log_ticks(axis, sizes, size_word)
        axis.set(xlabel="value size", ylim=(0, None))
        tidy(axis, f"{title}: MB per second")
    axes[0].legend(frameon=False)
    return figure


def draw_mix(plot: Any, rows: list[Row]) -> Any:
    lines = series(rows, "mix", "mix")
    figure, axes = plot.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    draw_lines(axes[0], lines, scale=1000)
    draw_lines(axes[1], lines, take_cpu=True)
    for axis, title in zip(axes, ("thousand operations per second", "CPU us each"), strict=True):
        axis.set(xlabel="share of puts, %", ylim=(0, None))
        tidy(axis, f"4 KiB gets and puts in batches of 64: {title}")
    axes[0].legend(frameon=False)
    return figure


def draw_cache(plot: Any, rows: list[Row]) -> Any:
    figure, axes = plot.subplots(1, 2, figsize=(13, 4.6), layout="constrained", sharey=True)
    for axis, mode in zip(axes, ("get_many", "asyncio"), strict=True):
        lines = series(rows, "cache", mode)
        for number, (name, points) in enumerate(lines.items()):
            shift = 0.38 * (number - (len(lines) - 1) / 2)
            places = [place + shift for place in range(len(points))]
            middles = [values.median / 1000 for _, values, _ in points]
            errors = [
                [(values.median - values.low) / 1000 for _, values, _ in points],
                [(values.high - values.median) / 1000 for _, values, _ in points],
            ]
            axis.bar(
                places, middles, width=0.36, color=ENGINE_COLORS.get(name, GREY), yerr=errors,
                label=SERIES_WORDS.get(name, name), error_kw={"ecolor": "#444444", "capsize": 3},
            )  # fmt: skip
            for place, middle, (_, values, cpu) in zip(places, middles, points, strict=True):
                axis.annotate(
                    f"{middle:.0f}k\n{cpu:.1f} us CPU", (place, max(middle, values.high / 1000)),
                    xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8,
                )  # fmt: skip
        names = [x for x, _, _ in next(iter(lines.values()), [])]
        axis.set_xticks(range(len(names)), names)
        axis.margins(y=0.18)
        tidy(axis, f"4 KiB random reads, {mode}, depth 64: thousand per second", grid="y")
    axes[0].legend(frameon=False, loc="upper left")
    return figure


def draw_targets(plot: Any, rows: list[Row]) -> Any:
    """Each judged row as a distance to its bound: right of 1 is good."""
    judged = [row for row in rows if row.judged and (row.must is not None or row.aim is not None)]
    judged = [row for row in judged if (row.must or row.aim or 0) > 0]
    figure, axis = plot.subplots(figsize=(13, 1.6 + 0.34 * len(judged)), layout="constrained")
    colors = {AIM: "#2a9d8f", MUST: "#8ab17d"}
    for place, row in enumerate(judged):
        bound, spread = row.must if row.must is not None else row.aim, row.judged
        assert bound
        assert spread
        values = [spread.low, spread.median, spread.high]
        scores = [bound / max(v, 1e-12) if row.lower_is_better else v / bound for v in values]
        low, middle, high = min(scores), scores[1], max(scores)
        color = colors.get(row.verdict, "#d1495b")
        axis.plot([low, high], [place, place], color=color, linewidth=5, alpha=0.35)
        axis.plot([middle], [place], "o", color=color, markersize=7)
        if row.must and row.aim:
            aim = row.must / row.aim if row.lower_is_better else row.aim / row.must
            axis.plot([aim], [place], "|", color="#444444", markersize=12)
    names = [
        row.label.replace("`", "") + (f"  ({row.peer_name})" if row.peer_name else "")
        for row in judged
    ]
    axis.set_yticks(range(len(judged)), names, fontsize=9)
    axis.invert_yaxis()
    axis.axvline(1, color="#444444", linewidth=1)
    axis.set(xscale="log", xlabel="times better than the must (| marks the aim); left of 1 misses")
    tidy(axis, "Targets: green reaches the aim, light green the must, red misses", grid="x")
    return figure


FIGURES = {"depth": draw_depth, "size": draw_size, "mix": draw_mix, "cache": draw_cache}


def draw(rows: list[Row], machine: dict[str, str], directory: Path) -> list[Path]:
    """Draw every figure for which there are rows; the paths written."""
    plot = pyplot()
    directory.mkdir(parents=True, exist_ok=True)
    present = {row.at.get("figure") for row in rows}
    figures = {name: make(plot, rows) for name, make in FIGURES.items() if name in present}
    if any(row.verdict != "-" for row in rows):
        figures["targets"] = draw_targets(plot, rows)
    paths = []
    for name, figure in figures.items():
        figure.suptitle(
            f"{machine['processor']}, {machine['CPUs']} CPUs, Linux {machine['kernel']}, "
            f"{machine['file system']}; median, shaded from least to greatest",
            fontsize=9, color="#666666", x=0.01, ha="left",
        )  # fmt: skip
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=110)
        plot.close(figure)
        paths.append(path)
    return paths
