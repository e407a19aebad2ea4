"""What a server counts. Names are fixed words, so the number of time series stays bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgecache.http._head import Tally
from edgecache.http.latency import Latencies

__all__ = ["HttpStatistics"]

# Methods that are counted by name; every other token counts as "other".
METHODS = frozenset(
    {
        *(b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"),
        b"PURGE",
    }
)
GET_200 = (b"GET", 200)


@dataclass(slots=True)
class HttpStatistics:
    """Counters of one server; they only grow, but for `connections`.

    Args:
        connections: Open now.
        accepted: Connections since the start.
        refused_by_reason: Requests and connections refused or cut off, by reason.
        known_answers: As `answers`, but for hits of the native side that nobody asked about yet.
        native: What the native side counts.
        latencies: How long answers took, by door.
        reading_pauses: Times a socket was not read because its data was not taken.
        writing_pauses: Times an answer waited for its client.
    """

    connections: int = 0
    accepted: int = 0
    reading_pauses: int = 0
    writing_pauses: int = 0
    known_answers: dict[tuple[bytes, int], int] = field(default_factory=dict)
    refused_by_reason: Counter[str] = field(default_factory=Counter)
    native: Tally = field(default_factory=Tally)
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def bytes_received(self) -> int:
        """Bytes read from the sockets."""
        return self.native.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Bytes handed to the sockets."""
        return self.native.bytes_sent

    @property
    def answers(self) -> dict[tuple[bytes, int], int]:
        """Answers by method (b"other" for one without a name here, b"" for a refused request) and
        status."""
        hits = self.native.take_hits()
        if hits:
            self.known_answers[GET_200] = self.known_answers.get(GET_200, 0) + hits
        return self.known_answers

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
            self.known_answers[method, status] += 1
        except KeyError:
            name = method if method in METHODS or not method else b"other"
            self.known_answers[name, status] = self.known_answers.get((name, status), 0) + 1

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
            "latencies": self.latencies.as_dict(),
        }
