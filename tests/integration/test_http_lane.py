"""Requests that native code answers: the same answers as on the long way, and no more of them."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http import Answer, Running, answers, read_all, request, statuses
from support.smuggling import CASES, CHAIN

import edgecache
from edgecache.http import HttpApp, HttpLimits, HttpServer, Request, Response, mount_cache_api
from edgecache.http._port import listen
from edgecache.http.protocol import HttpProtocol

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"


class Door:
    """Answers at once what begins with /good, and remembers all targets."""

    def __init__(self) -> None:
        self.instants: list[bytes] = []
        self.calls: list[bytes] = []

    def instant(self, target: bytes) -> Any:
        self.instants.append(target)
        if target.startswith(b"/good"):
            return HEAD % len(target), target
        if target.startswith(b"/big"):
            return HEAD % 100_000, memoryview(bytes([len(target)]) * 100_000)
        if target == b"/missing":
            return Response(404, (), b"missing")
        if target == b"/last":
            answer = Response(200, (), b"last")
            answer.must_close = True
            return answer
        if target == b"/broken":
            raise RuntimeError("broken")
        if target == b"/wrong":
            return HEAD % 3, 17
        return None

    def __call__(self, request: Request) -> Response:
        self.calls.append(request.target)
        if request.body is not None:
            return self.read(request)  # type: ignore[return-value]
        if request.method == b"GET" and not request.block.has_conditions and request.body is None:
            try:
                answer = self.instant(request.target)
                if isinstance(answer, tuple):
                    return Response(200, (), bytes(memoryview(answer[1])))
                if answer is not None:
                    return answer  # type: ignore[no-any-return]
            except (RuntimeError, TypeError):
                pass
        return Response(200, (), b"long way")

    async def read(self, request: Request) -> Response:
        assert request.body is not None
        return Response(200, (), await request.body.read_all(1 << 20))


@pytest.fixture
def door() -> Door:
    return Door()


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=LOOPS)
def server(door: Door, request: pytest.FixtureRequest) -> Iterator[Running]:
    with Running(door, loop_factory=LOOPS[request.param]) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_behind_hits_gets_its_one_error_and_is_the_last(name: str) -> None:
    data, status = CASES[name]
    if data.startswith((b"\r", b"\n")) and data[:4] != b"\r\n\r\n":
        data = b"\r\n" + data
    door = Door()
    with Running(door) as server, server.connect() as handle:
        handle.sendall(GOOD)
        received = answers(handle)
        assert next(received).body == b"/good"
        # From here on the lane is open; the bad one comes with hits before it.
        handle.sendall(GOOD + GOOD + data + CHAIN)
        assert [each.status for each in received] == [200, 200, status]
        assert server.server.statistics.native.hit_count == 2
    assert b"/second" not in door.instants + door.calls


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"missing"),
        (b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"GET http://a/good HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"GET /wrong HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"PUT /good HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"get /good HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"long way"),
        (b"GET /good HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n", 200, b"long way"),
        (b"GET /good HTTP/1.1\r\nHost: b\r\n\r\n", 200, b"/good"),
        (b"GET /good HTTP/1.1\r\nhost: a\r\n\r\n", 200, b"/good"),
        (b"\r\nGET /good HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"/good"),
        (b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"\x04" * 100_000),
        (b"GET /good HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200, b"/good"),
    ],
)
def test_what_is_no_plain_hit_is_answered_in_its_place(
    server: Running, data: bytes, status: int, body: bytes
) -> None:
    with server.connect() as handle:
        handle.sendall(GOOD)
        received = answers(handle)
        assert next(received).body == b"/good"
        handle.sendall(GOOD + data + GOOD + LAST)
        found = [(each.status, each.body) for each in received]
        assert found == [(200, b"/good"), (status, body), (200, b"/good"), (200, b"/good")]


def test_an_answer_that_ends_the_connection_ends_it(server: Running) -> None:
    with server.connect() as handle:
        handle.sendall(GOOD)
        received = answers(handle)
        next(received)
        handle.sendall(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
        found = list(received)
        assert [each.body for each in found] == [b"last"]
        assert found[0].fields["connection"] == "close"


TARGETS = st.sampled_from(
    [
        b"/good",
        b"/good?a=%20",
        b"/big",
        b"/big2",
        b"/missing",
        b"/other",
        b"/broken",
        b"/" + b"g" * 99,
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(TARGETS, st.sampled_from([b"a", b"b"])), min_size=1, max_size=40),
    st.lists(st.integers(1, 400), max_size=12),
)
def test_requests_in_any_pieces_get_the_answers_of_the_long_way(
    asked: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % each for each in asked)
    door = Door()
    expected = []
    for target, _ in asked:
        try:
            answer = Door().instant(target)
        except RuntimeError:
            answer = None
        if isinstance(answer, tuple):
            expected.append((200, bytes(answer[1])))
        else:
            expected.append((200, b"long way") if answer is None else (404, b"missing"))
    with Running(door) as server, server.connect() as handle:
        received = answers(handle)
        at = 0
        for size in cuts:
            handle.sendall(data[at : at + size])
            at += size
        handle.sendall(data[at:] + LAST)
        assert [(each.status, each.body) for each in received][:-1] == expected
        counted = server.server.statistics
        assert counted.requests == len(asked) + 1
        assert counted.bytes_received == len(data) + len(LAST)


def test_hits_count_towards_the_requests_of_a_connection(door: Door) -> None:
    limits = HttpLimits(requests_per_connection_max=7)
    with Running(door, limits=limits) as server:
        assert statuses(server.send(*[GOOD] * 3, GOOD * 20)) == [200] * 7
        with server.connect() as handle:
            received = answers(handle)
            for _ in range(6):
                handle.sendall(GOOD)
                assert "connection" not in next(received).fields
            handle.sendall(GOOD + GOOD)
            assert [each.fields["connection"] for each in received] == ["close"]


def test_all_bytes_and_hits_are_counted(server: Running) -> None:
    with server.connect() as handle:
        received = answers(handle)
        for _ in range(3):
            handle.sendall(GOOD)
            next(received)
        handle.sendall(LAST)
        list(received)
    counted = server.server.statistics
    assert counted.native.hit_count == 2
    assert counted.answers == {(b"GET", 200): 4}
    assert counted.bytes_received == 3 * len(GOOD) + len(LAST)


def test_draining_closes_the_lanes(door: Door) -> None:
    with Running(door) as server, server.connect() as handle:
        received = answers(handle)
        handle.sendall(GOOD)
        next(received)

        async def drain() -> None:
            server.server._running().begin_draining()

        server.call(drain())
        handle.sendall(GOOD)
        assert next(received).fields["connection"] == "close"


def test_hits_keep_a_connection_from_being_idle(door: Door) -> None:
    with Running(door) as server, server.connect() as handle:
        received = answers(handle)

        def at(now_s: float) -> Callable[[], Any]:
            async def look() -> bool:
                shared = server.server._running()
                shared.set_now(now_s)
                (connection,) = shared.connections
                if connection.deadline_s < now_s:
                    connection.on_deadline(now_s)
                return bool(connection.transport.is_closing())

            return look

        handle.sendall(GOOD)
        next(received)
        base_s = server.loop.time()
        assert not server.call(at(base_s + 70)())
        handle.sendall(GOOD)
        next(received)
        assert not server.call(at(base_s + 140)())
        assert server.call(at(base_s + 216)())
        assert server.refused == {"idle_timeout": 1}


class Stored(Running):
    """A cache API with one entry of 100,000 bytes."""

    def __init__(self, **options: Any) -> None:
        self.store = edgecache.AsyncStorage(edgecache.Config(memory="64MiB"))
        self.value = random.Random(1).randbytes(100_000)
        app = HttpApp()
        mount_cache_api(app, self.store)
        super().__init__(app, **options)

    def __enter__(self) -> Stored:
        super().__enter__()
        answer = self.exchange(request("PUT", "/cache/k", (), self.value))
        assert answer.status == 201
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self.store.storage.close()

    @property
    def pinned_bytes(self) -> int:
        return int(self.store.storage.stats()["memory"]["pinned_bytes"])


GET = request("GET", "/cache/k")


def test_a_client_that_stalls_pins_nothing_and_gets_the_version_it_was_answered_with() -> None:
    limits = HttpLimits(write_timeout_s=60.0)
    with Stored(limits=limits) as server, server.connect(SO_RCVBUF=4096) as handle:
        handle.sendall(GET)
        file = answers(handle)
        assert next(file).body == server.value
        count = 60
        handle.sendall(GET * count)

        async def is_stalled() -> None:
            while not server.server.statistics.writing_pauses:
                await asyncio.sleep(0.001)

        server.call(is_stalled())
        assert server.pinned_bytes == 0
        (connection,) = server.server._running().connections
        waiting = connection.transport.get_write_buffer_size()
        # The mark, one read of the socket, and what one call gathers.
        assert waiting <= limits.write_buffer_bytes_max + 2 * 262144 + 2 * len(server.value)
        other = os.urandom(100_000)
        assert server.exchange(request("PUT", "/cache/k", (), other)).status == 201
        bodies = [next(file).body for _ in range(count)]
        assert bodies[0] == server.value
        assert bodies[-1] == other
        assert set(bodies) == {server.value, other}
        assert bodies == sorted(bodies, key=lambda body: body == other)


def test_a_client_that_leaves_in_the_middle_leaves_nothing_pinned() -> None:
    with Stored() as server:
        for _ in range(5):
            handle = server.connect(SO_RCVBUF=4096)
            handle.sendall(GET)
            handle.recv(10)
            handle.sendall(GET * 100)
            handle.close()

        async def is_empty() -> None:
            while server.server.connections:
                await asyncio.sleep(0.001)

        server.call(is_empty())
        assert server.pinned_bytes == 0
        assert server.exchange(GET).body == server.value


def test_recall_gets_the_exact_fields_and_the_longest_prefix_answers() -> None:
    seen = []

    class Recaller:
        def __call__(self, request: Request) -> Response:
            return Response(200, (), b"called")

        def recall(self, target: bytes, fields: bytes) -> Response:
            seen.append((target, fields))
            return Response(200, (), b"recalled")

    app = HttpApp()
    app.mount(b"/", Recaller())
    door = Door()
    app.mount(b"/good", door)
    fields = b"Host: a\r\nX:  y \r\n"
    with Running(app) as server, server.connect() as handle:
        received = answers(handle)
        handle.sendall(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
        assert next(received).body == b"called"
        handle.sendall(b"GET /x HTTP/1.1\r\n" + fields + b"\r\n")
        assert next(received).body == b"recalled"
        handle.sendall(b"GET /good HTTP/1.1\r\n" + fields + b"\r\n")
        assert next(received).body == b"/good"
        assert seen == [(b"/x", fields)]
        # As soon as a door has a host, the target alone does not say who answers.
        app.mount(b"/", door, host=b"a")
        handle.sendall(b"GET /x HTTP/1.1\r\n" + fields + b"\r\n")
        assert next(received).body == b"long way"
        assert len(seen) == 1


def test_a_process_without_descriptors_counts_it_and_accepts_later(door: Door) -> None:
    with Running(door) as server:
        port = server.server._servers[0]
        full: list[int] = []

        class Full:
            family = socket.AF_INET

            def __init__(self) -> None:
                self.own = socket.create_server(("127.0.0.1", 0))
                self.own.setblocking(False)

            def fileno(self) -> int:
                return self.own.fileno()

            def accept(self) -> Any:
                if not full:
                    full.append(1)
                    raise OSError(errno.EMFILE, "too many open files")
                return self.own.accept()

            def close(self) -> None:
                self.own.close()

        async def begin() -> Any:
            shared = server.server._running()
            handle = Full()
            found = listen(
                shared.wire,
                handle,  # type: ignore[arg-type]
                lambda: HttpProtocol(shared),
                shared.count_full,
            )
            server.server._servers.append(found)
            return handle.own.getsockname()

        address = server.call(begin())
        with socket.create_connection(address, 10) as handle:
            handle.sendall(LAST)
            assert statuses(read_all(handle)) == [200]
        assert server.refused == {"descriptors": 1}
        assert port is not None


def test_a_loop_without_connections_and_listeners_is_not_watched() -> None:
    async def live() -> None:
        server = HttpServer(Door())
        await server.start([edgecache.http.Listener(host="127.0.0.1")])
        reader, writer = await asyncio.open_connection(*server.addresses[0])  # type: ignore[misc]
        writer.write(GOOD)
        await reader.readuntil(b"/good")
        await server.stop()
        assert await reader.read() == b""
        writer.close()

    for _ in range(3):
        asyncio.run(live())


class Recalled:
    """Gives every answer as one that may be repeated for the very same bytes."""

    def __init__(self, sizes: dict[bytes, int]) -> None:
        self.sizes = sizes

    def __call__(self, request: Request) -> Response:
        body = request.target * (self.sizes[request.target] // len(request.target))
        head = HEAD % len(body)
        response = Response.ready(200, head + b"Date: now\r\n", body)
        response.has_date = True
        ending = response.head + b"\r\n"
        response.wire = (ending + body,) if len(body) < 1000 else (ending, body)
        response.again = lambda: response
        return response


def check_time(answer: Answer, shows: bool) -> None:
    found = answer.fields.get("x-total-time-ms")
    assert (found is not None) == shows
    assert found is None or re.fullmatch(r"[0-9]+\.[0-9]{3}", found)


@pytest.mark.parametrize("shows", [True, False])
def test_answers_of_every_way_say_what_they_took(door: Door, shows: bool) -> None:
    targets = [b"/good", b"/good1", b"/big", b"/missing", b"/long", b"/good"]
    with Running(door, shows_time=shows) as server, server.connect() as client:
        found = answers(client)
        for target in targets * 3:
            client.sendall(GOOD.replace(b"/good", target))
            check_time(next(found), shows)
        client.sendall(GOOD * 5)
        for _ in range(5):
            check_time(next(found), shows)
    sizes = {b"/short": 60, b"/longer": 70_000}
    with Running(Recalled(sizes), shows_time=shows) as server, server.connect() as client:
        found = answers(client)
        for target in [*sizes] * 4:
            client.sendall(GOOD.replace(b"/good", target))
            answer = next(found)
            check_time(answer, shows)
            assert answer.body == target * (sizes[target] // len(target))


def test_the_time_is_shown_and_hidden_while_a_server_runs(door: Door) -> None:
    async def show(server: Running, shows: bool) -> None:
        server.server.show_time(shows)

    with Running(door) as server, server.connect() as client:
        found = answers(client)
        for shows in (False, True, False):
            server.call(show(server, shows))
            for _ in range(3):
                client.sendall(GOOD)
                check_time(next(found), shows)
