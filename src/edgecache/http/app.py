"""Which door answers a request: by host and path prefix, the longest prefix first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from edgecache.errors import ArgumentError
from edgecache.http.request import Request
from edgecache.http.response import Response, text_response

__all__ = ["HttpApp"]

Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]


class HttpApp:
    """A handler that passes requests on to doors.

        app = HttpApp()
        app.mount(b"/cache/", CacheApi(store))
        app.mount(b"/", proxy, host=b"www.example.org")

    A door gets the request as it came, exact bytes of the target included. A host that was named in
    a mount goes before one that was not. Prefixes are compared with the bytes of the path as sent,
    before any decoding.
    """

    def __init__(self) -> None:
        self._by_host: dict[bytes, list[tuple[bytes, Handler]]] = {}
        self._anywhere: list[tuple[bytes, Handler]] = []
        self._nowhere = text_response(404, "nothing is served here")
        self._options = Response(204)

    def mount(self, prefix: bytes, door: Handler, *, host: bytes | None = None) -> None:
        """Let `door` answer what starts with `prefix`.

        Args:
            prefix: Of the path; begins with "/".
            host: Name with its port as in the Host field, or None for any.

        Raises:
            ArgumentError: The prefix does not begin with "/", or is taken.
        """
        if not prefix.startswith(b"/"):
            raise ArgumentError("a prefix begins with /", found=prefix)
        doors = self._anywhere
        if host is not None:
            doors = self._by_host.setdefault(host.lower(), [])
        if any(each == prefix for each, _ in doors):
            raise ArgumentError("this prefix has a door already", found=prefix)
        doors.append((prefix, door))
        doors.sort(key=lambda pair: -len(pair[0]))

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        target = request.target
        if self._by_host or target[0] != 47:
            return self._route(request)
        for prefix, door in self._anywhere:
            if target.startswith(prefix):
                return door(request)
        return self._nowhere

    def _route(self, request: Request) -> Response | Awaitable[Response]:
        if request.target == b"*":
            return self._options
        path = request.path_and_query[0]
        for doors in (self._by_host.get(request.host, ()), self._anywhere):
            for prefix, door in doors:
                if path.startswith(prefix):
                    return door(request)
        return self._nowhere
