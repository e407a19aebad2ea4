"""What one HTTP server allows its clients: every bound of the data plane, with its default.

Invariant: whatever a client sends or refuses to read, one connection holds at most
`request_line_bytes_max + header_bytes_max + pipelined_bytes_max + body_buffer_bytes_max +
write_buffer_bytes_max` and one read of the socket.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgecache.errors import ArgumentError

__all__ = ["HttpLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of a listener; each one that is exceeded counts as a reason of its own.

    Args:
        request_line_bytes_max: Method, target and version; 414 above. A key of 8 KiB, every byte
            of it percent-encoded, fits.
        header_bytes_max: All header fields of a request; 431 above.
        header_count_max: Header fields of a request; 431 above. Also holds for trailers.
        body_bytes_max: Content of a request; 413 above. None: no bound here, doors have their own.
        chunk_extension_bytes_max: Chunk extensions of one request together; 400 above.
        discard_bytes_max: Content that is read and thrown away to keep a connection; above it the
            connection is closed instead.
        pipelined_bytes_max: Requests waiting behind one that is being answered; above it the
            socket is not read.
        body_buffer_bytes_max: Content received and not yet taken by the handler.
        write_buffer_bytes_max: Bytes of answers not yet taken by the client's socket.
        requests_per_connection_max: Answers after which a connection is closed.
        connections_max: Open connections of one server; 503 above.
        header_timeout_s: From the first byte of a request to the end of its header; 408.
        body_timeout_s: Grace for the content of a request, beyond what `rate_bytes_min` grants.
        idle_timeout_s: Between requests.
        write_timeout_s: In which a client must take something of an answer.
        linger_timeout_s: For which input is discarded after the last answer.
        rate_bytes_min: Bytes per second that a client must send or take at least.
    """

    request_line_bytes_max: int = 26624
    header_bytes_max: int = 32768
    header_count_max: int = 100
    body_bytes_max: int | None = None
    chunk_extension_bytes_max: int = 4096
    discard_bytes_max: int = 262144
    pipelined_bytes_max: int = 65536
    body_buffer_bytes_max: int = 262144
    write_buffer_bytes_max: int = 262144
    requests_per_connection_max: int = 1_000_000
    connections_max: int = 20_000
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    linger_timeout_s: float = 2.0
    rate_bytes_min: int = 1024

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.name == "body_bytes_max":
                continue
            kinds = (int, float) if each.name.endswith("_s") else (int,)
            least = 0 if each.name in ("body_bytes_max", "discard_bytes_max") else 1
            least = 0 if each.name.endswith("_s") else least
            is_number = isinstance(value, kinds) and not isinstance(value, bool)
            if not is_number or not value >= least or value == float("inf"):
                raise ArgumentError(
                    f"{each.name} is {value!r}", expected=f"a number from {least} on", found=value
                )
