"""The proxy as a handler of the data plane: the fast path, routing, purging, life.

Invariants:

1. A hit that RAM can answer is answered at once, without a task.
2. A prepared answer is used only while the store holds that very version of the entry.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from edgecache.errors import ArgumentError, EdgeCacheError
from edgecache.http.deferred import Deferred
from edgecache.http.framing import split_authority, split_target
from edgecache.http.outgoing import Outgoing
from edgecache.http.response import Response
from edgecache.proxy.addresses import Resolver
from edgecache.proxy.asking import Asked, place_of, short_authority
from edgecache.proxy.changes import Announce, Changes
from edgecache.proxy.config import DEMO, DYNAMIC, PROFILES, ProxyConfig, Route
from edgecache.proxy.content import BytesContent
from edgecache.proxy.entries import PENDING, Library, now_us
from edgecache.proxy.fetching import Fetcher
from edgecache.proxy.flights import Flights
from edgecache.proxy.forwarding import Forwarder, is_within
from edgecache.proxy.known import Known, KnownSections
from edgecache.proxy.memo import Memo
from edgecache.proxy.origin import OriginGroup
from edgecache.proxy.part_service import PartService
from edgecache.proxy.partials import Partials
from edgecache.proxy.predictor import Predictor
from edgecache.proxy.rendering import NO_NOTE, Note, Renderer
from edgecache.proxy.searching import SearchIndex
from edgecache.proxy.service import BYPASS, Service
from edgecache.proxy.settings import UpstreamConfig
from edgecache.proxy.statistics import ProxyReport, Tally
from edgecache.proxy.swift import Swift
from edgecache.proxy.tasks import Tasks
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.key import AS_IS, is_path, normal_authority
from edgecache.rfc9111.request import PLAIN, request_facts
from edgecache.rfc9111.reuse import FWD_METHOD, Action, Reuse, decide
from edgecache.rfc9111.rules import SAFE, Rules

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.http.request import Request

# Of requests that no route fits.
NO_ROUTE = Route(upstream="none", cache=False)
METHOD = Reuse(Action.BYPASS, FWD_METHOD)
SAFE_METHODS = (b"GET", b"HEAD")
# What only a browser or another proxy sends.
_FOR_OTHERS = frozenset(
    (b"origin", b"sec-fetch-site", b"via", b"forwarded", b"x-forwarded-for", b"x-real-ip")
)
SLASH = 47  # what a target in origin form begins with


class Proxy:
    """A reverse proxy; call it with a request of the data plane.

        proxy = Proxy(ProxyConfig.for_upstream("http://127.0.0.1:9000"), store)
        await proxy.start()
        server = HttpServer(proxy)

    Args:
        config: What it does.
        store: Where responses are kept; it stays open when the proxy stops.
        rules: Routes to put before those of the configuration.
        announce: Tells other processes with the same store what is purged; None: there are none.

    *Thread-safety*: belongs to the loop that it is started on.
    """

    # What a GET or DELETE carries may mean something to the origin, so it is passed on.
    without_content = frozenset((b"TRACE",))
    # What it is called in statistics where it is the only door.
    door_names = ((b"/", "proxy"),)

    def __init__(
        self,
        config: ProxyConfig,
        store: AsyncStorage,
        rules: tuple[Route, ...] = (),
        announce: Announce | None = None,
    ) -> None:
        self.config = config
        self._routes = (*rules, *config.routes)
        self._tally = Tally()
        self._tasks = Tasks()
        looks_at_search = any(config.rules_of(route).no_vary_search for route in self._routes)
        search = SearchIndex(store) if looks_at_search else None
        self._library = Library(store, config.keep_stale_s, config.variants_max, search)
        self._flights = Flights(config.collapsing.age_s, store.leases)
        self._predictor = Predictor(config.collapsing.predicted_keys)
        self._renderer = Renderer(config, self._tally.answer)
        self._groups: dict[str, OriginGroup] = {}
        partials = Partials(self._library)
        self._fetcher = Fetcher(config, self._library, self._groups, self._tasks, partials)
        self._changes = Changes(
            self._library,
            self._fetcher.recordings,
            self._flights,
            self._predictor,
            self._tally,
            announce,
        )
        self._service = Service(
            config,
            self._library,
            self._fetcher,
            self._flights,
            self._predictor,
            Forwarder(config.name.encode(), config.trusted_proxies, config.adds_forwarded),
            self._renderer,
            PartService(self._fetcher, partials, self._renderer),
            self._changes,
            self._tally,
            self._tasks,
        )
        self._known = KnownSections(config.name.encode())
        self._profile = PROFILES[config.profile]
        first = self._routes[0] if self._routes else NO_ROUTE
        # Nearly always there is one route for everything.
        is_for_all = bool(self._routes) and first.host is None and first.path == "/"
        self._only_route = first if is_for_all else None
        self._swift = Swift(
            config,
            self._library,
            self._groups,
            self._fetcher,
            self._flights,
            self._predictor,
            self._renderer,
            self._service,
            self._tasks,
        )
        self._memo = Memo(self._library, self._renderer, config.memo_bytes)
        self._is_stopping = False

    # Life

    async def start(self) -> None:
        """Make the groups of servers, and begin with their health checks."""
        resolver = Resolver()
        outgoing = Outgoing(asyncio.get_running_loop())
        for name, upstream in self.config.upstreams.items():
            self._groups[name] = OriginGroup(name, upstream, resolver, outgoing=outgoing)
        if self.config.dynamic is not None:
            upstream = UpstreamConfig(servers=("dynamic.invalid",), host="client")
            self._groups[DYNAMIC] = OriginGroup(
                DYNAMIC, upstream, resolver, self.config.dynamic, outgoing
            )
        if any(route.upstream == DEMO for route in self._routes):
            from edgecache.proxy.demo import DemoOrigin

            self._groups[DEMO] = await DemoOrigin.group(resolver)
        for group in self._groups.values():
            group.start()

    async def drain(self, timeout_s: float) -> bool:
        """Let fills and refreshes end; False when they did not in time."""
        return await self._tasks.drain(timeout_s)

    async def stop(self) -> None:
        """End everything that runs, and close all connections. Idempotent."""
        self._is_stopping = True
        self._swift.stop()
        await self._tasks.stop()
        for group in self._groups.values():
            await group.stop()
        self._groups.clear()

    def report(self) -> ProxyReport:
        """Return the statistics."""
        tally = self._tally
        return ProxyReport(
            answers={**tally.answers, "hit": tally.answers["hit"] + self._memo.hit_count},
            fetches=self._fetcher.fetch_count,
            collapsed=self._flights.collapsed_count,
            released=self._flights.released_count,
            wait_timeouts=self._flights.timeout_count,
            predicted_uncacheable=self._predictor.predicted_count,
            refreshes=tally.refreshes,
            failures=dict(tally.failures),
            purged=tally.purged,
            invalidated=tally.invalidated,
            background_tasks=len(self._tasks) + len(self._swift),
            servers={name: group.report() for name, group in self._groups.items()},
        )

    @property
    def changes(self) -> Changes:
        """Purges."""
        return self._changes

    # Requests

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a request."""
        prepared = self._memo.find(request)
        if prepared is not None:
            return prepared
        known = self._known.of(request)
        asked = self._ask(request, known)
        if isinstance(asked, Response):
            return asked
        if request.method not in SAFE_METHODS:
            if request.method == b"PURGE":
                return self._purge(asked)
            return self._guarded(asked)
        response: Response | Deferred | None = None
        if not asked.is_cacheable:
            response = self._forward_now(asked, known)
        elif asked.facts.may_reuse:
            response = self._answer_now(asked, known)
        return self._guarded(asked) if response is None else response

    def _forward_now(self, asked: Asked, known: Known) -> Deferred | None:
        """Pass a request on without a task; None where that is not enough."""
        request = asked.request
        if (
            request.method != b"GET"
            or request.body is not None
            or not request.block.is_simple
            or request.target[0] != SLASH
            or asked.facts.directives.only_if_cached
        ):
            return None
        return self._swift.forward(asked, known)

    def _answer_now(self, asked: Asked, known: Known) -> Response | Deferred | None:
        """Answer from RAM, or ask the origin without a task; None where that is not enough."""
        entry, has_variants = self._library.find_now(asked.uri, asked.headers, asked.rules)
        if entry is PENDING:
            return None
        if entry is None:
            is_simple = asked.request.method == b"GET" and asked.request.target[0] == SLASH
            return self._swift.miss(asked, known, has_variants) if is_simple else None
        if entry.body is None:
            return None
        reuse = decide(entry.policy, asked.facts, now_us())
        if reuse.action is not Action.HIT:
            return None
        if reuse.ttl_s > 0 and self._memo.takes(asked):
            return self._memo.add(asked, entry)
        return self._renderer.stored(
            asked, entry.stored.headers, entry.policy, BytesContent(entry.body), reuse
        )

    async def _guarded(self, asked: Asked) -> Response:
        """Answer, whatever the store does: a cache that fails becomes a plain proxy."""
        if not (asked.is_cacheable and asked.is_safe):
            reuse = METHOD if asked.method not in SAFE_METHODS else BYPASS
            if asked.is_safe and asked.facts.directives.only_if_cached:
                text = "this is never stored, and the request forbids to forward it"
                return self._renderer.own(asked, 504, text, reuse, NO_NOTE)
            return await self._service.forward(asked, reuse)
        return await self._service.answer(asked)

    def _ask(self, request: Request, known: Known) -> Asked | Response:
        """Read a request; or the answer to one that is not forwarded."""
        method = request.method
        headers = known.headers
        target, scheme = request.target, request.scheme.encode()
        authority: bytes | None = None
        if target[0] != SLASH:
            target, authority = split_target(target)
        host = known.host
        if authority is not None:
            host = split_authority(authority)[0] if authority else b""
        route = self._only_route
        if route is None or target[0] != SLASH:
            route = next((one for one in self._routes if one.fits(host, target)), None)
        refusal = self._refuse(method, known, route)
        if refusal is not None or route is None:
            return self._own(request, refusal or (404, "no route"), headers)
        if authority is None and known.origin is not None and route.query is AS_IS:
            uri = known.origin + target if is_path(target) else None
            short = known.short
        else:
            place = place_of(
                scheme, known.authority if authority is None else authority, target, route
            )
            uri, target = place or (None, target)
            short = b"" if uri is None else short_authority(uri)
        if uri is None:
            return self._own(request, (400, "the target is not usable"), headers)
        rules = self._rules_of(route)
        facts = PLAIN
        if not known.is_plain or method not in SAFE_METHODS:
            facts = request_facts(method, headers, rules)
        return Asked(request, method, uri, target, short, headers, facts, route, rules, scheme)

    def _rules_of(self, route: Route) -> Rules:
        return self._profile if route.rules is None else route.rules

    def _refuse(self, method: bytes, known: Known, route: Route | None) -> tuple[int, str] | None:
        """Say why a request is not forwarded."""
        if self._is_stopping:
            return 503, "the proxy is stopping"
        if method in (b"TRACE", b"CONNECT"):
            return 405, "this method is not forwarded"
        if route is None:
            return 404, "nothing is served for this host and path"
        if known.is_last_hop and method == b"OPTIONS":
            return 204, ""
        if known.is_circular:
            return 508, "the request goes round in a circle"
        return None

    def _own(self, request: Request, refusal: tuple[int, str], headers: Headers) -> Response:
        status, text = refusal
        asked = Asked(
            request, request.method, b"", b"", b"", headers, PLAIN, NO_ROUTE, SAFE, b"http"
        )
        extra = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if status == 405 else b""
        return self._renderer.own(asked, status, text, METHOD, Note(word="refused"), extra)

    # Purges by HTTP

    def _purge(self, asked: Asked) -> Response | Awaitable[Response]:
        access = self.config.purge
        is_allowed = is_within(asked.request.peer, access.networks)
        if is_allowed and access.token is None:
            # The address is that of a browser or of another proxy, not of who wants the purge.
            is_allowed = _FOR_OTHERS.isdisjoint(asked.headers.first)
        elif is_allowed and access.token is not None:
            given = asked.headers.get(b"authorization") or b""
            wanted = b"Bearer " + access.token.encode()
            is_allowed = hmac.compare_digest(given, wanted)
        if not is_allowed:
            text = "purging is not allowed from here"
            return self._renderer.own(asked, 403, text, METHOD, Note(word="refused"))
        return self._purge_as_asked(asked)

    async def _purge_as_asked(self, asked: Asked) -> Response:
        """PURGE: the URI of the request; or what `X-Purge` says: prefix, tag, everything."""
        headers = asked.headers
        soft = (headers.get(b"x-purge-soft") or b"0").strip() in (b"1", b"true", b"yes")
        kind = (headers.get(b"x-purge") or b"uri").strip().lower()
        tags = _tags(headers)
        try:
            if tags or kind == b"tag":
                count = sum([await self._changes.purge_tag(tag, soft) for tag in tags])
            elif kind == b"prefix" and not soft:
                count = await self._changes.purge_prefix(asked.uri)
            elif kind == b"everything" and not soft and self.config.purge.allows_all:
                count = await self._changes.purge_everything()
            elif kind == b"uri":
                count = await self._changes.purge(asked.uri, soft)
            else:
                text = "X-Purge is uri, prefix, tag or everything; only uri and tag can be soft"
                return self._renderer.own(asked, 400, text, METHOD, Note(word="refused"))
        except EdgeCacheError as error:
            text = f"the purge failed: {error.message}"
            return self._renderer.own(asked, 500, text, METHOD, Note(word="error"))
        extra = b"X-Purged-Count: %d\r\n" % count
        status = 200 if count else 404
        text = f"purged {count}"
        return self._renderer.own(asked, status, text, METHOD, Note(word="purge"), extra)

    # Purges by Python

    async def purge(self, url: str | bytes, soft: bool = False) -> int:
        """Remove all responses of a URL (with its variants); how many there were.

        Raises:
            ArgumentError: It is no http or https URL.
        """
        return await self._changes.purge(normal_uri(url), soft)

    async def purge_prefix(self, url: str | bytes) -> int:
        """Remove all responses whose URL begins with this one; how many there were."""
        return await self._changes.purge_prefix(normal_uri(url))

    async def purge_tag(self, tag: str, soft: bool = False) -> int:
        """Remove all responses with a tag of Surrogate-Key, Cache-Tag; how many there were."""
        return await self._changes.purge_tag(tag, soft)

    async def purge_everything(self) -> int:
        """Remove all responses; how many there were."""
        return await self._changes.purge_everything()


def normal_uri(url: str | bytes) -> bytes:
    """Return a URL as a key; ArgumentError if it is none."""
    text = url.encode("utf-8") if isinstance(url, str) else url
    scheme, separator, rest = text.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    normal = normal_authority(scheme.lower(), authority) if separator else None
    if normal is None:
        raise ArgumentError("this is no http or https URL", found=url)
    return scheme.lower() + b"://" + normal + b"/" + (path if slash else b"")


def _tags(headers: Headers) -> list[str]:
    """The tags that a PURGE names."""
    names: list[bytes] = []
    for value in headers.get_all(b"surrogate-key"):
        names += value.split()
    for value in headers.get_all(b"cache-tag"):
        names += [name.strip() for name in value.split(b",") if name.strip()]
    for value in headers.get_all(b"x-purge-tag"):
        names += [name.strip() for name in value.split(b",") if name.strip()]
    return [name.decode("latin-1") for name in dict.fromkeys(names)]
