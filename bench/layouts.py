"""Files against regions: the same objects put and got in both layouts, by size.

    python -m bench.layouts [--megabytes 64] [--repeat 3] [--sizes 1KiB,16KiB] [--json out.json]

Per size and layout: puts until a sync is over, gets of what is on disk only (from the page cache
for files, by O_DIRECT for regions, as each layout does by default), and bytes on disk per byte of
value. The layouts take turns; shown are medians, and the ratio of files to log (times: below 1 is
faster).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.measure import scratch
from edgecache import Config, Storage
from edgecache.config.units import parse_size

SIZES = "1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB"
LAYOUTS = ("log", "files")
COUNT_MAX = 4000
COUNT_MIN = 8
MEASURES = (("put_us", "put + sync"), ("get_us", "get from disk"), ("space", "disk bytes / byte"))


def run_once(root: Path, layout: str, size: int, count: int) -> dict[str, float]:
    """Put, sync, drop from RAM, get; microseconds per object, and space per byte."""
    config = Config(
        root=str(root), layout=layout, memory="8MiB", disk=max(2 << 30, 4 * size * count),
        max_object_size="1GiB", front_size=0,
    )  # fmt: skip
    value = os.urandom(size)
    keys = [b"object-%d" % number for number in range(count)]
    with Storage(config) as store:
        begin_s = time.perf_counter()
        for key in keys:
            if not store.put(key, value):
                raise SystemExit(f"a put was shed: {store.counters()['shed']}")
        store.sync()
        put_s = time.perf_counter() - begin_s
        # Regions are allocated ahead: what they hold counts, not what they take.
        space = store.counters()["disk_used_bytes"]
    with Storage(config) as store:
        order = keys[:]
        random.Random(1).shuffle(order)
        begin_s = time.perf_counter()
        for key in order:
            if store.get(key) != value:
                raise SystemExit("a get returned something else")
        get_s = time.perf_counter() - begin_s
        disk_hits = store.counters()["disk_hits"]
    if disk_hits < count:
        raise SystemExit(f"{count - disk_hits} gets did not come from the disk")
    return {
        "put_us": put_s / count * 1e6,
        "get_us": get_s / count * 1e6,
        "space": space / (size * count),
    }


def measure(size: int, count: int, repeat: int) -> dict[str, Any]:
    """Both layouts in turns: medians and all samples."""
    samples: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    for _ in range(repeat):
        for layout in LAYOUTS:
            with scratch("layouts-") as root:
                samples[layout].append(run_once(root / "root", layout, size, count))
    row: dict[str, Any] = {"size_bytes": size, "objects": count, "samples": samples}
    for name, _ in MEASURES:
        medians = {
            layout: statistics.median(sample[name] for sample in samples[layout])
            for layout in LAYOUTS
        }
        row[name] = {**medians, "files_to_log": medians["files"] / medians["log"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64, help="of values per run")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{'size':>9} {'objects':>8}" + "".join(f"{title:>34}" for _, title in MEASURES))
    print(" " * 18 + "".join(f"{'log':>12}{'files':>12}{'ratio':>10}" for _ in MEASURES))
    for text in arguments.sizes.split(","):
        size = parse_size(text)
        count = max(COUNT_MIN, min(COUNT_MAX, (arguments.megabytes << 20) // size))
        row = measure(size, count, arguments.repeat)
        rows.append(row)
        cells = "".join(
            f"{row[name]['log']:>12.2f}{row[name]['files']:>12.2f}"
            f"{row[name]['files_to_log']:>10.2f}"
            for name, _ in MEASURES
        )
        print(f"{text:>9} {count:>8}{cells}", flush=True)
    if arguments.json is not None:
        document = {"machine": describe(Path.cwd()), "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
