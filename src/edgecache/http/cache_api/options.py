"""What the X-ElCache-* fields of a request ask for."""

from __future__ import annotations

from edgecache.http.cache_api.keys import parse_decimal
from edgecache.http.cache_api.stored import TYPE_BYTES_MAX
from edgecache.http.failures import RequestError
from edgecache.http.request import Request
from edgecache.http.response import Response

__all__ = ["PutOptions", "ttl_of"]

TTL_MAX_S = 10**9
FLAGS_MAX = 2**32 - 1
# A tier that an entry can be kept out of by the store; others are reported as not applied.
PLACEMENTS = (("memory", False), ("disk", False), ("cluster", True))
CREATED = Response(201)


def _one(request: Request, name: bytes) -> bytes | None:
    lines = request.block.values.get(name)
    if lines is None:
        return None
    if len(lines) > 1:
        raise RequestError(f"{name.decode('ascii')} is given twice", reason="options")
    return lines[0]


def ttl_of(request: Request) -> float | None:
    """Return X-ElCache-TTL in seconds; None when it is absent or 0: the configured default."""
    value = _one(request, b"x-elcache-ttl")
    if value is None:
        return None
    return float(parse_decimal(value, "X-ElCache-TTL", TTL_MAX_S)) or None


class PutOptions:
    """Options of a PUT.

    Raises:
        RequestError: One of them is malformed.
    """

    __slots__ = ("content_type", "created", "flags", "ttl_s")

    def __init__(self, request: Request) -> None:
        self.ttl_s = ttl_of(request)
        flags = _one(request, b"x-elcache-flags")
        self.flags = 0 if flags is None else parse_decimal(flags, "X-ElCache-Flags", FLAGS_MAX)
        self.content_type = _one(request, b"content-type")
        if len(self.content_type or b"") > TYPE_BYTES_MAX:
            raise RequestError("Content-Type is too long", reason="options")
        if request.get(b"content-encoding") not in (None, b"identity"):
            # It would have to be sent with every answer, and negotiated.
            raise RequestError("content codings are not stored", status=415, reason="options")
        self.created = CREATED
        missed = []
        for tier, is_applied in PLACEMENTS:
            value = _one(request, b"x-elcache-no-" + tier.encode("ascii"))
            if value not in (None, b"true", b"false"):
                raise RequestError(f"X-ElCache-No-{tier} is true or false", reason="options")
            if value == b"true" and not is_applied:
                missed.append(f"no-{tier}")
        if missed:
            self.created = Response(201, (("X-ElCache-Not-Applied", ", ".join(missed)),))
