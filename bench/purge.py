"""How long `delete_prefix` and `purge_tag` take: entries in RAM and on disk, one in ten purged.

    python -m bench.purge [--entries 1000000] [--value-bytes 100] [--engine auto]

Walk and deletes are timed apart from the puts; the counts are checked.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable

import edgecache


def timed(name: str, expected: int, entries: int, work: Callable[[], int]) -> None:
    """Run `work` once and print what it took; the count must be exact."""
    begin_s, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    count = work()
    wall_s = time.perf_counter() - begin_s
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    if count != expected:
        raise SystemExit(f"{name}: {count} entries instead of {expected}")
    print(
        f"{name:32} {count:>8} of {entries}  {wall_s:6.2f} s wall  {cpu_s:6.2f} s CPU  "
        f"{wall_s / entries * 1e6:5.2f} us per entry in the store"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--memory", default="64MiB")
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    count, value = arguments.entries, bytes(arguments.value_bytes)
    with (
        tempfile.TemporaryDirectory(prefix="edgecache-purge-") as root,
        edgecache.open(root, memory=arguments.memory, disk="4GiB", io=arguments.engine) as store,
    ):
        begin_s = time.perf_counter()
        for number in range(count):
            tags = ("tenth",) if number % 10 == 3 else ()
            store.put(f"{number % 10}/{number}", value, tags=tags)
        store.sync()
        stats = store.stats()
        print(
            f"{count} entries of {len(value)} bytes put in {time.perf_counter() - begin_s:.1f} s: "
            f"{stats['memory']['items']} in RAM, {stats['disk']['used_bytes'] >> 20} MiB on disk, "
            f"engine {stats['engine']['io']}"
        )
        tenth = count // 10
        timed("delete_prefix, nothing found", 0, count, lambda: store.delete_prefix("x/"))
        timed("purge_tag, nothing found", 0, count, lambda: store.purge_tag("x"))
        timed("purge_tag soft, a tenth", tenth, count, lambda: store.purge_tag("tenth", soft=True))
        timed("purge_tag, a tenth", tenth, count, lambda: store.purge_tag("tenth"))
        left = count - tenth
        timed("delete_prefix, a tenth", tenth, left, lambda: store.delete_prefix("4/"))


if __name__ == "__main__":
    main()
