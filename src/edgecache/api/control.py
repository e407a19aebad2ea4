"""What the admin plane asks of the server behind it.

The API knows the storage and nothing of the other doors; what concerns them (purging a URL, the
state of circuits) comes through this protocol, which the server implements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from edgecache.aio import AsyncStorage


@dataclass(frozen=True, slots=True)
class PurgeOrder:
    """What to purge: exactly one of the first four, or everything.

    Args:
        key: A key of the cache API.
        prefix: Keys of the cache API that start with it.
        tag: Entries of all doors with this tag.
        url: An absolute URL of the proxy, all its variants.
        everything: All entries.
        soft: Make them stale instead of removing them.
    """

    key: bytes | None = None
    prefix: bytes | None = None
    tag: str | None = None
    url: str | None = None
    everything: bool = False
    soft: bool = False

    @property
    def target_count(self) -> int:
        """How many targets are named; 1 is right."""
        named = (self.key, self.prefix, self.tag, self.url)
        return sum(each is not None for each in named) + self.everything


class Control(Protocol):
    """The server, as the admin plane sees it."""

    @property
    def store(self) -> AsyncStorage | None:
        """The cache; None while it is being opened."""

    @property
    def registry(self) -> CollectorRegistry:
        """All metrics of the process."""

    @property
    def is_draining(self) -> bool:
        """Whether the server stops."""

    def configuration(self) -> Mapping[str, Any]:
        """Return the settings in use, without secrets."""

    def http(self) -> Mapping[str, Any]:
        """Return what the data plane counts, latencies by door included; {} before it is there."""

    async def health(self) -> Mapping[str, Any]:
        """Return {"status": "ok" | "degraded" | "failing" | "starting", "reasons": [...], ...}."""

    async def purge(self, order: PurgeOrder) -> int:
        """Carry the order out; the number of entries it met.

        Raises:
            EdgeCacheError: It cannot be carried out.
        """
