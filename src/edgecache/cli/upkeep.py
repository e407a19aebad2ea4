"""Commands on a cache directory that nobody has open: `edgecache verify`, `edgecache migrate`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgecache.cli.console import EXIT_DAMAGE, CommandError, err, out, reported, size
from edgecache.config import Config
from edgecache.config.units import parse_size

# What tells a cache directory from any other. Source: docs/format.md, "Superblock".
LOG_FILE = "superblock"
FILES_FILE = "files.edge"
MIGRATION = "edgecache.migrate"
MEMORY = "64MiB"
KEYS_SHOWN = 20


def _migration() -> Any:
    """Return the module that converts layouts, or None in a build without it."""
    try:
        return importlib.import_module(MIGRATION)
    except ModuleNotFoundError as error:
        if error.name != MIGRATION:
            raise
        return None


def config_of(root: Path, disk: str | None, memory: str, namespace: str = "") -> Config:
    """Return a configuration that opens a cache directory without losing anything of it.

    Args:
        root: The directory.
        disk: Its budget; None: what covers all that it holds.
        memory: The RAM budget while it is open.
        namespace: Of its entries.

    Raises:
        CommandError: There is no cache in it.
    """
    names = (LOG_FILE, FILES_FILE)
    if not any(os.path.lexists(root / name) for name in names):
        raise CommandError(f"there is no cache in {root}", hint="name the root of a cache")
    given: dict[str, object] = {"memory": memory, "namespace": namespace}
    if disk is not None:
        given["disk"] = disk
    detect = getattr(_migration(), "detect_config", None)
    if detect is not None:
        config: Config = detect(root, **given)
        return config
    layout = "files" if os.path.lexists(root / FILES_FILE) else "log"
    held = sum(each.stat().st_size for each in root.rglob("*") if each.is_file())
    # A fiftieth of the budget is set aside for checkpoints; regions are counted in whole ones.
    given.setdefault("disk", held * 50 // 49 + parse_size("1GiB"))
    return Config.from_dict({"root": str(root), "layout": layout, **given})


class _Bars:
    """A progress bar per phase; what a command calls with done and total."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=err, transient=True)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=None)
        self._progress.update(self._tasks[phase], completed=done, total=total)

    def phase(self, name: str) -> Callable[[int, int], None]:
        """Return what tells the progress of one phase."""
        return lambda done, total: self(name, done, total)


Namespace = Annotated[str, typer.Option("--namespace", help="Namespace of the entries.")]


def verify(
    root: Annotated[Path, typer.Argument(help="Directory of a disk tier that nobody has open.")],
    disk: Annotated[
        str | None, typer.Option("--disk", help="Its budget; by default what covers it all.")
    ] = None,
    memory: Annotated[str, typer.Option("--memory", help="RAM to use.")] = MEMORY,
    namespace: Namespace = "",
) -> None:
    """Verify every checksum of a cache directory. Exit code 3: damage was found and dropped."""
    from edgecache.storage import Storage

    with reported():
        with _Bars() as bars:
            config = config_of(root, disk, memory, namespace)
            with Storage(config, progress=bars.phase("recover")) as store:
                report = store.scrub(progress=bars.phase("verify"))
                if report.corrupt:  # so that the next one does not find it again
                    store.checkpoint()
                skipped = store.stats()["recovery"]["regions_skipped"]
        out.print(
            f"{report.entries:,} entries, {size(report.bytes)} verified in {report.seconds:.2f} s; "
            f"{report.corrupt:,} damaged and dropped, {skipped:,} regions unreadable when opening"
        )
    if report.corrupt or skipped:
        raise typer.Exit(EXIT_DAMAGE)


def migrate(
    source: Annotated[Path, typer.Argument(help="Directory of the cache; it is kept.")],
    target: Annotated[Path, typer.Argument(help="Directory to make, or to go on with.")],
    to: Annotated[str, typer.Option("--to", help="Layout of the target: log or files.")],
    disk: Annotated[str | None, typer.Option("--disk", help="Budget of the target.")] = None,
    namespace: Namespace = "",
) -> None:
    """Copy a cache directory into another layout and compare every entry.

    Exit code 1: some entries are not in the target; 130: interrupted, run it again to go on.
    """
    with reported():
        module = _migration()
        if module is None:
            raise CommandError(
                "this build has no second disk layout, so there is nothing to migrate to",
                hint="install a version with layout: files",
            )
        if to not in ("log", "files"):
            raise typer.BadParameter(f"{to!r} is no layout; use log or files", param_hint="--to")
        if source.resolve() == target.resolve():
            raise CommandError("source and target are the same directory", hint="name two")
        config = config_of(source, None, MEMORY, namespace)
        with _Bars() as bars:
            report = module.migrate(
                config, module.target_config(config, str(target), to, disk), progress=bars
            )
        out.print(
            f"{report.entries:,} entries: {report.copied:,} copied ({size(report.copied_bytes)}), "
            f"{report.present:,} there already, {report.gone:,} expired or damaged; "
            f"{report.verified:,} verified, {report.failed:,} failed"
        )
        for key, why in report.failures[:KEYS_SHOWN]:
            err.print(f"  {key!r}: {why}", markup=False)
    if report.exit_code:
        raise typer.Exit(report.exit_code)
