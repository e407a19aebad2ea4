"""What a proxy counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgecache.proxy.servers import ServerReport

WORDS = (
    *("hit", "miss", "stale", "stale-updating", "expired", "revalidated", "bypass", "error"),
    *("gateway-timeout", "partial", "purge", "refused"),
)


@dataclass(frozen=True, slots=True)
class ProxyReport:
    """The statistics of a proxy, at one moment.

    Args:
        answers: Answers by the word that `X-Cache-Status` has.
        fetches: Requests sent to origins.
        collapsed: Requests that were answered by another's fetch.
        released: Requests that waited in vain since the answer was for one client.
        wait_timeouts: Requests that waited for too long.
        predicted_uncacheable: Requests that did not wait for that reason.
        refreshes: Background refreshes of stale responses.
        failures: Failed exchanges by reason.
        purged: Responses that purges removed or made stale.
        invalidated: Responses that unsafe requests removed.
        background_tasks: Fills and refreshes under way.
        servers: Each server of each group.
    """

    answers: dict[str, int]
    fetches: int
    collapsed: int
    released: int
    wait_timeouts: int
    predicted_uncacheable: int
    refreshes: int
    failures: dict[str, int]
    purged: int
    invalidated: int
    background_tasks: int
    servers: dict[str, tuple[ServerReport, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """The counters of a running proxy."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    refreshes: int = 0
    purged: int = 0
    invalidated: int = 0

    def answer(self, word: str) -> None:
        """Count an answer."""
        self.answers[word] += 1
