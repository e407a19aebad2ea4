"""Converting a cache root from one layout to the other.

    report = migrate(detect_config("old"), detect_config("old").replace(root="new", layout="files"))

Every live entry is read from the source, put into the target with its meta and its expiry, and,
after the target was closed and opened again, read back from there and compared byte for byte. What
the target has already is not written again, so an interrupted migration is finished by running it
again. The source keeps everything. Large objects are streamed, whatever their size; unfinished ones
go on in the target where they stood.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from edgecache.config import Config
from edgecache.errors import ArgumentError, ConfigError, EdgeCacheError
from edgecache.migrate_entry import (
    EXIT_INTERRUPTED,
    MigrateReport,
    copy_entry,
    copy_sparse,
    differs,
    differs_sparse,
)
from edgecache.objects.keys import SPARSE_MARK_KEY, SPARSE_PREFIX
from edgecache.storage import Storage

__all__ = ["MigrateReport", "detect_config", "main", "migrate"]

EXIT_USAGE = 2

# Between two syncs of the target: what an interruption may have to do again.
SYNC_ENTRIES = 4096
SYNC_BYTES = 1 << 30
MEMORY_BYTES = 64 << 20
# A single object may take three quarters of a disk.
TARGET_SPARE = 1.5
GIB = 1 << 30
# Source: docs/format.md, "Superblock": the region size as a power of two behind magic and version.
SUPERBLOCK = struct.Struct("<8sII")

Progress = Callable[[str, int, int], object]


def detect_config(root: str | os.PathLike[str], **changes: object) -> Config:
    """Return a configuration that opens an existing root without losing anything of it.

    Args:
        changes: Fields to set otherwise, for instance `namespace`.

    Raises:
        ArgumentError: There is no cache in this directory.
    """
    path = os.fspath(root)
    options: dict[str, object] = {
        "root": path,
        "memory": MEMORY_BYTES,
    }
    if os.path.lexists(os.path.join(path, "files.edge")):
        # Whatever is there: a smaller budget would evict.
        options |= {"layout": "files", "disk": 64 << 40}
    elif os.path.lexists(os.path.join(path, "superblock")):
        options |= {"layout": "log", **_log_sizes(path)}
    else:
        raise ArgumentError(
            f"there is no cache in {path!r}", hint="name the root directory of a cache"
        )
    return Config.from_dict({**options, **changes})


def _log_sizes(path: str) -> dict[str, object]:
    """The region size of a log, and a budget that covers all its regions."""
    region_bytes = 0
    for name in ("superblock", "superblock.copy"):
        with open(os.path.join(path, name), "rb") as file:
            magic, _, shift = SUPERBLOCK.unpack(file.read(SUPERBLOCK.size))
        if magic == b"EGCACHE1" and 16 <= shift <= 31:
            region_bytes = 1 << shift
            break
    total = 0
    with os.scandir(os.path.join(path, "data")) as entries:
        for entry in entries:
            if entry.name.endswith(".edge"):
                # A file holds regions of 1 GiB in all, the last perhaps not all of them yet.
                number = int(entry.name.partition(".")[0])
                total = max(total, number * GIB + entry.stat().st_size)
    # A fiftieth of the budget is set aside for checkpoints. Source: `_core_base.pyx`. Half a region
    # above it makes as many regions as there are: with another count the newest checkpoint does
    # not fit, and the log would grow each time it is opened.
    region = max(region_bytes, 1 << 20)
    disk = max(total * 50 // 49 + region // 2, 16 * region)
    sizes: dict[str, object] = {"disk": disk}
    if region_bytes >= 1 << 20:
        sizes["region_size"] = region_bytes
    return sizes


def migrate(source: Config, target: Config, *, progress: Progress | None = None) -> MigrateReport:
    """Copy every live entry of one root to another, and verify it there.

    Args:
        source, target: Configurations with different roots. A missing target root is made.
        progress: Called with ("copy" or "verify", done, total).

    Returns:
        The report; also when it was interrupted (KeyboardInterrupt), for what was done by then.

    Raises:
        ArgumentError: The roots are the same, or one is in memory.
        EdgeCacheError: A root cannot be opened: what `Storage` raises.

    *Cost*: reads every entry of the source twice; memory for the keys of all entries, and for a
    few chunks of large objects.
    """
    if source.root is None or target.root is None or _is_same(source.root, target.root):
        raise ArgumentError("a migration needs two different root directories")
    if source.namespace != target.namespace:
        raise ArgumentError("source and target have different namespaces")
    report = MigrateReport()
    tell = progress if progress is not None else _tell_nobody
    with Storage(source) as left:
        # The mark of stores that had unfinished objects comes by itself.
        keys = sorted(set(all_keys(left)) - {SPARSE_MARK_KEY})
        report.entries = len(keys)
        try:
            with Storage(target) as right:
                _copy(left, right, keys, report, tell)
            # Opened again: what is compared comes from the disk, not from RAM.
            with Storage(target) as right:
                _verify(left, right, keys, report, tell)
        except KeyboardInterrupt:
            report.is_interrupted = True
    return report


def _is_same(left: str, right: str) -> bool:
    return os.path.realpath(left) == os.path.realpath(right)


def _tell_nobody(phase: str, done: int, total: int) -> None:
    """The progress of a migration that nobody watches."""


def all_keys(store: Storage) -> Iterator[bytes]:
    """The keys of all entries of a store, some perhaps twice."""
    store.walk_begin()
    try:
        for shard in range(store.shard_count):
            yield from store.walk_memory(shard, b"")
        for region in range(store.region_count):
            yield from store.walk_region(region, b"")[0]
        yield from store.walk_lower()
    finally:
        store.walk_end()


def _copy(
    left: Storage, right: Storage, keys: Sequence[bytes], report: MigrateReport, tell: Progress
) -> None:
    unsynced_bytes = 0
    for done, key in enumerate(keys, 1):
        copied_bytes = report.copied_bytes
        if key.startswith(SPARSE_PREFIX):
            copy_sparse(left, right, key[len(SPARSE_PREFIX) :], report)
        else:
            copy_entry(left, right, key, report)
        unsynced_bytes += report.copied_bytes - copied_bytes
        if done % SYNC_ENTRIES == 0 or unsynced_bytes >= SYNC_BYTES:
            right.sync()
            unsynced_bytes = 0
        tell("copy", done, len(keys))
    right.sync()


def _verify(
    left: Storage, right: Storage, keys: Sequence[bytes], report: MigrateReport, tell: Progress
) -> None:
    for done, key in enumerate(keys, 1):
        if key.startswith(SPARSE_PREFIX):
            why = differs_sparse(left, right, key[len(SPARSE_PREFIX) :])
        else:
            why = differs(left, right, key)
        if why == "":
            report.verified += 1
        elif why is not None:
            report.note_failure(key.removeprefix(SPARSE_PREFIX), why)
        tell("verify", done, len(keys))


# The command


class Bar(Protocol):
    """What shows the progress of the command."""

    def __call__(self, phase: str, done: int, total: int) -> object: ...

    def close(self) -> None: ...


class RichBar:
    """A bar per phase, drawn by rich."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._shown = RichProgress(
            TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._tasks: dict[str, object] = {}
        self._shown.start()

    def __call__(self, phase: str, done: int, total: int) -> None:
        task = self._tasks.get(phase)
        if task is None:
            task = self._tasks[phase] = self._shown.add_task(phase, total=total)
        self._shown.update(task, completed=done)  # type: ignore[arg-type]

    def close(self) -> None:
        self._shown.stop()


class PlainBar:
    """A line per phase and tenth, where rich is not installed or nobody looks."""

    def __init__(self) -> None:
        self._shown = ("", -1)

    def __call__(self, phase: str, done: int, total: int) -> None:
        tenth = done * 10 // max(total, 1)
        if self._shown != (phase, tenth):
            self._shown = (phase, tenth)
            print(f"{phase}: {done} of {total}", file=sys.stderr)

    def close(self) -> None:
        """Nothing to take down."""


def _make_bar() -> Bar:
    if sys.stderr.isatty():
        try:
            return RichBar()
        except ImportError:
            pass
    return PlainBar()


def target_config(
    source: Config, root: str, layout: str, disk: str | None = None, **changes: object
) -> Config:
    """Return a configuration for a target; by default with room for what the source has."""
    size: object = disk
    if disk is None:
        with Storage(source) as store:
            counters = store.counters()
            used = counters["disk_used_bytes"]
            # A file takes whole blocks and a directory: 16 KiB and more for the smallest.
            used += counters["objects"] * 24 * 1024 if layout == "files" else 0
        size = max(int(used * TARGET_SPARE), 2 * GIB)
    options = {
        "root": root, "layout": layout, "disk": size, "memory": MEMORY_BYTES,
        "namespace": source.namespace, **changes,
    }  # fmt: skip
    return Config.from_dict(options)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgecache migrate",
        description="Copy a cache root into another layout and verify every entry.",
        epilog="Exit codes: 0 done; 1 some entries are not in the target; 2 wrong use; "
        "130 interrupted (run it again to go on).",
    )
    parser.add_argument("source", help="root directory of the cache")
    parser.add_argument("target", help="root directory to make")
    parser.add_argument(
        "--to", choices=("log", "files"), required=True, help="layout of the target"
    )
    parser.add_argument("--disk", help='disk budget of the target, such as "100GiB"')
    parser.add_argument("--namespace", default="", help="namespace of the entries")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    given = _parse(argv)
    try:
        if _is_same(given.source, given.target):
            raise ArgumentError("a migration needs two different root directories")
        source = detect_config(given.source, namespace=given.namespace)
        target = target_config(source, given.target, given.to, given.disk)
        bar = _make_bar()
        try:
            report = migrate(source, target, progress=bar)
        finally:
            bar.close()
    except (ConfigError, EdgeCacheError, OSError) as error:
        print(f"edgecache migrate: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    print(
        f"{report.entries} entries: {report.copied} copied ({report.copied_bytes} bytes), "
        f"{report.present} there already, {report.gone} expired or damaged; "
        f"{report.verified} verified, {report.failed} failed"
        + (", interrupted" if report.is_interrupted else "")
    )
    for key, why in report.failures:
        print(f"  {key!r}: {why}", file=sys.stderr)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
