"""The look of all plots."""

from __future__ import annotations

from typing import Any

ENGINE_COLORS = {"uring": "#1d6996", "threads": "#e17c05", "fio": "#6f6f6f"}
ENGINE_MARKERS = {"uring": "o", "threads": "s", "fio": "x"}
GREY = "#8d99ae"


def pyplot() -> Any:
    """Return matplotlib's pyplot, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plot

    plot.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#999999",
            "axes.axisbelow": True,
            "figure.facecolor": "white",
        }
    )
    return plot


def tidy(axis: Any, title: str, grid: str = "both") -> None:
    """Title at the left, a light grid."""
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.grid(True, axis=grid, color="#e6e6e6", linewidth=0.8)
