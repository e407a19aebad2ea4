"""The configuration of a cache: a frozen dataclass whose fields carry kind and description.

Invariants of a `Config` that exists:

1. Every field has its final type and lies in its range: sizes are `int` bytes, durations `float`
   seconds, "auto" has become 0 or None.
2. The rules over several fields (`rules.py`) hold.

`docs/configuration.md` lists the fields; a test compares it with this file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from edgecache.config import environment, rules, sources
from edgecache.config.kinds import (
    Choice,
    Count,
    Directory,
    Duration,
    Flag,
    Kind,
    Ratio,
    Size,
    Text,
)
from edgecache.config.settings import Origin, Setting, resolve
from edgecache.config.units import GIB, KIB, MIB, TIB

IoKind = Literal["auto", "uring", "threads", "memory"]
Layout = Literal["log", "files"]
Policy = Literal["s3fifo", "lru", "arc", "sieve", "wtinylfu"]
Backpressure = Literal["block", "shed"]

# Source: the index keeps disk locations in 40 bits, in units of 64 bytes (`_index.pxd`).
DISK_BYTES_MAX = 64 * TIB
WRITE_BUFFER_BYTES = MIB
# Source: BUFFER_COUNT_MAX in `_segment.pxd`.
WRITE_BUFFERS_MAX = 64
KEY_BYTES_MAX = 8192


def _about(kind: Kind, doc: str) -> dict[str, object]:
    return {"kind": kind, "doc": doc}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one cache.

    The constructor accepts the same spellings as a file ("1GiB", "2h", "auto") and stores the
    final values.

    Raises:
        ConfigError: A value or a combination cannot be used; the message says what to do.

    *Thread-safety*: immutable.
    """

    root: str | None = field(
        default=None,
        metadata=_about(
            Directory(), "directory of the disk tier; none: the cache lives in memory only"
        ),
    )
    memory: int = field(
        default=GIB,
        metadata=_about(
            Size(minimum=MIB, maximum=DISK_BYTES_MAX), "budget of the RAM tier, metadata included"
        ),
    )
    disk: int = field(
        default=100 * GIB,
        metadata=_about(
            Size(maximum=DISK_BYTES_MAX),
            "budget of the disk tier; 0: no disk tier; at least 16 regions. Where the file system "
            "has less space, the log uses what there is",
        ),
    )
    io: IoKind = field(
        default="auto",
        metadata=_about(
            Choice(("auto", "uring", "threads", "memory")),
            "I/O engine; auto: uring where the kernel allows it, else threads; memory: a disk tier "
            "in RAM, for tests",
        ),
    )
    layout: Layout = field(
        default="log",
        metadata=_about(
            Choice(("log", "files")),
            "how objects lie on disk: log, packed in regions; files, one directory per object",
        ),
    )
    policy: Policy = field(
        default="s3fifo",
        metadata=_about(
            Choice(("s3fifo", "lru", "arc", "sieve", "wtinylfu")), "eviction policy of the RAM tier"
        ),
    )
    shards: int = field(
        default=0,
        metadata=_about(
            Count(minimum=1, maximum=rules.SHARD_COUNT_MAX, auto=True, power_of_two=True),
            "lock shards, a power of two; 0 or auto: four per CPU, each with 4 MiB or more",
        ),
    )
    region_size: int = field(
        default=0,
        metadata=_about(
            Size(minimum=MIB, maximum=GIB, multiple=MIB, zero=True, auto=True),
            "unit of reclaim on disk; 0 or auto: 64 MiB, less when disk, or the space that a new "
            "root finds, is under 1 GiB",
        ),
    )
    direct: bool = field(default=True, metadata=_about(Flag(), "bypass the page cache (O_DIRECT)"))
    io_threads: int = field(
        default=16, metadata=_about(Count(minimum=1, maximum=256), "threads of the thread engine")
    )
    queue_depth: int = field(
        default=64,
        metadata=_about(Count(minimum=1, maximum=4096), "requests in flight per channel"),
    )
    flush_interval: float = field(
        default=0.1,
        metadata=_about(
            Duration(minimum=0.001, maximum=3600), "oldest age of a buffered write before a flush"
        ),
    )
    flush_size: int = field(
        default=MIB,
        metadata=_about(
            Size(minimum=64 * KIB, maximum=WRITE_BUFFER_BYTES, multiple=4 * KIB),
            "bytes gathered before a flush: the size of a write buffer",
        ),
    )
    write_buffers: int = field(
        default=8,
        metadata=_about(
            Count(minimum=2, maximum=WRITE_BUFFERS_MAX), "write buffers of flush_size, at most 64"
        ),
    )
    backpressure: Backpressure = field(
        default="block",
        metadata=_about(
            Choice(("block", "shed")),
            "when all write buffers are busy: wait up to block_timeout, or drop the put",
        ),
    )
    block_timeout: float = field(
        default=1.0,
        metadata=_about(
            Duration(maximum=3600), "longest wait of a put for a write buffer; then it is shed"
        ),
    )
    read_timeout: float = field(
        default=0.0,
        metadata=_about(
            Duration(maximum=3600),
            "longest wait of a get for the disk, then it is a miss; 0: as long as the disk takes",
        ),
    )
    write_timeout: float = field(
        default=5.0,
        metadata=_about(
            Duration(maximum=3600),
            "longest wait of a put for the write of its own large value, then it is shed; 0: puts "
            "wait for a disk that hangs, whatever block_timeout says",
        ),
    )
    write_budget: int = field(
        default=0,
        metadata=_about(
            Size(), "bytes written to disk per day before admission tightens; 0: no limit"
        ),
    )
    max_object_size: int | None = field(
        default=None,
        metadata=_about(
            Size(minimum=1, optional=True), "largest object that is admitted; none: no limit"
        ),
    )
    chunk_size: int = field(
        default=4 * MIB,
        metadata=_about(
            Size(minimum=64 * KIB, maximum=64 * MIB, multiple=64 * KIB),
            "parts that large objects are stored in; smaller where region or shard are small",
        ),
    )
    first_chunk_size: int = field(
        default=0,
        metadata=_about(
            Size(maximum=64 * MIB, multiple=4 * KIB),
            "size of the first chunk of a large object, so that its begin is cheap to keep in RAM; "
            "0: chunk_size",
        ),
    )
    share_chunks: bool = field(
        default=False,
        metadata=_about(
            Flag(), "keep equal chunks of large objects once; their bytes are compared first"
        ),
    )
    max_key: int = field(
        default=KEY_BYTES_MAX,
        metadata=_about(
            Count(minimum=KEY_BYTES_MAX, maximum=KEY_BYTES_MAX),
            "longest key in bytes; fixed by the format",
        ),
    )
    front_size: int | None = field(
        default=None,
        metadata=_about(
            Size(zero=True, optional=True, auto=True),
            "budget of the per-process table of ready bytes objects; auto: memory/32, at most "
            "32 MiB; 0: off",
        ),
    )
    checkpoint_interval: float = field(
        default=60.0,
        metadata=_about(
            Duration(minimum=1, maximum=86400), "time between checkpoints of the index"
        ),
    )
    small_ratio: float = field(
        default=0.1,
        metadata=_about(Ratio(0.01, 0.5), "part of the disk regions that new objects enter"),
    )
    reinsert: bool = field(
        default=True,
        metadata=_about(
            Flag(), "move objects that were hit to the main log when their region is reclaimed"
        ),
    )
    shared: bool = field(
        default=False,
        metadata=_about(Flag(), "share the cache between processes (docs/concurrency.md)"),
    )
    keep_warm: bool = field(
        default=False,
        metadata=_about(
            Flag(), "leave RAM tier and index in memory for the next opening (docs/concurrency.md)"
        ),
    )
    namespace: str = field(
        default="", metadata=_about(Text(255), "prefix kept apart from the key; part of its hash")
    )
    default_ttl: float | None = field(
        default=None,
        metadata=_about(
            Duration(optional=True), "lifetime of a put without ttl; none: until evicted"
        ),
    )
    sqpoll: bool = field(
        default=False, metadata=_about(Flag(), "let a kernel thread submit (io_uring); costs a CPU")
    )
    iopoll: bool = field(
        default=False, metadata=_about(Flag(), "poll for completions (io_uring, direct only)")
    )
    locked_memory: int = field(
        default=0,
        metadata=_about(
            Size(auto=True),
            "memory that may be registered for DMA; 0 or auto: what RLIMIT_MEMLOCK allows",
        ),
    )
    max_partial_writes: int | None = field(
        default=None,
        metadata=_about(
            Count(optional=True), "streaming writes at a time; none: no limit; 0: refuse all"
        ),
    )
    max_in_mem_partial_bytes: int | None = field(
        default=None,
        metadata=_about(
            Size(optional=True), "memory for unfinished objects before they spill; none: no limit"
        ),
    )
    partial_quota: int | None = field(
        default=None,
        metadata=_about(
            Size(optional=True), "bytes that all unfinished sparse objects may hold; none: no limit"
        ),
    )
    partial_ttl: float = field(
        default=86400.0,
        metadata=_about(
            Duration(minimum=1), "lifetime of an unfinished sparse object, from its last save"
        ),
    )
    atomic_publish: bool = field(
        default=True,
        metadata=_about(Flag(), "show a streamed object to other readers only when it is complete"),
    )

    def __post_init__(self) -> None:
        given = {
            item.name: Setting(getattr(self, item.name), Origin(item.name))
            for item in dataclasses.fields(self)
        }
        for name, value in resolve(dataclasses.fields(self), given, rules.check).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        style: sources.Style = "auto",
        environ: Mapping[str, str] | None = None,
        **overrides: object,
    ) -> Self:
        """Read a .yaml, .yml, .toml or .json file, then the environment, then `overrides`.

        Args:
            path: The file; at most 1 MiB.
            style: "own": our keys, plain or below `edgecache:`. "pingora": the
                `edge-cdn-cache-*` keys of a Pingora configuration. "auto": what is found.
            environ: Variables to read instead of `os.environ`; `{}` reads none.
            overrides: Fields that win over file and environment.

        Raises:
            ConfigError: The file cannot be read or says something unusable; `path`, `line` and
                `key` say where.
        """
        from edgecache.config.documents import read_document

        document = read_document(os.fspath(path))
        variables = os.environ if environ is None else environ
        return cls._from_layers(
            sources.from_document(document, style, variables, cls._names()), variables, overrides
        )

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, object],
        *,
        environ: Mapping[str, str] | None = None,
        **overrides: object,
    ) -> Self:
        """Read a mapping in any style that `from_file` reads.

        Args:
            data: Our keys, plain or below "edgecache", or the `edge-cdn-cache-*` keys.
            environ: Variables that win over `data`; none are read by default.
            overrides: Fields that win over both.
        """
        variables = {} if environ is None else environ
        return cls._from_layers(
            sources.from_mapping(data, variables, cls._names()), variables, overrides
        )

    @classmethod
    def from_section(
        cls,
        data: object,
        origin: Origin,
        *,
        environ: Mapping[str, str] | None = None,
        **overrides: object,
    ) -> Self:
        """Read a section of a larger document, then the environment, then `overrides`.

        Args:
            data: The section; None: empty.
            origin: Where it stands, for messages.
            environ: Variables that win over `data`; none are read by default.
            overrides: Fields that win over both.
        """
        lower = sources.from_section({} if data is None else data, origin, cls._names())
        return cls._from_layers(lower, {} if environ is None else environ, overrides)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: object) -> Self:
        """Read EDGECACHE_* and EDGE_* variables, by default those of `os.environ`."""
        variables = os.environ if environ is None else environ
        return cls._from_layers({}, variables, overrides)

    @classmethod
    def from_options(
        cls,
        root: str | os.PathLike[str] | None,
        *,
        environ: Mapping[str, str] | None = None,
        **options: object,
    ) -> Self:
        """Build from the arguments of `edgecache.open`; no environment unless given."""
        return cls._from_layers({}, {} if environ is None else environ, {"root": root, **options})

    @classmethod
    def _from_layers(
        cls,
        lower: Mapping[str, Setting],
        environ: Mapping[str, str],
        overrides: Mapping[str, object],
    ) -> Self:
        fields = dataclasses.fields(cls)
        settings = {
            **environment.fallback(environ),
            **lower,
            **environment.settings(environ, fields),
            **sources.arguments(overrides, cls._names()),
        }
        return cls(**resolve(fields, settings, rules.check))

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(item.name for item in dataclasses.fields(cls))

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed, checked like a new one."""
        arguments = sources.arguments(changes, self._names())
        values = {**self.to_dict(), **{name: item.value for name, item in arguments.items()}}
        return type(self)(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values; `from_dict` of them is an equal `Config`."""
        return {name: getattr(self, name) for name in self._names()}

    @property
    def has_disk(self) -> bool:
        """Whether there is a disk tier: a budget, and a place to put it."""
        return self.disk > 0 and (self.root is not None or self.io == "memory")

    @property
    def region_size_bytes(self) -> int:
        """The region size in use, "auto" resolved."""
        return rules.region_bytes(self.disk, self.region_size)

    @property
    def front_size_bytes(self) -> int:
        """The budget of the front table in use, "auto" resolved."""
        return rules.front_bytes(self.memory, self.front_size)

    def shard_count(self, cpu_count: int) -> int:
        """Return the number of shards in use on that many CPUs, "auto" resolved."""
        return rules.shard_count(self.memory, self.shards, cpu_count)
