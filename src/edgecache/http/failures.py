"""What is answered to a request that cannot be taken as it is."""

from __future__ import annotations

from http import HTTPStatus

from edgecache.errors import EdgeCacheError

__all__ = ["ClientGoneError", "RequestError"]


class RequestError(EdgeCacheError, ValueError):
    """A request breaks a rule; `status` is the answer, `reason` a fixed word for the counter.

    Raised by a handler it is answered likewise, with `fields` added; the connection stays open if
    the content of the request ends where it should.
    """

    status: int = HTTPStatus.BAD_REQUEST
    reason: str = "syntax"
    fields: tuple[tuple[str, str], ...] = ()

    default_hint = "correct the request"
    fact_names = (*EdgeCacheError.fact_names, "status", "reason", "fields")


class ClientGoneError(EdgeCacheError, ConnectionError):
    """The client went away before the content of its request, or its answer, was complete."""

    default_hint = "nothing is wrong here; what was received so far is dropped"
