"""The shape of one statistics snapshot: what `Storage.stats()` returns.

Invariants of a snapshot:

1. Every section and every key is there, also when a tier is not in use (then its values are 0, ""
   or {}), so a reader never has to ask first.
2. Counters only grow while a store is open; they start at 0 when it is opened.
3. Names state the unit last: `_bytes`, `_us`, `_seconds`. Names without a unit are counts.
4. A mapping by reason, kind or operation holds only keys that are fixed words of the program,
   never keys of the user, so the number of time series stays bounded.

`check_snapshot` asserts 1, and the types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict


class LatencyHistogram(TypedDict):
    """Durations counted by powers of two of microseconds.

    `bucket_counts[0]` counts durations up to 1 us, `bucket_counts[i]` those above 2**(i-1) us up to
    and with 2**i us, the last one everything above. `sum_us` is the sum of all.
    Source: `io_latency_bucket` in `_io.pxd`.
    """

    bucket_counts: list[int]
    sum_us: int


class EngineStats(TypedDict):
    """What runs, and since when. Words, not counters."""

    version: str
    io: str  # "uring", "threads", "memory", or "none" without a disk tier
    io_fallback_reason: str  # why the wished-for engine is not in use, or ""
    cold_reason: str  # with `keep_warm`: why nothing of an earlier life was adopted, or ""
    warm_refusal: str  # the same: why this life will leave nothing, or ""
    hash: str  # "native" or "python"
    layout: str
    policy: str
    is_direct: bool
    is_io_uring: bool
    is_atomic_publish: bool
    uptime_seconds: float


class HitStats(TypedDict):
    """Hits by the tier that answered."""

    front: int
    memory: int
    disk: int


class RequestStats(TypedDict):
    """What callers asked for, and what came of it."""

    hits: HitStats
    misses: int
    puts: int
    put_bytes: int
    deletes: int
    expired: int  # found, but past its lifetime: counted as a miss, too
    shed: dict[str, int]  # puts dropped, by reason
    evictions: int  # objects lost to a budget, in whichever tier was their last
    invalidations: int  # objects purged by key, tag or prefix
    demotions: int  # objects whose RAM copy went while the disk copy stayed
    stream_attaches: int
    stream_attach_misses: int
    partial_writes: int  # streaming writes in progress now


class ObjectStats(TypedDict):
    """Objects of any size: streams, chunks, sparse objects."""

    aborted_writes: int  # streams given up, by their writer or because a part was shed
    refused_writes: int  # streams not started: max_partial_writes, or no memory left for them
    shed_writes: int  # streams and ranges of which a part was shed
    sparse: int  # unfinished sparse objects known to this process
    sparse_bytes: int  # present in them
    memory_bytes: int  # of chunks being filled, and reserved for streams under a limit
    holes: int  # reads that found bytes missing
    hash_mismatches: int  # chunks whose content was not what the object says
    shared_chunks: int  # chunks of new objects that were there already (`share_chunks`)
    shared_bytes: int  # of them: what was not written
    share_collisions: int  # chunks that had the hash of another one, and were stored beside it
    share_table: int  # shared chunks whose objects are known now


class MemoryStats(TypedDict):
    """The RAM tier and the table of ready objects in front of it."""

    budget_bytes: int
    used_bytes: int
    item_bytes: int
    items: int
    pinned_bytes: int
    zombies: int  # freed but still pinned
    evictions: int
    moves: int
    refusals: int  # times the system had no memory for a page (`keep_warm`: /dev/shm is full)
    front_budget_bytes: int
    front_bytes: int
    front_items: int


class IndexStats(TypedDict):
    """The metadata map."""

    objects: int
    used_bytes: int
    overflow: int
    grows: int


class RegionStats(TypedDict):
    """Regions of the disk tier by state."""

    free: int
    open: int
    sealed: int
    retired: int


class DiskStats(TypedDict):
    """The disk tier as a whole."""

    budget_bytes: int
    used_bytes: int
    is_read_only: bool
    regions: RegionStats
    write_budget_level: int  # 0: admission is not tightened
    write_budget_bytes: int  # per day, 0: no limit


class LogStats(TypedDict):
    """Writing: buffers, flushes, checkpoints."""

    flushes: int
    flushed_bytes: int
    flush_waits: int  # puts that had to wait for a buffer
    flush_wait_us: int
    io_timeouts: int  # reads and writes that nobody waited for any longer
    buffered_bytes: int
    checkpoints: int
    checkpoint_failures: int


class ReclaimStats(TypedDict):
    """Making room: regions emptied, and what became of their objects."""

    regions: int
    bytes: int
    reinserted: int
    reinserted_bytes: int
    dropped: int


class RecoveryStats(TypedDict):
    """What opening the store found; constant afterwards."""

    seconds: float
    records: int
    regions_read: int
    regions_skipped: int  # refused: another generation, or damaged
    is_warm: bool  # RAM tier and index of an earlier life were adopted (`keep_warm`)


class SharingStats(TypedDict):
    """The processes that have one cache (`shared`), since its arena was made; all 0 without it."""

    processes: int  # that have it open now, this one included
    attaches: int  # stores that were opened on it, and children of fork that joined
    deaths: int  # processes that ended without closing, and were cleaned up after
    writer_pid: int  # of the process that flushes and reclaims; 0: about to be taken over
    is_writer: bool  # it is this process
    role_takeovers: int  # from a writer that died
    lock_repairs: int  # locks taken over from the dead
    shard_resets: int  # shards that lost their entries in RAM by that
    index_resets: int  # shards that lost all entries: nothing is known to lead there


class IoStats(TypedDict):
    """The I/O engine."""

    queue_depth: int  # most requests in flight per channel
    in_flight: int
    submissions: int  # calls into the kernel
    operations: dict[str, int]  # read, write, sync
    bytes: dict[str, int]  # read, write
    failures: dict[str, int]  # requests that failed, by operation
    errors: dict[str, int]  # the same by the name of the errno: EIO, ENOSPC ...
    short_transfers: int  # continued
    interruptions: int  # continued after EINTR or EAGAIN
    direct_refused: int  # files opened buffered because O_DIRECT was refused
    threads: int
    read_latency: LatencyHistogram
    write_latency: LatencyHistogram
    sync_latency: LatencyHistogram


class LeaseStats(TypedDict):
    """What several processes do only once, summed over all of them; zeros without `shared`."""

    takes: int  # leases taken
    waits: int  # waits for a lease of another begun
    hits: int  # of them: ended with what was waited for in the cache
    takeovers: int  # takes of what a dead or late one had held
    timeouts: int  # waits given up
    full: int  # takes for which the table had no room
    stream_attaches: int  # readers of a stream of another process
    streams_full: int  # streams that other processes could not be shown


class ErrorStats(TypedDict):
    """What went wrong and was survived."""

    corruption: dict[str, int]  # by kind: header, payload, key, footer, checkpoint ...
    open: int  # files or directories that could not be opened
    regions_retired: int  # given up after a failed write or sync


class StatsSnapshot(TypedDict):
    """One consistent-enough picture of a store: each counter is exact, their sum is not atomic."""

    engine: EngineStats
    requests: RequestStats
    objects: ObjectStats
    memory: MemoryStats
    index: IndexStats
    disk: DiskStats
    log: LogStats
    reclaim: ReclaimStats
    recovery: RecoveryStats
    sharing: SharingStats
    io: IoStats
    leases: LeaseStats
    errors: ErrorStats


LATENCY_BUCKET_COUNT = 24  # the last one starts at 2**22 us, about 4 s


def empty_snapshot() -> StatsSnapshot:
    """Return a snapshot of a store that did nothing: every key is there, at its zero."""
    snapshot: StatsSnapshot = _zero(StatsSnapshot)
    return snapshot


def _zero(kind: Any) -> Any:
    if is_typeddict(kind):
        value = {name: _zero(inner) for name, inner in get_type_hints(kind).items()}
        if kind is LatencyHistogram:
            value["bucket_counts"] = [0] * LATENCY_BUCKET_COUNT
        return value
    return (get_origin(kind) or kind)()


def check_snapshot(snapshot: Mapping[str, Any]) -> list[str]:
    """Return what is missing, unknown, negative or of the wrong type; [] when all is well.

    For tests of whoever fills a snapshot; it is not called on a scrape.
    """
    problems: list[str] = []
    _check(snapshot, StatsSnapshot, "", problems)
    return problems


def _check(value: Any, kind: Any, path: str, problems: list[str]) -> None:
    if is_typeddict(kind):
        if not isinstance(value, Mapping):
            problems.append(f"{path}: not a mapping")
            return
        hints = get_type_hints(kind)
        problems.extend(f"{path}{name}: missing" for name in hints if name not in value)
        problems.extend(f"{path}{name}: unknown" for name in value if name not in hints)
        for name, inner in hints.items():
            if name in value:
                separator = "." if is_typeddict(inner) else ""
                _check(value[name], inner, f"{path}{name}{separator}", problems)
        return
    path = path.rstrip(".")
    origin = get_origin(kind) or kind
    if origin is dict:
        inner = get_args(kind)[1]
        if not isinstance(value, Mapping):
            problems.append(f"{path}: not a mapping")
            return
        for name, item in value.items():
            _check(item, inner, f"{path}.{name}", problems)
    elif origin is list:
        if not isinstance(value, list):
            problems.append(f"{path}: not a list")
            return
        for position, item in enumerate(value):
            _check(item, get_args(kind)[0], f"{path}[{position}]", problems)
    elif type(value) is not origin and not (origin is float and type(value) is int):
        problems.append(f"{path}: {type(value).__name__}, not {origin.__name__}")
    elif origin in (int, float) and value < 0:
        problems.append(f"{path}: negative")
