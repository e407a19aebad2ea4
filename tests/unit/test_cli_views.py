"""The pages of `edgecache stat` and `edgecache top`: who shares the cache, if it is shared."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from edgecache.cli import views
from edgecache.health import assess
from edgecache.metrics import StatsSnapshot, empty_snapshot


def page(renderable: RenderableType) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def overview(stats: StatsSnapshot) -> str:
    return page(views.overview(stats, assess(stats, 0).to_dict()))


def test_processes_are_shown_where_there_are_any() -> None:
    stats = empty_snapshot()
    stats["engine"]["hash"] = "native"
    assert "processes" not in overview(stats)
    stats["sharing"].update(processes=3, writer_pid=4711, is_writer=True, deaths=2, lock_repairs=1)
    shown = overview(stats)
    assert "3 have the cache open; process 4711 writes" in shown  # the note
    assert "2 processes died" in shown
    for words in (("open in", "3"), ("writer", "4711", "(this one)"), ("deaths", "2")):
        assert any(all(word in line for word in words) for line in shown.splitlines()), words
    assert "shard resets" not in shown


def test_top_tells_how_many_processes_there_are() -> None:
    stats = {**empty_snapshot(), "http": {}}
    assert "processes" not in page(views.rates(stats, stats, 1.0))
    shared = {**stats, "sharing": {**stats["sharing"], "processes": 3}}
    assert "processes 3" in page(views.rates(stats, shared, 1.0))
