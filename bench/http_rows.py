"""HTTP workloads: the reverse proxy beside nginx, in the same run, one core each.

    python -m bench.run --suite http --json out/bench/http.json
    python -m bench.run http_hit http_miss

Rounds alternate; a ratio is taken per round. `http_sides.py` says how a side is run and measured.
Without wrk or nginx a workload ends with the name of the package that is missing.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.http_sides import (
    CLIENT_CPU,
    NGINX,
    NGINX_FILES,
    OURS,
    Served,
    cpu_seconds_of,
    load,
    need,
    on_cpu,
    once,
    resident_of,
    serve_nginx,
    serve_origin,
    serve_ours,
    serve_workers,
)
from bench.measure import Sample, Spread, child_environment, interleave, make_cold
from bench.rows import Row, compare
from bench.workloads import Plan

KIB = 1024
CROWD = 1_000
SPARE_DESCRIPTORS = 200
DISK_BODY_BYTES = 64 * KIB
WORKERS = 2


@contextmanager
def both(plan: Plan, name: str, root: Path | None = None) -> Iterator[dict[str, Served]]:
    """Run the origin, our proxy and nginx."""
    need("wrk", "nginx", "taskset")
    with ExitStack() as stack:
        origin = stack.enter_context(serve_origin())
        # Less than the bodies of a disk workload, more than those of any other.
        memory = "256MiB" if root is None else "48MiB"
        sides = {
            OURS: stack.enter_context(serve_ours(origin, root, memory)),
            NGINX: stack.enter_context(serve_nginx(plan.place(name) / "nginx", origin)),
        }
        yield {**sides, "origin": origin}


def _round(side: Served, target: str, seconds: float, script: Path | None, _: int) -> Sample:
    return load(side, target, seconds, script=script)


def measured(
    plan: Plan, sides: dict[str, Served], targets: dict[str, str], script: Path | None = None
) -> dict[str, list[Sample]]:
    """Load each side in turn; who is in `targets` takes part, after a second of warming up."""
    seconds = plan.sized(3, 1)
    runs: dict[str, Callable[[int], Sample]] = {}
    for name, target in targets.items():
        side = sides[NGINX if name == NGINX_FILES else name]
        load(side, target, 1, script=script)
        runs[name] = partial(_round, side, target, seconds, script)
    return interleave(runs, plan.repeat)


def pair(
    workload: str,
    label: str,
    found: dict[str, list[Sample]],
    peer: str,
    rate: tuple[float | None, float | None] = (None, None),
    cpu: tuple[float | None, float | None] = (None, None),
    note: str = "",
) -> list[Row]:
    """Rows of rate and CPU against one peer; bounds are (must, aim) of the ratio of rates."""
    inverse = tuple(None if bound is None else round(1 / bound, 3) for bound in cpu)
    return [
        compare(
            workload, f"{label}, rate", "rate", found, peer, must=rate[0], aim=rate[1], note=note
        ),
        compare(
            workload, f"{label}, CPU", "cpu us", found, peer, must=inverse[0], aim=inverse[1],
            note=note,
        ),
    ]  # fmt: skip


def hit(plan: Plan) -> list[Row]:
    with both(plan, "hit") as sides:
        target = f"/size/{KIB}"
        found = measured(plan, sides, {OURS: target, NGINX: target})
    bounds = (1.2, 1.6)
    return pair("http_hit", "RAM hit 1 KiB", found, NGINX, bounds, bounds, "proxy_cache")


def hit_100k(plan: Plan) -> list[Row]:
    size = 100 * KIB
    with both(plan, "hit-100k") as sides:
        place = plan.place("hit-100k") / "nginx" / str(size)
        place.write_bytes(os.urandom(size))
        place.chmod(0o644)
        target = f"/size/{size}"
        targets = {OURS: target, NGINX_FILES: f"/static/{size}", NGINX: target}
        found = measured(plan, sides, targets)
    bounds = (0.8, 1.0)
    label = "RAM hit 100 KiB"
    rows = pair("http_hit_100k", label, found, NGINX_FILES, bounds, bounds, "a file, sendfile")
    return rows + pair("http_hit_100k", label, found, NGINX, note="proxy_cache")


def disk(plan: Plan) -> list[Row]:
    """More bodies than memory: each is asked for once in a round, in an order that jumps."""
    count = plan.sized(4_000, 1_500)
    with both(plan, "disk", plan.place("disk") / "root") as sides:
        base = f"/size/{DISK_BODY_BYTES}?"
        script = once(plan.place("disk"), base, count)
        cache = plan.place("disk") / "nginx" / "cache"
        ways: dict[str, Callable[[int], Sample]] = {}

        def cold(_: int) -> Sample:
            make_cold(cache)
            return load(sides[NGINX], base, 60, script=script)

        for side in (sides[OURS], sides[NGINX]):
            load(side, base, 60, script=script)  # fill
        ways[OURS] = partial(_round, sides[OURS], base, 60, script)
        ways["nginx, page cache warm"] = partial(_round, sides[NGINX], base, 60, script)
        ways["nginx, page cache dropped"] = cold
        found = interleave(ways, plan.repeat)
    note = f"{count} bodies of 64 KiB, each once a round; ours O_DIRECT, 48 MiB of memory"
    return [
        row
        for peer in ("nginx, page cache dropped", "nginx, page cache warm")
        for row in pair("http_disk", "disk hit 64 KiB", found, peer, note=note)
    ]


def miss(plan: Plan) -> list[Row]:
    with both(plan, "miss") as sides:
        found = measured(plan, sides, {OURS: "/miss/1", NGINX: "/miss/1"})
        note = "1 KiB with no-store, forwarded every time"
        rows = pair("http_miss", "miss that is not stored", found, NGINX, note=note)
        count = plan.sized(20_000, 4_000)
        folder = plan.place("miss")

        def fresh(side: Served, name: str, number: int) -> Sample:
            script = once(folder, f"/unique/{name}-{number}-", count)
            return load(side, "/", 60, script=script)

        fresh(sides[OURS], "warm", 0)
        fresh(sides[NGINX], "warm", 0)
        runs = {name: partial(fresh, sides[name], "run") for name in (OURS, NGINX)}
        found = interleave(runs, plan.repeat)
    note = f"{count} URLs of 1 KiB, fresh for an hour; nginx writes a file for each"
    return rows + pair("http_miss", "miss that is stored", found, NGINX, note=note)


# Collapsing


async def _ask(port: int, target: str, go: asyncio.Event, opened: list[int]) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.append(1)
    await go.wait()
    writer.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(KIB)
    writer.close()
    return head.startswith(b"HTTP/1.1 200")


async def _crowd(port: int, target: str) -> float:
    go, opened = asyncio.Event(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(_ask(port, target, go, opened)) for _ in range(CROWD)]
    while len(opened) < CROWD:
        await asyncio.sleep(0.01)
    begun_s = time.perf_counter()
    go.set()
    if not all(await asyncio.gather(*tasks)):
        raise RuntimeError("an answer of the crowd was no 200")
    return time.perf_counter() - begun_s


def _asked(origin: Served) -> int:
    url = f"http://127.0.0.1:{origin.port}/count"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(answer.read())


def collapse(plan: Plan) -> list[Row]:
    """A crowd asks at once for one key; the origin takes 300 ms."""
    asked: dict[str, list[float]] = {OURS: [], NGINX: []}
    with both(plan, "collapse") as sides:

        def crowd(name: str, number: int) -> Sample:
            side, before = sides[name], _asked(sides["origin"])
            cpu_s = cpu_seconds_of(side.processes)
            seconds = asyncio.run(_crowd(side.port, f"/slow/{number}"))
            cpu_s = cpu_seconds_of(side.processes) - cpu_s
            asked[name].append(_asked(sides["origin"]) - before)
            return Sample(1, seconds, cpu_s)

        runs = {name: partial(crowd, name) for name in (OURS, NGINX)}
        found = interleave(runs, plan.repeat)
    row = compare(
        "http_collapse", f"{CROWD} clients, one key, until the last byte", "wall us", found, NGINX,
        note="the origin takes 300 ms; nginx waits in turns of 500 ms",
    )  # fmt: skip
    counts = Row(
        "http_collapse", f"requests at the origin for {CROWD} clients", "", asked[OURS],
        NGINX, asked[NGINX], must=1.0,
    )  # fmt: skip
    return [row, counts]


# Idle connections


def _descriptors(wanted: int) -> int:
    """Raise the limit of descriptors for children as far as it goes; how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need_count = wanted + SPARE_DESCRIPTORS
    limit = need_count if hard == resource.RLIM_INFINITY else min(need_count, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(wanted, max(soft, limit) - SPARE_DESCRIPTORS)


@contextmanager
def _idle(side: Served, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.http_side_child", "idle", str(side.port), str(count)]
    child = subprocess.Popen(
        on_cpu(CLIENT_CPU, command), env=child_environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise RuntimeError("the idle connections were not all accepted")
        yield
    finally:
        child.communicate("")


def idle(plan: Plan) -> list[Row]:
    """Ten thousand connections that do nothing, and hits that go on meanwhile."""
    count = _descriptors(plan.sized(10_000, 1_000))
    target = f"/size/{KIB}"
    found: dict[str, list[Sample]] = {}
    held: dict[str, list[float]] = {}
    for name in (OURS, NGINX):
        samples, sizes = found.setdefault(name, []), held.setdefault(name, [])
        for _ in range(max(1, plan.repeat // 2)):
            with both(plan, "idle") as sides:
                side = sides[name]
                load(side, target, 1)
                before = resident_of(side.process)
                with _idle(side, count):
                    sizes.append((resident_of(side.process) - before) / count)
                    samples.append(load(side, target, plan.sized(3, 1)))
    p99 = {name: Spread.of([s.extra["p99_ms"] for s in each]) for name, each in found.items()}
    note = "; ".join(f"p99 of {name} {spread.median:.2f} ms" for name, spread in p99.items())
    return [
        Row(
            "http_idle", f"resident memory per idle connection, {count:,} of them", "bytes",
            held[OURS], NGINX, held[NGINX], note="nginx reserves its connections at the start",
        ),
        compare("http_idle", f"RAM hit 1 KiB beside {count:,} idle connections", "rate", found,
                NGINX, note=note),
    ]  # fmt: skip


def workers(plan: Plan) -> list[Row]:
    """Two processes with one cache against two of nginx, on all CPUs, wrk among them."""
    need("wrk", "nginx", "taskset")
    target = f"/size/{KIB}"
    with ExitStack() as stack:
        origin = stack.enter_context(serve_origin())
        place = plan.place("workers")
        sides = {
            OURS: stack.enter_context(serve_workers(origin, place / "root", WORKERS)),
            NGINX: stack.enter_context(serve_nginx(place / "nginx", origin, WORKERS)),
        }
        for side in sides.values():
            load(side, target, 1, cpu=None)

        def run(name: str, _: int) -> Sample:
            return load(sides[name], target, plan.sized(3, 1), cpu=None)

        found = interleave({name: partial(run, name) for name in sides}, plan.repeat)
    note = f"{os.cpu_count()} CPUs for both and wrk"
    return pair("http_workers", "RAM hit 1 KiB, 2 workers", found, NGINX, (1.0, None), (1.0, None),
                note)  # fmt: skip
