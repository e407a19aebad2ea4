"""Cost of the metadata map per operation and per object, in native loops without the GIL.

Each operation takes and releases its shard's lock, as in the engine; the cost of that and of
choosing the key is shown as `loop` and included in the other figures. Keys are looked up in a
scattered order. Each figure is the median of several passes, with the lowest and the highest; a
`loop` with a wide spread says that the machine was not idle.

    python bench/index_micro.py [--objects 10000000] [--shards 64] [--passes 5] [--huge]
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable

from edgecache import _testing_index as testing

LOOKUP_COUNT = 1_000_000
ABSENT_FIRST = 1 << 40


def nanoseconds(measure: Callable[[], int], pass_count: int, operation_count: int) -> str:
    """Return `median (lowest-highest)` of the cost per operation; the first pass warms up."""
    measure()
    costs = [measure() / operation_count for _ in range(pass_count)]
    return f"{statistics.median(costs):5.1f} ({min(costs):.0f}-{max(costs):.0f})"


def dict_hit_nanoseconds(object_count: int) -> float:
    """Return the cost of `dict.get` with as many int keys, in scattered order, for reference."""
    source = random.Random(1)
    keys = [source.getrandbits(64) for _ in range(object_count)]
    table = dict(zip(keys, range(object_count), strict=True))
    sample = [keys[number * 2654435761 % object_count] for number in range(LOOKUP_COUNT)]
    get = table.get
    start_ns = time.perf_counter_ns()
    for key in sample:
        get(key)
    return (time.perf_counter_ns() - start_ns) / LOOKUP_COUNT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--huge", action="store_true", help="ask for transparent huge pages")
    parser.add_argument("--no-dict", action="store_true", help="skip the reference")
    options = parser.parse_args()
    shards = range(options.shards)
    harness = testing.IndexHarness(
        options.shards,
        testing.area_bytes(options.objects * 5 // 4 // options.shards),
        huge=options.huge,
    )
    print(platform.platform(), platform.machine(), f"{options.shards} shards")
    print("objects     B/object  insert  hit                 miss                batch of 64")
    step = max(options.objects // 10, 1)
    worst_bytes = 0.0
    for first in range(0, options.objects, step):
        elapsed_ns, refused_count = harness.bench_insert(first, step)
        assert refused_count == 0
        count = first + step
        used_bytes = sum(harness.state(shard)["area_used_bytes"] for shard in shards)
        worst_bytes = max(worst_bytes, used_bytes / count)

        def hit(count: int = count) -> int:
            taken_ns, found_count, _ = harness.bench_lookup(0, count, LOOKUP_COUNT)
            assert found_count == LOOKUP_COUNT
            return taken_ns

        def miss(count: int = count) -> int:
            return harness.bench_lookup(ABSENT_FIRST, count, LOOKUP_COUNT)[0]

        def batch(count: int = count) -> int:
            return harness.bench_lookup_batch(0, count, LOOKUP_COUNT)[0]

        row = [nanoseconds(each, options.passes, LOOKUP_COUNT) for each in (hit, miss, batch)]
        print(
            f"{count:10d}  {used_bytes / count:8.2f}  {elapsed_ns / step:6.0f}  "
            + "  ".join(f"{text:18s}" for text in row)
        )
    clashes = harness.bench_lookup(ABSENT_FIRST, options.objects, LOOKUP_COUNT)[2]
    overhead = nanoseconds(
        lambda: harness.bench_overhead(0, options.objects, LOOKUP_COUNT),
        options.passes,
        LOOKUP_COUNT,
    )
    broken = {harness.check(shard) for shard in shards}
    print(f"loop {overhead} ns; worst of the steps {worst_bytes:.2f} B/object")
    print(f"foreign slots met per miss {clashes / LOOKUP_COUNT:.5f}; invariants broken: {broken}")
    if not options.no_dict:
        print(
            f"dict.get with {options.objects} ints: {dict_hit_nanoseconds(options.objects):.0f} ns"
        )


if __name__ == "__main__":
    main()
