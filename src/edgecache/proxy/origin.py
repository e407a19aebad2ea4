"""The client of origins: groups of servers, what they are asked, and what happens when they fail.

Source: RFC 9110, section 9.2.2 (which requests may be repeated), RFC 9112, section 9.3.1
(connections that close while a request is on its way), Thaler and Ravishankar, "A name-based
mapping scheme for rendezvous" (1996).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from xxhash import xxh3_64_intdigest

from edgecache.http.outgoing import Outgoing
from edgecache.proxy.addresses import Resolver
from edgecache.proxy.connection import Connection
from edgecache.proxy.exchange import Begun, OriginAnswer, OriginRequest, ignore_interim
from edgecache.proxy.pool import Pool
from edgecache.proxy.problems import (
    NoUpstreamError,
    OriginConnectError,
    OriginError,
    OriginForbiddenError,
    OriginTimeoutError,
)
from edgecache.proxy.servers import ServerReport, ServerState
from edgecache.proxy.settings import DynamicOrigins, Server, UpstreamConfig


class OriginGroup:
    """Servers that answer for the same content.

    Args:
        name: For statistics.
        config: The settings.
        resolver: Shared by all groups of a proxy.
        dynamic: The servers are named by clients: then `config.servers` is not used.
        outgoing: Makes plain connections; None: the loop does.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_checks",
        "_config",
        "_dynamic",
        "_extra",
        "_outgoing",
        "_resolver",
        "_servers",
        "_tls",
        "_turn",
        "name",
    )

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        resolver: Resolver,
        dynamic: DynamicOrigins | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        self.name = name
        self._outgoing = outgoing
        self._config = config
        self._resolver = resolver
        self._dynamic = dynamic
        self._turn = 0
        self._checks: list[asyncio.Task[None]] = []
        self._tls: ssl.SSLContext | None = None
        self._extra: OrderedDict[Server, ServerState] = OrderedDict()
        self._servers: list[ServerState] = []
        if dynamic is None:
            self._servers = [self._state(server) for server in config.parsed]

    # Life

    def start(self) -> None:
        """Begin the active health checks."""
        if self._config.health is not None and not self._checks:
            loop = asyncio.get_running_loop()
            self._checks = [loop.create_task(self._watch(state)) for state in self._servers]

    async def stop(self) -> None:
        """End the checks and close all connections."""
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        self._checks.clear()
        for state in (*self._servers, *self._extra.values()):
            state.pool.close()

    def report(self) -> tuple[ServerReport, ...]:
        """Return what is known about every server."""
        now_s = asyncio.get_running_loop().time()
        return tuple(state.report(now_s) for state in (*self._servers, *self._extra.values()))

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.create_default_context(cafile=self._config.ca_file)
            if not self._config.tls_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            self._tls = context
        return self._tls

    def _state(self, server: Server) -> ServerState:
        config = self._config
        needs_public = self._dynamic is not None and not self._dynamic.allow_private
        pool = Pool(
            server,
            lambda: self._resolver.resolve(server.host, server.port, needs_public),
            limit=config.connections_max,
            idle_s=config.idle_s,
            tls=self._context() if server.is_tls else None,
            tls_name=config.tls_name,
            outgoing=self._outgoing,
        )
        seed = xxh3_64_intdigest(str(server).encode())
        return ServerState(server, pool, config.breaker, config.health, seed)

    # Choosing

    def _named(self, authority: bytes) -> ServerState:
        """The server that a client named; made when it is new."""
        dynamic = self._dynamic
        assert dynamic is not None
        try:
            text = authority.decode("ascii")
            scheme = "https" if dynamic.is_tls else "http"
            server = Server.parse(f"{scheme}://{text}", "host")
        except ValueError as error:
            raise OriginForbiddenError("the host is not usable", phase="choose") from error
        if not dynamic.allows(server.host, server.port):
            raise OriginForbiddenError(
                f"{server} is not among the dynamic origins", phase="choose", upstream=str(server)
            )
        state = self._extra.get(server)
        if state is None:
            while len(self._extra) >= dynamic.servers_max:
                self._drop_one()
            state = self._extra[server] = self._state(server)
        self._extra.move_to_end(server)
        return state

    def _drop_one(self) -> None:
        for server, state in self._extra.items():
            if state.pool.busy_count == 0:
                state.pool.close()
                del self._extra[server]
                return
        raise NoUpstreamError("too many dynamic origins are in use at once")

    def _choose(self, request: OriginRequest, tried: set[ServerState], now_s: float) -> ServerState:
        """The server to ask next.

        Raises:
            NoUpstreamError: None is left that may be asked.
        """
        if self._dynamic is not None:
            host = next((value for name, value in request.fields if name.lower() == b"host"), b"")
            able = [self._named(host)]
        else:
            able = self._servers
        able = [state for state in able if state not in tried and state.may_send(now_s)]
        if not able:
            raise NoUpstreamError(
                f"no server of {self.name!r} may be asked",
                upstream=self.name,
                hint="their health checks fail, or their circuits are open",
            )
        if len(able) == 1:
            return able[0]
        if self._config.balance == "rendezvous":
            key = request.balance_key or request.target
            return max(able, key=lambda state: xxh3_64_intdigest(key, seed=state.seed))
        self._turn += 1
        if self._config.balance == "least_busy":
            place = self._turn % len(able)
            return min(able[place:] + able[:place], key=lambda state: state.pool.busy_count)
        return able[self._turn % len(able)]

    # Asking

    def begin(self, method: bytes, target: bytes, host: bytes, lines: bytes) -> Begun | None:
        """Send a request without content over a kept connection; None: that needs waiting.

        Args:
            method, target: As they go out.
            host: Of the client's request.
            lines: All other fields, as they go out.

        Whoever has one reads the answer by `Connection.listen`, or goes on with `fetch`.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if len(self._servers) != 1:
            return None
        state = self._servers[0]
        if not state.may_send(now_s):
            return None
        connection = state.pool.take_idle()
        if connection is None:
            return None
        if config.host != "client":
            host = (state.server.authority if config.host == "server" else config.host).encode()
        state.begin(now_s)
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, lines)
        is_lenient = config.transfer_coding == "lenient"
        connection.begin(head, method == b"HEAD", is_lenient, config.head_bytes_max)
        connection.is_sent = True
        return Begun(state, connection, config, now_s, time.time_ns() // 1000)

    async def fetch(self, request: OriginRequest, begun: Begun | None = None) -> OriginAnswer:
        """Ask until there is an answer, or nobody is left to ask.

        Args:
            request: What to ask.
            begun: The first attempt, where it is under way.

        Raises:
            OriginError: The last failure.
        """
        loop = asyncio.get_running_loop()
        begun_s = loop.time() if begun is None else begun.begun_s
        deadline_s = begun_s + self._config.timeouts.total_s
        tried: set[ServerState] = set()
        failure: OriginError | None = None
        attempt = 0
        while attempt <= self._config.retries:
            first, begun = begun, None
            try:
                state = self._choose(request, tried, loop.time()) if first is None else first.state
            except NoUpstreamError:
                if failure is not None:
                    raise failure from None
                raise
            if attempt:
                state.retry_count += 1
            try:
                answer = await self._ask(state, request, deadline_s, first)
            except OriginForbiddenError:
                raise
            except OriginError as error:
                failure = error
                never_sent = error.phase in ("resolve", "connect", "choose")
                if not (never_sent or (request.is_repeatable and not error.has_answer)):
                    raise
                if len(self._servers) > 1:
                    tried.add(state)
                # A retry on a fresh connection that failed as well was one of the attempts
                # (RFC 9110, section 9.2.2).
                attempt += 2 if error.is_second else 1
                continue
            is_last = attempt == self._config.retries or not request.is_repeatable
            if is_last or answer.status not in self._config.retry_statuses:
                return answer
            tried.add(state)
            if not any(
                other.may_send(loop.time()) for other in self._servers if other not in tried
            ):
                return answer
            answer.close()
            attempt += 1
        assert failure is not None
        raise failure

    async def _ask(
        self,
        state: ServerState,
        request: OriginRequest,
        deadline_s: float,
        begun: Begun | None = None,
    ) -> OriginAnswer:
        """One attempt at one server; a kept connection that turns out closed does not count."""
        loop = asyncio.get_running_loop()
        if begun is None:
            state.begin(loop.time())
        try:
            # A request that must not be sent twice needs a connection that nobody is closing.
            wait_s = self._config.timeouts.connect_s
            if begun is None:
                connection = await state.pool.take(wait_s, is_fresh=not request.is_repeatable)
                is_kept = connection.exchange_count > 0
            else:
                connection, is_kept = begun.connection, True
            try:
                answer = await self._exchange(
                    connection, state, request, deadline_s, is_begun=begun is not None
                )
            except OriginError as error:
                is_closed = not isinstance(error, OriginTimeoutError) and not error.has_answer
                if not (is_kept and is_closed and request.is_repeatable):
                    raise
                connection = await state.pool.take(wait_s, is_fresh=True)
                try:
                    answer = await self._exchange(connection, state, request, deadline_s)
                except OriginError as second:
                    second.is_second = True
                    raise
        except OriginError as error:
            state.fail(loop.time(), error.reason)
            raise
        except BaseException:
            state.give_up()
            raise
        if answer.status in self._config.retry_statuses:
            state.fail(loop.time(), str(answer.status))
        else:
            state.succeed()
        return answer

    async def _exchange(
        self,
        connection: Connection,
        state: ServerState,
        request: OriginRequest,
        deadline_s: float,
        is_begun: bool = False,
    ) -> OriginAnswer:
        config = self._config
        sender: asyncio.Task[None] | None = None
        try:
            if not is_begun:
                self._send(connection, state, request)
            if request.body is not None and not isinstance(request.body, bytes):
                sender = asyncio.get_running_loop().create_task(
                    self._send_body(connection, request, request.body)
                )
            left_s = deadline_s - asyncio.get_running_loop().time()
            wait_s = max(0.001, min(config.timeouts.first_byte_s, left_s))
            if sender is not None:
                await self._sent_or_answered(sender, connection, request, max(0.001, left_s))
            answer_head = await connection.read_head(wait_s, request.on_interim)
        except BaseException:
            connection.close()
            state.pool.give_back(connection)
            raise
        finally:
            if sender is not None and not sender.done():
                sender.cancel()
        return OriginAnswer(
            answer_head, connection, state, config.timeouts, deadline_s, config.body_bytes_max
        )

    def _send(self, connection: Connection, state: ServerState, request: OriginRequest) -> None:
        """Send the head, and the body if it is at hand."""
        config = self._config
        host = None
        if config.host == "server":
            host = state.server.authority.encode()
        elif config.host != "client":
            host = config.host.encode()
        head = request.head_bytes(host)
        is_lenient = config.transfer_coding == "lenient"
        if isinstance(request.body, bytes):
            head += request.body
        connection.begin(head, request.method == b"HEAD", is_lenient, config.head_bytes_max)
        if request.body is None or isinstance(request.body, bytes):
            connection.is_sent = True

    async def _sent_or_answered(
        self,
        sender: asyncio.Task[None],
        connection: Connection,
        request: OriginRequest,
        timeout_s: float,
    ) -> None:
        """Wait until the body is sent, or an answer comes before that."""
        reader = asyncio.get_running_loop().create_task(
            connection.read_head(timeout_s, request.on_interim)
        )
        try:
            await asyncio.wait({sender, reader}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done() and not reader.done():
                sender.result()
        finally:
            if not reader.done():
                reader.cancel()
                await asyncio.wait({reader})
            elif not reader.cancelled():
                reader.exception()  # read again, and raised, by the caller

    async def _send_body(
        self, connection: Connection, request: OriginRequest, body: AsyncIterator[bytes]
    ) -> None:
        timeout_s = self._config.timeouts.send_s
        left = request.body_bytes
        async for piece in body:
            if not piece:
                continue
            if left is None:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            else:
                left -= len(piece)
                if left < 0:
                    raise OriginConnectError("the request has more body than it declared")
            if not await connection.send(piece, timeout_s):
                return
        if left:
            raise OriginConnectError(
                "the request has less body than it declared", phase="request", reason="client"
            )
        if left is None:
            await connection.send(b"0\r\n\r\n", timeout_s)
        connection.is_sent = True

    # Health

    async def _watch(self, state: ServerState) -> None:
        check = self._config.health
        assert check is not None
        while True:
            state.checked(await self._is_healthy(state, check.path, check.timeout_s))
            await asyncio.sleep(check.interval_s)

    async def _is_healthy(self, state: ServerState, path: str, timeout_s: float) -> bool:
        request = OriginRequest(
            b"GET",
            path.encode(),
            [(b"Host", state.server.authority.encode()), (b"Connection", b"close")],
        )
        connection: Connection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await state.pool.take(timeout_s, is_fresh=True)
                connection.begin(request.head_bytes(None), False, True, self._config.head_bytes_max)
                head = await connection.read_head(timeout_s, ignore_interim)
        except (OriginError, TimeoutError):
            return False
        finally:
            if connection is not None:
                connection.close()
                state.pool.give_back(connection)
        return head.status < 400
