"""The demo's picture: latency by tier, hit ratios over time, engines, bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.demo_report import TIER_COLORS, TIER_WORDS, Outcome, nanoseconds, size
from bench.demo_steps import TIERS
from bench.measure import Spread
from bench.style import ENGINE_COLORS, GREY, pyplot, tidy


def draw_latency(axis: Any, outcome: Outcome) -> None:
    for tier in TIERS:
        values = np.sort(np.asarray(outcome.reads.latencies[tier], dtype=float)) / 1000
        if len(values) < 2:
            continue
        # From the 0th to the 99.99th percentile on a scale that opens up the tail.
        shares = (np.arange(len(values)) + 0.5) / len(values)
        axis.plot(
            1 / (1 - shares), values, color=TIER_COLORS[tier], linewidth=2,
            label=f"{TIER_WORDS[tier]} ({len(values):,})",
        )  # fmt: skip
    ticks = [(1, "0"), (2, "50"), (10, "90"), (100, "99"), (1000, "99.9"), (10000, "99.99")]
    axis.set(xscale="log", yscale="log", xlabel="percentile of gets")
    axis.yaxis.set_major_formatter(lambda value, _: nanoseconds(1000 * value))
    axis.set_xticks([tick for tick, _ in ticks], [label for _, label in ticks])
    axis.minorticks_off()
    if axis.get_lines():
        axis.legend(frameon=False, fontsize=9)
    tidy(axis, "How long a get takes, by the tier that answers")


def draw_history(axis: Any, outcome: Outcome) -> None:
    history = outcome.reads.history
    if history:
        steps = np.linspace(0, 100, len(history))
        shares = [[100 * step[tier] for step in history] for tier in TIERS]
        axis.stackplot(
            steps, shares, labels=[TIER_WORDS[tier] for tier in TIERS],
            colors=[TIER_COLORS[tier] for tier in TIERS], alpha=0.9, linewidth=0,
        )  # fmt: skip
        axis.set(xlim=(0, 100), ylim=(0, 100))
        axis.legend(
            frameon=False, fontsize=9, ncol=4, loc="upper center", bbox_to_anchor=(0.5, -0.16),
            columnspacing=1.0, handlelength=1.2,
        )  # fmt: skip
    axis.set(xlabel="progress of the reads, %", ylabel="share of gets, %")
    tidy(axis, "Who answers while RAM warms up (Zipf 1.0)")


def draw_engines(axis: Any, outcome: Outcome) -> None:
    runs = [run for run in outcome.engines if run.rates]
    for place, run in enumerate(runs):
        rates = Spread.of(run.rates)
        axis.barh(
            place, rates.median, color=ENGINE_COLORS.get(run.engine, GREY), height=0.55,
            xerr=[[rates.median - rates.low], [rates.high - rates.median]],
            error_kw={"ecolor": "#333333", "capsize": 4},
        )  # fmt: skip
        axis.annotate(
            f"{rates.median:,.0f} gets/s, {Spread.of(run.cpu_us).median:.1f} us CPU each",
            (0, place), xytext=(8, 0), textcoords="offset points", va="center", color="white",
            fontsize=10, fontweight="bold",
        )  # fmt: skip
    axis.set_yticks(range(len(runs)), [run.engine for run in runs])
    axis.invert_yaxis()
    axis.set(xlabel="gets per second (median, least to greatest)", xlim=(0, None))
    tidy(axis, "io_uring and threads, the same store, 64 files per batch", grid="x")


def draw_bytes(axis: Any, outcome: Outcome) -> None:
    fill, after = outcome.fill, outcome.reads.after
    bars = [
        ("payload", fill.payload_bytes, "#577590"),
        ("log written", fill.log_bytes, "#577590"),
        ("RAM budget", outcome.setup.memory_bytes, TIER_COLORS["memory"]),
        ("gets answered by RAM", outcome.reads.sizes["front"] + outcome.reads.sizes["memory"],
         TIER_COLORS["front"]),
        ("gets answered by disk", outcome.reads.sizes["disk"], TIER_COLORS["disk"]),
        ("index", after.get("index_used_bytes", 0), GREY),
    ]  # fmt: skip
    most = max(value for _, value, _ in bars) or 1
    for place, (_, value, color) in enumerate(bars):
        axis.barh(place, value / (1 << 20), color=color, height=0.6)
        axis.annotate(
            size(value), (value / (1 << 20), place), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    axis.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axis.invert_yaxis()
    axis.set(xlabel="MiB", xlim=(0, 1.18 * most / (1 << 20)))
    tidy(axis, "Bytes", grid="x")


def draw(outcome: Outcome, path: Path) -> None:
    """Write the picture as PNG."""
    plot = pyplot()
    figure, axes = plot.subplots(2, 2, figsize=(14, 9.2), layout="constrained")
    draw_latency(axes[0][0], outcome)
    draw_history(axes[0][1], outcome)
    draw_engines(axes[1][0], outcome)
    draw_bytes(axes[1][1], outcome)
    source = outcome.source
    figure.suptitle(
        f"edgecache: {len(source.files):,} real files, {size(source.total_bytes)}, "
        f"{size(outcome.setup.memory_bytes)} of RAM, engine {outcome.engine_name}; "
        f"{outcome.reads.count:,} gets, {len(outcome.wrong)} wrong\n",
        fontsize=14, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    figure.text(
        0.011, 0.955,
        f"{outcome.machine['processor']}, {outcome.machine['CPUs']} CPUs, Linux "
        f"{outcome.machine['kernel']}, {outcome.machine['file system']}",
        fontsize=9, color="#666666",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plot.close(figure)
