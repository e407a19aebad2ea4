"""The commands, as typer sees them: options, help, and what they print."""

from __future__ import annotations

import asyncio
import base64
import enum
import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.live import Live
from rich.table import Table

from edgecache._version import __version__
from edgecache.cli import upkeep, views
from edgecache.cli.admin_client import DEFAULT_ADMIN, AdminClient
from edgecache.cli.console import (
    EXIT_USAGE,
    err,
    fail,
    out,
    reported,
    seconds,
    size,
)

application = typer.Typer(
    name="edgecache",
    help="A hybrid cache (RAM, disk, shared tier) behind HTTP.",
    epilog="Exit codes: 0 done; 1 it could not be done; 2 the command line or the configuration is "
    "not usable; 3 done, and damage was found (verify); 130 interrupted (migrate).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Encoding(enum.Enum):
    """How bytes are written on the command line."""

    TEXT = "text"
    PERCENT = "percent"
    BASE64 = "base64"


Admin = Annotated[str, typer.Option("--admin", help="URL of the admin listener.")]
Token = Annotated[
    str | None,
    typer.Option("--token", help="Token of the admin API.", envvar="EDGECACHE_ADMIN_TOKEN"),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"edgecache {__version__}")
        raise typer.Exit


@application.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version


@application.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            envvar="EDGECACHE_CONFIG",
            help="YAML, TOML or JSON file (docs/serve.md).",
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="safe (default) or rfc: the RFC's letter.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Directory of the disk tier.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="RAM budget, as 1GiB.")] = None,
    disk: Annotated[str | None, typer.Option("--disk", help="Disk budget, as 100GiB.")] = None,
    upstream: Annotated[
        list[str] | None, typer.Option("--upstream", help="URL of an origin; repeatable.")
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", help="ADDR:PORT or unix:PATH; repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes.")] = None,
    check_config: Annotated[
        bool, typer.Option("--check-config", help="Read the configuration, print it, and leave.")
    ] = False,
) -> None:
    """Run the cache server: cache API, reverse proxy, admin API, metrics."""
    from edgecache.server import load_settings, run_server

    options: dict[str, Any] = {
        "profile": profile,
        "root": None if root is None else str(root),
        "memory": memory,
        "disk": disk,
        "upstream": upstream or None,
        "listen": listen or None,
        "workers": workers,
    }
    given = {name: value for name, value in options.items() if value is not None}
    with reported():
        settings = load_settings(None if config is None else str(config), given)
        if check_config:
            out.print_json(json.dumps(settings.redacted(), default=str))
            return
        code = run_server(settings, None if config is None else str(config), given)
    if code:
        raise typer.Exit(code)


def _as_given(named: dict[str, str]) -> dict[str, str]:
    """Return a key or prefix that is not UTF-8 on the command line as the bytes it was given as."""
    for name in ("key", "prefix"):
        text = named.get(name, "")
        if any("\udc80" <= sign <= "\udcff" for sign in text):
            return {name: base64.b64encode(os.fsencode(text)).decode(), "encoding": "base64"}
    return {}


@application.command()
def purge(
    key: Annotated[str | None, typer.Option("--key", help="A key of the cache API.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Keys that start so.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Entries with this tag.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="A URL of the proxy.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    encoding: Annotated[
        Encoding,
        typer.Option("--encoding", help="How --key, --prefix and --tag are written."),
    ] = Encoding.TEXT,
    soft: Annotated[bool, typer.Option("--soft", help="Make stale instead.")] = False,
    admin: Admin = DEFAULT_ADMIN,
    token: Token = None,
) -> None:
    """Remove entries from a running server, or make them stale; prints how many."""
    targets = {"key": key, "prefix": prefix, "tag": tag, "url": url}
    named = {name: value for name, value in targets.items() if value is not None}
    if len(named) + everything != 1:
        fail("name exactly one of --key, --prefix, --tag, --url, --all", EXIT_USAGE)
    with reported():
        order = {**named, "everything": everything, "soft": soft, "encoding": encoding.value}
        if encoding is Encoding.TEXT:
            order |= _as_given(named)
        answer = AdminClient(admin, token).post("/api/purge", order)
        out.print(f"{answer['purged']} {'made stale' if soft else 'purged'}")


@application.command()
def stat(
    as_json: Annotated[bool, typer.Option("--json", help="The raw statistics.")] = False,
    admin: Admin = DEFAULT_ADMIN,
    token: Token = None,
) -> None:
    """Show the statistics and the health of a running server."""
    with reported():
        client = AdminClient(admin, token)
        stats = client.get("/api/cache/stats")
        if as_json:
            out.print_json(json.dumps(stats))
        else:
            out.print(views.overview(stats, client.get("/api/health")))


def _snapshot(client: AdminClient) -> dict[str, Any]:
    """Return the statistics of the engine, and those of the data plane as "http"."""
    return {**client.get("/api/cache/stats"), "http": client.get("/api/http/stats")}


@application.command()
def top(
    interval: Annotated[float, typer.Option("--interval", help="Seconds.", min=0.1)] = 1.0,
    count: Annotated[int, typer.Option("--count", help="Pages; 0: until Ctrl-C.", min=0)] = 0,
    admin: Admin = DEFAULT_ADMIN,
    token: Token = None,
) -> None:
    """Watch the rates and latencies of a running server."""
    with reported():
        client = AdminClient(admin, token)
        before, before_s = _snapshot(client), time.monotonic()
        page = 0
        try:
            with Live(console=out, auto_refresh=False) as live:
                while count == 0 or page < count:
                    time.sleep(interval)
                    after, after_s = _snapshot(client), time.monotonic()
                    live.update(views.rates(before, after, after_s - before_s), refresh=True)
                    before, before_s = after, after_s
                    page += 1
        except KeyboardInterrupt:
            pass


@application.command()
def bench(
    url: Annotated[
        str | None, typer.Argument(help="A URL to load; none: the embedded store.")
    ] = None,
    connections: Annotated[int, typer.Option("--connections", min=1, max=10000)] = 32,
    duration: Annotated[float, typer.Option("--duration", help="Seconds.", min=0.1)] = 5.0,
    directory: Annotated[
        Path | None, typer.Option("--directory", help="Where the embedded store writes.")
    ] = None,
) -> None:
    """Load a URL, or time the embedded store, for a quick look."""
    with reported():
        if url is None:
            _bench_embedded(directory)
        else:
            _bench_url(url, connections, duration)


def _bench_url(url: str, connections: int, duration: float) -> None:
    from edgecache.cli.load import run_load

    with err.status(f"{connections} connections for {duration:g} s"):
        report = asyncio.run(run_load(url, connections, duration))
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("answers/s", "p50", "p90", "p99", "bandwidth", "statuses", "broken"):
        table.add_column(title, justify="right")
    statuses = ", ".join(
        f"{status}: {count:,}" for status, count in sorted(report.statuses.items())
    )
    table.add_row(
        f"{report.rate:,.0f}",
        *(seconds(report.quantile(share)) for share in (0.5, 0.9, 0.99)),
        f"{size(report.received_bytes / report.seconds)}/s",
        statuses,
        f"{report.failures:,}",
    )
    out.print(table)


def _bench_embedded(directory: Path | None) -> None:
    from edgecache.cli.embedded import run_embedded

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("step", "per second", "each", "CPU each"):
        table.add_column(title, justify="left" if title == "step" else "right")
    with err.status("opening a store") as status:
        for step in run_embedded(None if directory is None else str(directory), status.update):
            each_s = step.wall_s / step.operations
            table.add_row(
                step.name,
                f"{1 / each_s:,.0f}" if each_s else "-",
                seconds(each_s),
                seconds(step.cpu_s / step.operations),
            )
    out.print(table)


application.command()(upkeep.verify)
application.command()(upkeep.migrate)
