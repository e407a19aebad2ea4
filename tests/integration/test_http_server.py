"""Listeners: TLS, Unix sockets, passed sockets, shared ports, draining, hooks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest
from support.http import Running, answers, read_all, request, statuses

from edgecache.errors import ArgumentError, ConfigError, UnsafePathError
from edgecache.http import (
    FileRange,
    HttpApp,
    HttpServer,
    Listener,
    Request,
    Response,
    TlsFiles,
)
from edgecache.http.server import activated_sockets

LAST = request("GET", "/last", [("Connection", "close")])
OK = Response(200, (), b"ok")


def handler(request: Request) -> Response:
    return Response(200, (), f"{request.scheme} {request.target.decode()}".encode())


# TLS


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for the name."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_certificates_are_replaced_while_connections_are_open(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "a")
    old = trusting(certificate)
    files = TlsFiles(certificate, key)
    with (
        Running(handler, listener=Listener(host="127.0.0.1", tls=files)) as server,
        server.connect(old) as first,
    ):
        assert isinstance(first, ssl.SSLSocket)
        assert first.selected_alpn_protocol() == "http/1.1"
        make_certificate(tmp_path, "a")
        server.loop.call_soon_threadsafe(files.reload)
        first.sendall(request("GET", "/x"))
        assert next(answers(first)).body == b"https /x"
        assert files.reload_count == 1
        with pytest.raises(ssl.SSLCertVerificationError):
            server.connect(old)
        with server.connect(trusting(certificate)) as second:
            second.sendall(LAST)
            assert [each.status for each in answers(second)] == [200]
        first.sendall(LAST)
        assert next(answers(first)).status == 200


def test_a_certificate_that_does_not_fit_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "a")
    good = trusting(certificate)
    files = TlsFiles(certificate, key)
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = make_certificate(other, "b")
    shutil.copy(foreign, key)
    with pytest.raises(ConfigError) as caught:
        files.reload()
    assert caught.value.path == str(certificate)
    certificate.write_text("garbage")
    with pytest.raises(ConfigError):
        files.reload()
    with (
        Running(handler, listener=Listener(host="127.0.0.1", tls=files)) as server,
        server.connect(good) as handle,
    ):
        handle.sendall(LAST)
        assert [each.status for each in answers(handle)] == [200]


def test_plain_http_on_a_tls_port_is_no_request(tmp_path: Path) -> None:
    files = TlsFiles(*make_certificate(tmp_path, "a"))
    with Running(handler, listener=Listener(host="127.0.0.1", tls=files)) as server:
        assert statuses(server.send(LAST)) == []
        assert server.server.statistics.requests == 0


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_is_sent_over_tls(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    certificate, key = make_certificate(tmp_path, "a")
    with path.open("rb") as file:

        def send(request: Request) -> Response:
            return Response(200, (), FileRange(file.fileno(), 1, size - 1))

        listener = Listener(host="127.0.0.1", tls=TlsFiles(certificate, key))
        with (
            Running(send, listener=listener) as server,
            server.connect(trusting(certificate)) as handle,
        ):
            handle.sendall(LAST)
            assert next(answers(handle)).body == content[1:]


# Addresses


def exchange_unix(path: Path) -> list[int]:
    with socket.socket(socket.AF_UNIX) as handle:
        handle.settimeout(10)
        handle.connect(str(path))
        handle.sendall(LAST)
        return [each.status for each in answers(handle)]


def test_a_unix_socket_is_private_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Running(handler, listener=Listener(path=str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert exchange_unix(path) == [200]
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Running(handler, listener=Listener(path=str(path), unix_mode=0o660)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert exchange_unix(path) == [200]
        with pytest.raises(OSError, match="another server"):
            asyncio.run(start(Listener(path=str(path))))
    path.write_text("precious")
    with pytest.raises(UnsafePathError):
        asyncio.run(start(Listener(path=str(path))))
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePathError):
        asyncio.run(start(Listener(path=str(path))))


async def start(*listeners: Listener) -> None:
    server = HttpServer(handler)
    try:
        await server.start(listeners)
    finally:
        await server.stop()


def test_when_one_address_fails_none_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="address"):
            asyncio.run(start(Listener(path=str(path)), Listener(host="127.0.0.1", port=port)))
    assert not path.exists()


def test_several_servers_share_a_port() -> None:
    first = Listener(host="127.0.0.1", reuse_port=True)
    with Running(handler, listener=first) as one:
        second = Listener(host="127.0.0.1", port=one.port, reuse_port=True)
        with Running(handler, listener=second) as two:
            assert two.port == one.port
            for _ in range(40):
                assert statuses(one.send(LAST)) == [200]
            counts = [each.server.statistics.requests for each in (one, two)]
            assert sum(counts) == 40


def test_sockets_that_a_service_manager_passed_are_served() -> None:
    """In a child, where descriptor 3 is ours to give."""
    script = (
        "import asyncio, os, socket\n"
        "from edgecache.http import HttpServer, Listener, Response, activated_sockets\n"
        "made = socket.create_server(('127.0.0.1', 0))\n"
        "number = made.detach()\n"
        "if number != 3: os.dup2(number, 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "async def main():\n"
        "    (handle,) = activated_sockets()\n"
        "    assert 'LISTEN_FDS' not in os.environ and activated_sockets() == []\n"
        "    server = HttpServer(lambda request: Response(200, (), b'passed'))\n"
        "    await server.start([Listener(handle=handle)])\n"
        "    reader, writer = await asyncio.open_connection(*server.addresses[0][:2])\n"
        "    writer.write(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
        "    print((await reader.read()).decode())\n"
        "    writer.close(); await server.stop()\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.rstrip().endswith("passed"), done.stderr


def test_a_descriptor_that_is_no_socket_is_named() -> None:
    """Descriptor 3 of a child that has only the standard ones is the one that it opens next."""
    script = (
        "import os\n"
        "from edgecache.errors import ConfigError\n"
        "from edgecache.http import activated_sockets\n"
        "number = os.open('/dev/null', os.O_RDONLY)\n"
        "if number != 3: os.dup2(number, 3)\n"
        "try: activated_sockets({'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'})\n"
        "except ConfigError as error: print('refused', error.found)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.strip() == "refused 3", done.stderr


def test_sockets_passed_to_another_process_are_left_alone() -> None:
    assert activated_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "3"}) == []
    assert activated_sockets({}) == []


@pytest.mark.parametrize(
    "wrong",
    [{}, {"host": "a", "path": "b"}, {"host": "a", "port": 70000}, {"path": "a", "backlog": 0}],
)
def test_a_listener_names_one_address(wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        Listener(**wrong)  # type: ignore[arg-type]


# The end


class Gate:
    """A handler that answers when it is let."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = 0

    async def __call__(self, request: Request) -> Response:
        self.entered += 1
        await self.opened.wait()
        return OK


async def until(is_true: object) -> None:
    while not is_true():  # type: ignore[operator]
        await asyncio.sleep(0.01)


def test_draining_lets_requests_under_way_end_and_closes_idle_connections() -> None:
    gate = Gate()
    with Running(gate) as server:
        idle, busy = server.connect(), server.connect()
        busy.sendall(request("GET", "/"))
        server.call(until(lambda: gate.entered == 1 and server.server.connections == 2))
        draining = asyncio.run_coroutine_threadsafe(server.server.drain(10), server.loop)
        assert read_all(idle) == b""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
            pytest.fail("it still listens")
        server.loop.call_soon_threadsafe(gate.opened.set)
        received = read_all(busy)
        assert statuses(received) == [200]
        assert b"Connection: close" in received
        busy.close()
        assert draining.result(10) == 0


def test_draining_ends_in_its_time() -> None:
    gate = Gate()
    with Running(gate) as server:
        busy = server.connect()
        busy.sendall(request("GET", "/"))
        server.call(until(lambda: gate.entered == 1))
        assert server.call(server.server.drain(0.05)) == 1
        assert read_all(busy) == b""
        assert server.refused == {"drain": 1}
        assert server.server.connections == 0


def test_a_handler_is_cancelled_when_its_client_leaves() -> None:
    ended: list[str] = []
    entered: list[int] = []

    async def wait(request: Request) -> Response:
        entered.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return OK

    with Running(wait) as server:
        with server.connect() as handle:
            handle.sendall(request("GET", "/"))
            server.call(until(lambda: entered))
            # A close with unread data would be a reset, too; this one is.
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.call(until(lambda: ended))
        assert ended == ["cancelled"]


# Hooks and routes


def test_answers_are_reported_and_timed() -> None:
    seen: list[tuple[bytes, int, int]] = []

    def report(request: Request, status: int, size: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((request.target, status, size))

    with Running(handler, on_answer=report, shows_time=True) as server:
        found = server.exchange(request("GET", "/x"))
        assert float(found.fields["x-total-time-ms"]) >= 0
        server.exchange(request("HEAD", "/y"))
        assert seen == [(b"/x", 200, 7), (b"/y", 200, 0)]
        statistics = server.server.statistics.as_dict()
        assert statistics["requests_by_method"] == {"GET": 1, "HEAD": 1}
        assert statistics["answers_by_status"] == {"200": 2}


def door(name: bytes) -> object:
    def answer(request: Request) -> Response | Awaitable[Response]:
        return Response(200, (), name + b" " + request.target)

    return answer


@pytest.mark.parametrize(
    ("host", "target", "body"),
    [
        ("a", "/", b"root /"),
        ("a", "/cache/x", b"cache /cache/x"),
        ("a", "/cache/deep/x", b"deep /cache/deep/x"),
        ("a", "/%63ache/x", b"root /%63ache/x"),
        ("A.example", "/cache/x", b"own /cache/x"),
        ("a.example:8080", "/cache/x", b"cache /cache/x"),
        ("a", "http://a/cache/x", b"cache http://a/cache/x"),
    ],
)
def test_doors_are_chosen_by_host_and_longest_prefix(host: str, target: str, body: bytes) -> None:
    app = HttpApp()
    for prefix, name in ((b"/", b"root"), (b"/cache/", b"cache"), (b"/cache/deep/", b"deep")):
        app.mount(prefix, door(name))  # type: ignore[arg-type]
    app.mount(b"/", door(b"own"), host=b"a.example")  # type: ignore[arg-type]
    with Running(app) as server:
        data = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert server.exchange(data).body == body


def test_mounts_that_make_no_sense_are_refused() -> None:
    app = HttpApp()
    app.mount(b"/a", door(b"a"))  # type: ignore[arg-type]
    for prefix in (b"a", b"/a", b""):
        with pytest.raises(ArgumentError):
            app.mount(prefix, door(b"b"))  # type: ignore[arg-type]
