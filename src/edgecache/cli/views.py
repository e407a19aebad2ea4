"""Tables of a statistics snapshot, for `edgecache stat` and `edgecache top`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgecache.cli.console import seconds, size, uptime
from edgecache.metrics.histogram import quantile_seconds

Stats = Mapping[str, Any]
_STATUS_STYLE = {"ok": "bold green", "degraded": "bold yellow"}


def hit_count(stats: Stats) -> int:
    """Return the hits of all tiers."""
    return sum(stats["requests"]["hits"].values())


def hit_ratio(stats: Stats) -> float | None:
    """Return hits by lookups, or None when nothing was asked for."""
    total = hit_count(stats) + stats["requests"]["misses"]
    return hit_count(stats) / total if total else None


def overview(stats: Stats, health: Mapping[str, Any]) -> RenderableType:
    """Return the whole page of `edgecache stat`."""
    status = str(health.get("status", "unknown"))
    engine = stats["engine"]
    head = Text.assemble(
        "edgecache ",
        (str(engine["version"]), "bold"),
        "  ",
        (status, _STATUS_STYLE.get(status, "bold red")),
        f"  up {uptime(engine['uptime_seconds'])}",
        f"  io {engine['io']}  layout {engine['layout']}  policy {engine['policy']}",
    )
    reasons = [
        Text.assemble(("! ", "yellow"), f"{each['name']}: {each['detail']}")
        for each in health.get("reasons", ())
    ]
    notes = [
        Text(f"  {each['name']}: {each['detail']}", style="dim") for each in health.get("notes", ())
    ]
    panels = [_requests(stats), _memory(stats), _disk(stats)]
    if stats["sharing"]["processes"]:
        panels.append(_sharing(stats))
    return Group(head, *reasons, *notes, Columns(panels, padding=(0, 1)))


def _panel(title: str, rows: list[tuple[str, str]]) -> Panel:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return Panel(table, title=title, box=box.ROUNDED, expand=False)


def _requests(stats: Stats) -> Panel:
    requests = stats["requests"]
    ratio = hit_ratio(stats)
    shed = sum(requests["shed"].values())
    rows = [
        ("hit ratio", "-" if ratio is None else f"{ratio:.2%}"),
        *((f"hits, {tier}", f"{count:,}") for tier, count in requests["hits"].items()),
        ("misses", f"{requests['misses']:,}"),
        ("puts", f"{requests['puts']:,}"),
        ("shed", f"{shed:,}"),
        ("deletes", f"{requests['deletes']:,}"),
        ("expired", f"{requests['expired']:,}"),
        ("evictions", f"{requests['evictions']:,}"),
    ]
    return _panel("requests", rows)


def _share(used_bytes: int, budget_bytes: int) -> str:
    share = f" ({used_bytes / budget_bytes:.0%})" if budget_bytes else ""
    return f"{size(used_bytes)}{share}"


def _memory(stats: Stats) -> Panel:
    memory = stats["memory"]
    return _panel(
        "memory",
        [
            ("budget", size(memory["budget_bytes"])),
            ("in use", _share(memory["used_bytes"], memory["budget_bytes"])),
            ("items", f"{memory['items']:,}"),
        ],
    )


def _disk(stats: Stats) -> Panel:
    disk = stats["disk"]
    rows = [
        (name.removesuffix("_bytes").replace("_", " "), size(value))
        for name, value in disk.items()
        if name.endswith("_bytes") and isinstance(value, int)
    ]
    rows += [("regions, " + name, f"{count:,}") for name, count in disk["regions"].items() if count]
    return _panel("disk", rows)


def _sharing(stats: Stats) -> Panel:
    """Who has the cache open, and what deaths have cost."""
    sharing = stats["sharing"]
    writer = sharing["writer_pid"]
    rows = [
        ("open in", f"{sharing['processes']:,}"),
        ("writer", f"{writer}{' (this one)' if sharing['is_writer'] else ''}" if writer else "-"),
    ]
    names = ("deaths", "role_takeovers", "lock_repairs", "shard_resets", "index_resets")
    rows += [(name.replace("_", " "), f"{sharing[name]:,}") for name in names if sharing[name]]
    return _panel("processes", rows)


def rates(before: Stats, after: Stats, elapsed_s: float) -> RenderableType:
    """Return what changed between two snapshots, per second, for `edgecache top`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("per second")
    table.add_column("now", justify="right")
    table.add_column("total", justify="right")
    old, new = before["requests"], after["requests"]
    pairs = [(f"hits, {tier}", old["hits"][tier], new["hits"][tier]) for tier in new["hits"]]
    pairs += [(name, old[name], new[name]) for name in ("misses", "puts", "deletes", "evictions")]
    pairs.append(("shed", sum(old["shed"].values()), sum(new["shed"].values())))
    for name, earlier, later in pairs:
        rate = (later - earlier) / elapsed_s if elapsed_s > 0 else 0.0
        table.add_row(name, f"{rate:,.0f}", f"{later:,}")
    hits = hit_count(after) - hit_count(before)
    asked = hits + new["misses"] - old["misses"]
    ratio = f"{hits / asked:.1%}" if asked else "-"
    memory = after["memory"]
    foot = Text(
        f"hit ratio {ratio}   RAM {_share(memory['used_bytes'], memory['budget_bytes'])}   "
        f"items {memory['items']:,}"
    )
    if after["sharing"]["processes"]:
        foot.append(f"   processes {after['sharing']['processes']:,}")
    slow = _latencies(before["http"], after["http"], elapsed_s)
    return Group(table, foot) if slow is None else Group(table, foot, slow)


_KINDS = {"at_once": "at once, sample", "waited": "waited"}


def _latencies(before: Stats, after: Stats, elapsed_s: float) -> Table | None:
    """Return how long answers took since the last page, by door; None without any."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("door")
    table.add_column("answers")
    for title in ("per second", "p50", "p90", "p99"):
        table.add_column(title, justify="right")
    old = before.get("latencies", {})
    for door, kinds in sorted(after.get("latencies", {}).items()):
        for kind, histogram in kinds.items():
            new = histogram["counts"]
            earlier = old.get(door, {}).get(kind, {}).get("counts") or [0] * len(new)
            counts = [max(0, now - then) for now, then in zip(new, earlier, strict=True)]
            if not sum(counts) or elapsed_s <= 0:
                continue
            quantiles = (quantile_seconds(counts, share) for share in (0.5, 0.9, 0.99))
            table.add_row(
                door,
                _KINDS.get(kind, kind),
                f"{histogram['weight'] * sum(counts) / elapsed_s:,.0f}",
                *("-" if found is None else "<= " + seconds(found) for found in quantiles),
            )
    return table if table.row_count else None
