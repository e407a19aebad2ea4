"""Hit ratios of the eviction policies on traces, beside libCacheSim's on the same requests.

    python -m bench.hitratio [--policies s3fifo,lru] [--traces zipf10,cdn,FILE] [--sizes 0.01,0.1]
                             [--json FILE] [--plot FILE]

A trace is a generator's name (see `bench/traces.py`) or a file: `.csv`, otherwise oracleGeneral,
plain or `.zst`. A size is a fraction of the trace's footprint, the bytes of its distinct objects.
`--peer-limits` refuses the object sizes that libCacheSim's policy refuses, instead of following
ours, so that nothing but the policy differs. The exit status is 1 when S3-FIFO is more than
0.3 points below the peer anywhere.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench import hitratio_peers, traces
from bench.hitratio_report import TOLERANCE_POINTS, Result, plot, print_results, write_json
from bench.traces import Trace
from edgecache import _testing_evict as testing


def simulate(
    policy: str, trace: Trace, capacity_bytes: int, mean_object_bytes: int, peer_limits: bool
) -> tuple[float, float, float]:
    """Run ours. Returns (miss ratio by requests, by bytes, seconds)."""
    limit_bytes = hitratio_peers.size_limit_bytes(policy, capacity_bytes) if peer_limits else 0
    simulator = testing.PolicySimulator(
        policy,
        capacity_bytes,
        mean_object_bytes=mean_object_bytes,
        admission=True,
        limit_bytes=limit_bytes,
    )
    begin = time.perf_counter()
    hit_count, hit_bytes = simulator.run(trace.ids, trace.sizes)
    seconds = time.perf_counter() - begin
    broken = simulator.check()
    if broken:
        raise SystemExit(f"{policy} on {trace.name}: invariant {broken} is broken")
    total_bytes = int(trace.sizes.sum(dtype="uint64"))
    return 1 - hit_count / len(trace.ids), 1 - hit_bytes / total_bytes, seconds


def measure(
    trace: Trace, path: Path, policies: list[str], sizes: list[float], peer_limits: bool
) -> Iterator[Result]:
    """Yield a result per size and policy."""
    object_count, footprint_bytes = trace.footprint()
    mean_object_bytes = max(1, footprint_bytes // object_count)
    for size in sizes:
        capacity_bytes = max(1, int(footprint_bytes * size))
        for policy in policies:
            miss, byte_miss, seconds = simulate(
                policy, trace, capacity_bytes, mean_object_bytes, peer_limits
            )
            peer = hitratio_peers.miss_ratios(
                policy, trace, path, capacity_bytes, capacity_bytes // mean_object_bytes
            )
            count = len(trace.ids)
            yield Result(
                trace=trace.name,
                policy=policy,
                size_fraction=size,
                capacity_bytes=capacity_bytes,
                requests=count,
                miss=miss,
                byte_miss=byte_miss,
                mops=count / seconds / 1e6,
                peer_miss=peer[0] if peer else None,
                peer_byte_miss=peer[1] if peer else None,
                peer_mops=count / peer[2] / 1e6 if peer else None,
            )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.hitratio", description=__doc__.split("\n")[0])
    parser.add_argument("--policies", default=",".join(testing.KINDS))
    parser.add_argument("--traces", default=",".join(traces.TRACES))
    parser.add_argument("--sizes", default="0.001,0.01,0.1")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--peer-limits", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    options.policies = options.policies.split(",")
    options.traces = options.traces.split(",")
    options.sizes = [float(size) for size in options.sizes.split(",")]
    unknown = set(options.policies) - set(testing.KINDS)
    if unknown:
        parser.error(f"unknown policies: {', '.join(sorted(unknown))}")
    if options.requests < 1 or not all(0 < size <= 1 for size in options.sizes):
        parser.error("--requests must be positive, --sizes above 0 and at most 1")
    for name in options.traces:
        if name not in traces.TRACES and not Path(name).is_file():
            parser.error(
                f"no generator and no file: {name} (generators: {', '.join(traces.TRACES)})"
            )
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    peer_version = hitratio_peers.version()
    peer = f"libcachesim {peer_version}" if peer_version else None
    if peer is None:
        console.print("libcachesim is not installed (`pip install libcachesim`): ours alone")
    results: list[Result] = []
    cells = len(options.policies) * len(options.sizes)
    progress = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory() as directory, progress:
        task = progress.add_task("traces", total=len(options.traces) * cells)
        for name in options.traces:
            progress.update(task, description=name)
            if name in traces.TRACES:
                trace = traces.generate(name, options.requests, options.seed)
            else:
                trace = traces.read(Path(name), options.requests)
            path = Path(directory) / "trace.oracleGeneral"
            trace.write(path)
            for result in measure(
                trace, path, options.policies, options.sizes, options.peer_limits
            ):
                results.append(result)
                progress.advance(task)
    print_results(console, results, peer)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    console.print(
        f"{options.requests:,} requests per generated trace, seed {options.seed}; {machine}"
    )
    if options.json:
        write_json(
            options.json,
            results,
            peer,
            {
                "requests": options.requests,
                "seed": options.seed,
                "peer_limits": options.peer_limits,
            },
        )
    if options.plot:
        plot(options.plot, results)
    worst = [r.points for r in results if r.policy == "s3fifo" and r.points is not None]
    return int(bool(worst) and min(worst) < -TOLERANCE_POINTS)


if __name__ == "__main__":
    sys.exit(main())
