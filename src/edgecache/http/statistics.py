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
        answers: Answers by method (b"other" for one without a name here, b"" for a request that was
            refused) and status.
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
    answers: dict[tuple[bytes, int], int] = field(default_factory=dict)
    refused_by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def requests_by_method(self) -> Counter[bytes]:
        """Requests that were answered by a handler, by method or b"other"."""
        found: Counter[bytes] = Counter()
        for (method, _), count in list(self.answers.items()):
            if method:
                found[method] += count
        return found

    @property
    def answers_by_status(self) -> Counter[int]:
        """Answers by status; those to requests that were refused, too."""
        found: Counter[int] = Counter()
        for (_, status), count in list(self.answers.items()):
            found[status] += count
        return found

    @property
    def requests(self) -> int:
        """Answers so far, refusals included."""
        return sum(list(self.answers.values()))

    @property
    def errors(self) -> int:
        """Answers of 400 and above."""
        return sum(count for status, count in self.answers_by_status.items() if status >= 400)

    def count(self, method: bytes, status: int) -> None:
        """Count an answer."""
        try:
            self.answers[method, status] += 1
        except KeyError:
            name = method if method in METHODS or not method else b"other"
            self.answers[name, status] = self.answers.get((name, status), 0) + 1

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
