"""Which door answers a request: by host and path prefix, the longest prefix first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from edgecache.errors import ArgumentError
from edgecache.http.request import Request
from edgecache.http.response import Response, text_response
from edgecache.http.shared import WITHOUT_CONTENT, bound

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["HttpApp"]

NEAR_BYTES = 4
NEAR_MAX = 256

Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]
Instant: TypeAlias = Callable[[bytes], "tuple[bytes, Buffer] | Response | None"]
Route: TypeAlias = tuple[bytes, Callable[..., object] | None, bool]
# Prefix, door, and how it answers at once.
Mount: TypeAlias = tuple[bytes, Handler, Instant | None]


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
        self._by_host: dict[bytes, list[Mount]] = {}
        self._anywhere: list[Mount] = []
        self._names: dict[bytes, str] = {}
        # Doors that a target can reach, by its first bytes: a request compares few prefixes.
        self._near: dict[bytes, list[Mount]] = {}
        # Who answers at once, as `Shared` has it: empty as soon as hosts matter.
        self.routes: list[Route] = []
        self._routes: dict[bytes, Route] = {}
        self.without_content = WITHOUT_CONTENT
        self._nowhere = text_response(404, "nothing is served here")
        self._options = Response(204)

    @property
    def door_names(self) -> list[tuple[bytes, str]]:
        """Prefixes and what their doors are called in statistics."""
        return list(self._names.items())

    def mount(
        self, prefix: bytes, door: Handler, *, host: bytes | None = None, name: str = "other"
    ) -> None:
        """Let `door` answer what starts with `prefix`.

        Args:
            prefix: Of the path; begins with "/".
            host: Name with its port as in the Host field, or None for any.
            name: What it is called in statistics.

        Raises:
            ArgumentError: The prefix does not begin with "/", or is taken.
        """
        if not prefix.startswith(b"/"):
            raise ArgumentError("a prefix begins with /", found=prefix)
        doors = self._anywhere
        if host is not None:
            doors = self._by_host.setdefault(host.lower(), [])
        if any(each[0] == prefix for each in doors):
            raise ArgumentError("this prefix has a door already", found=prefix)
        doors.append((prefix, bound(door), getattr(door, "instant", None)))
        self._names[prefix] = name
        self.without_content &= getattr(door, "without_content", WITHOUT_CONTENT)
        doors.sort(key=lambda mount: -len(mount[0]))
        self._near.clear()
        if host is None:
            recall = getattr(door, "recall", None)
            found = getattr(door, "instant", None) if recall is None else recall
            self._routes[prefix] = (prefix, found, recall is not None)
        routes = sorted(self._routes.values(), key=lambda route: -len(route[0]))
        self.routes[:] = () if self._by_host else routes

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        target = request.target
        if self._by_host or target[0] != 47:
            return self._route(request)
        head = target[:NEAR_BYTES]
        doors = self._near.get(head)
        if doors is None:
            doors = self._find_near(head)
        for prefix, door, _ in doors:
            if target.startswith(prefix):
                return door(request)
        return self._nowhere

    def instant(self, target: bytes) -> tuple[bytes, Buffer] | Response | None:
        """Answer a plain GET from its target alone, if its door can: see `Shared`."""
        if self._by_host:
            return None
        head = target[:NEAR_BYTES]
        doors = self._near.get(head)
        if doors is None:
            doors = self._find_near(head)
        for prefix, _, instant in doors:
            if target.startswith(prefix):
                return None if instant is None else instant(target)
        return self._nowhere

    def _find_near(self, head: bytes) -> list[Mount]:
        if len(self._near) >= NEAR_MAX:
            self._near.clear()
        doors = [each for each in self._anywhere if each[0][: len(head)] == head[: len(each[0])]]
        self._near[head] = doors
        return doors

    def _route(self, request: Request) -> Response | Awaitable[Response]:
        if request.target == b"*":
            return self._options
        path = request.path_and_query[0]
        for doors in (self._by_host.get(request.host, ()), self._anywhere):
            for prefix, door, _ in doors:
                if path.startswith(prefix):
                    return door(request)
        return self._nowhere
