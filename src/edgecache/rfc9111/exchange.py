"""One request and its response, as the functions that decide about it need them."""

from __future__ import annotations

from dataclasses import dataclass

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that was forwarded and what came back.

    Args:
        method: Exact bytes; methods are case-sensitive (RFC 9110, section 9.1).
        target_uri: Absolute URI of the request, as `key.target_uri` makes it.
        request: Header section of the request that was sent.
        status: Final status code.
        response: Header section of the response, as received.
        request_us: When the request was sent, microseconds since the epoch.
        response_us: When the response began, microseconds since the epoch.
        is_complete: False if the body ended before its framing said so, or if nothing but the end
            of the connection says where it ends.
        received_bytes: Bytes of the body that did arrive, where it is not complete.
        minor: Of the HTTP/1 version of the response.
    """

    method: bytes
    target_uri: bytes
    request: Headers
    status: int
    response: Headers
    request_us: int
    response_us: int
    is_complete: bool = True
    received_bytes: int = 0
    minor: int = 1

    @property
    def response_s(self) -> int:
        return self.response_us // SECOND_US
