"""What objects count; `stats()` shows it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

COUNTED = (
    "stream_attaches", "stream_attach_misses", "aborted_writes", "refused_writes", "shed_writes",
    "holes", "hash_mismatches", "purged_evictions", "engine_evictions",
    "too_large", "own_puts", "own_deletes", "large_hits", "shared_chunks", "shared_bytes",
    "share_collisions",
)  # fmt: skip


@dataclass(slots=True)
class Counters:
    """Counters of one store. *Thread-safety*: change them under `lock`."""

    stream_attaches: int = 0
    stream_attach_misses: int = 0
    aborted_writes: int = 0
    refused_writes: int = 0
    shed_writes: int = 0
    holes: int = 0
    hash_mismatches: int = 0
    purged_evictions: int = 0
    engine_evictions: int = 0
    too_large: int = 0
    own_puts: int = 0
    own_deletes: int = 0
    large_hits: int = 0
    shared_chunks: int = 0
    shared_bytes: int = 0
    share_collisions: int = 0
    # Reentrant: a reader that is collected while its thread counts something counts, too.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, name: str, count: int = 1) -> None:
        """Count."""
        with self.lock:
            setattr(self, name, getattr(self, name) + count)
