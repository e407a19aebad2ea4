"""What a server counts. Names are fixed words, so the number of time series stays bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["HttpStatistics"]

# Methods that are counted by name; every other token counts as "other".
METHODS = frozenset(
    {
        *(b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"),
        b"PURGE",
    }
)


@dataclass(slots=True)
class HttpStatistics:
    """Counters of one server; they only grow, but for `connections`.

    Args:
        connections: Open now.
        accepted: Connections since the start.
        requests_by_method: Requests that were answered, by method or b"other".
        answers_by_status: Answers by status; those to requests that were refused, too.
        refused_by_reason: Requests and connections refused or cut off, by reason.
        bytes_received, bytes_sent: On the sockets; sent: handed to them.
        reading_pauses: Times a socket was not read because its data was not taken.
        writing_pauses: Times an answer waited for its client.
    """

    connections: int = 0
    accepted: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    reading_pauses: int = 0
    writing_pauses: int = 0
    requests_by_method: Counter[bytes] = field(default_factory=Counter)
    answers_by_status: Counter[int] = field(default_factory=Counter)
    refused_by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """Answers so far, refusals included."""
        return self.answers_by_status.total()

    @property
    def errors(self) -> int:
        """Answers of 400 and above."""
        return sum(count for status, count in self.answers_by_status.items() if status >= 400)

    def count(self, method: bytes, status: int) -> None:
        """Count an answer."""
        self.requests_by_method[method if method in METHODS else b"other"] += 1
        self.answers_by_status[status] += 1

    def as_dict(self) -> dict[str, object]:
        """Return all counters under their names, for a JSON body."""
        return {
            "connections": self.connections,
            "accepted": self.accepted,
            "bytes_received": self.bytes_received,
            "bytes_sent": self.bytes_sent,
            "reading_pauses": self.reading_pauses,
            "writing_pauses": self.writing_pauses,
            "requests": self.requests,
            "errors": self.errors,
            "requests_by_method": {
                name.decode("ascii"): count for name, count in self.requests_by_method.items()
            },
            "answers_by_status": {
                str(status): count for status, count in self.answers_by_status.items()
            },
            "refused_by_reason": dict(self.refused_by_reason),
        }
