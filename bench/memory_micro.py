"""RAM tier by itself: cost per put and hit, bytes per small entry, utilisation after churn.

    python -m bench.memory_micro [--json FILE] [--repeat N] [--policy NAME]

Every figure is the median of `--repeat` runs with the spread beside it. Native loops over one
shard, one thread; the value is copied in, the toy index is an array. Seeded.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecache._testing_memory import MemoryHarness

MIB = 1 << 20
LOGNORMALS = ((1.0, 500), (1.5, 1000), (1.5, 8000), (0.5, 40_000), (2.0, 2000))  # sigma, median
POLICIES = ("s3fifo", "lru", "arc", "sieve", "wtinylfu")


def spread(run: Callable[[], float], repeat: int) -> dict[str, float]:
    """Median, least and greatest of `repeat` runs."""
    values = [run() for _ in range(repeat)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def put_ns(policy: str, value_len: int, budget_bytes: int) -> float:
    """Nanoseconds per allocate + copy + publish in a shard that is full."""
    fill_count = 2 * budget_bytes // (value_len + 48)
    count = max(2000, min(200_000, fill_count))
    shard = MemoryHarness(policy, budget_bytes, key_count=fill_count + count + 1)
    shard.time_puts(0, fill_count, value_len)
    nanoseconds: int = shard.time_puts(fill_count, count, value_len)
    return nanoseconds / count


def hit_ns(policy: str, budget_bytes: int) -> float:
    """Nanoseconds per index look-up + hit, random keys, everything resident."""
    key_count = budget_bytes // 4 // 160
    shard = MemoryHarness(policy, budget_bytes, key_count=key_count)
    shard.time_puts(0, key_count, 100)
    nanoseconds, found = shard.time_hits(500_000, key_count)
    assert found == 500_000
    return float(nanoseconds / found)


def entry_bytes(policy: str, budget_bytes: int) -> float:
    """Budget, page table and policy area per entry of 16-byte key and 107-byte value, when full."""
    count = 2 * budget_bytes // 160
    shard = MemoryHarness(policy, budget_bytes, key_count=count, mean_object_bytes=160)
    shard.time_puts(0, count, 107)
    stats = shard.stats()
    return float((budget_bytes + stats["private_size_bytes"]) / stats["item_count"])


def utilisation(
    policy: str, budget_bytes: int, sigma: float, median_bytes: int
) -> dict[str, float]:
    """Shares of the budget after lognormal sizes of several times its bytes."""
    mean_bytes = median_bytes * float(np.exp(sigma * sigma / 2))
    count = int(6 * budget_bytes / mean_bytes) + 2000
    generator = np.random.default_rng(7)
    sizes = np.exp(generator.normal(np.log(median_bytes), sigma, count))
    shard = MemoryHarness(policy, budget_bytes, key_count=count, mean_object_bytes=int(mean_bytes))
    nanoseconds = shard.fill(np.clip(sizes, 1, MIB).astype(np.uint32))
    assert shard.check() == 0
    stats = shard.stats()
    return {
        "items": shard.content_bytes() / budget_bytes,
        "payload": shard.payload_bytes() / budget_bytes,
        "slots": stats["item_bytes"] / budget_bytes,
        "displaced": stats["displace_count"] / max(1, stats["eviction_count"]),
        "moves_per_put": stats["move_count"] / count,
        "put_ns": nanoseconds / count,
    }


def size_phases(policy: str, budget_bytes: int) -> list[tuple[int, float]]:
    """Share of the budget in items after each phase of 100 B, 60 KiB, 1 MiB and 100 B values."""
    shard = MemoryHarness(policy, budget_bytes, key_count=1 << 21)
    first = 0
    shares = []
    for value_len in (100, 60 * 1024, MIB, 100):
        count = 3 * budget_bytes // (value_len + 48)
        shard.time_puts(first, count, value_len)
        first += count
        shares.append((value_len, shard.content_bytes() / budget_bytes))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--policy", choices=POLICIES, action="append")
    arguments = parser.parse_args()
    policies = arguments.policy or POLICIES
    report: dict[str, object] = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "put_ns": {},
        "hit_ns": {},
        "utilisation": {},
        "phases": {},
    }
    print(f"{platform.machine()} {platform.release()}, median of {arguments.repeat} [min .. max]")
    for policy in policies:
        for value_len in (100, 1024, 65536):
            row = spread(lambda p=policy, v=value_len: put_ns(p, v, 64 * MIB), arguments.repeat)
            report["put_ns"][f"{policy}/{value_len}"] = row  # type: ignore[index]
            print(
                f"put {policy:9} {value_len:6} B {row['median']:8.0f} ns"
                f" [{row['min']:.0f} .. {row['max']:.0f}]"
            )
        row = spread(lambda p=policy: hit_ns(p, 64 * MIB), arguments.repeat)
        report["hit_ns"][policy] = row  # type: ignore[index]
        print(f"hit {policy:9} {row['median']:17.1f} ns [{row['min']:.1f} .. {row['max']:.1f}]")
    entry = {policy: entry_bytes(policy, 64 * MIB) for policy in policies}
    report["entry_bytes"] = entry
    print("bytes per 123-byte entry " + ", ".join(f"{k} {v:.1f}" for k, v in entry.items()))
    for policy in policies[:2]:
        for budget_mib in (1, 4, 16, 64):
            for sigma, median_bytes in LOGNORMALS:
                shares = utilisation(policy, budget_mib * MIB, sigma, median_bytes)
                name = f"{policy}/{budget_mib}MiB/sigma{sigma}/median{median_bytes}"
                report["utilisation"][name] = shares  # type: ignore[index]
                print(
                    f"churn {name:40} items {shares['items']:.3f} payload {shares['payload']:.3f}"
                    f" displaced {shares['displaced']:.3f} moves/put {shares['moves_per_put']:.3f}"
                    f" {shares['put_ns']:.0f} ns/put"
                )
        phases = size_phases(policy, 64 * MIB)
        report["phases"][policy] = phases  # type: ignore[index]
        print(f"phases {policy}: " + ", ".join(f"{size} B {share:.3f}" for size, share in phases))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
