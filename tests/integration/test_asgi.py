"""`edgecache.asgi:app`: by itself, and under granian over HTTP/2."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.serving import SMALL, SOURCES, environment

from edgecache.asgi import Application
from edgecache.config import Config
from edgecache.errors import ArgumentError, StoreClosedError
from edgecache.server import ServerSettings

TIMEOUT_S = 60.0
Message = dict[str, Any]


# By itself


def in_memory() -> ServerSettings:
    return ServerSettings(cache=Config(memory="16MiB", disk=0))


async def call(
    application: Application,
    method: str,
    path: str,
    pieces: list[bytes] | None = None,
    fields: tuple[tuple[bytes, bytes], ...] = (),
    **scope: Any,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one request as an ASGI server does."""
    left = [b""] if pieces is None else list(pieces)
    sent: list[Message] = []

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    target, _, query = path.partition("?")
    base: Message = {
        "type": "http",
        "method": method,
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "headers": ((b"host", b"a"), *fields),
        "client": ("127.0.0.1", 1234),
        "scheme": "http",
    }
    await application({**base, **scope}, receive, send)
    [start, *bodies] = sent
    assert not bodies[-1].get("more_body", False)
    assert all(each.get("more_body", False) for each in bodies[:-1])
    return start["status"], dict(start["headers"]), b"".join(each["body"] for each in bodies)


def run(work: Callable[[Application], Awaitable[None]]) -> None:
    async def main() -> None:
        application = Application(in_memory())
        await application.start()
        try:
            await work(application)
        finally:
            await application.stop()

    asyncio.run(main())


def test_fields_of_a_request_count_after_the_same_target_was_prepared() -> None:
    """A prepared answer is found by the bytes of the fields, which ASGI does not give."""

    async def work(application: Application) -> None:
        for _ in range(2):
            status, _, whole = await call(application, "GET", "/range")
            assert status == 200
        part = ((b"range", b"bytes=5-9"),)
        status, _, body = await call(application, "GET", "/range", fields=part)
        assert (status, body) == (206, whole[5:10])

    run(work)


def test_both_doors_answer_and_framing_is_left_to_the_server() -> None:
    async def work(application: Application) -> None:
        status, fields, _ = await call(application, "GET", "/page")
        assert (status, fields[b"x-cache-status"]) == (200, b"miss")
        status, fields, _ = await call(application, "GET", "/page")
        assert (status, fields[b"x-cache-status"]) == (200, b"hit")
        assert not {b"connection", b"transfer-encoding", b"keep-alive"} & set(fields)
        status, fields, body = await call(application, "HEAD", "/page")
        assert (status, body, int(fields[b"content-length"]) > 0) == (200, b"", True)

    run(work)


def test_exact_bytes_of_the_target_arrive() -> None:
    async def work(application: Application) -> None:
        for path in ("/cache/a%2Fb", "/cache/%00%ff"):
            assert (await call(application, "PUT", path, [path.encode()]))[0] == 201
            assert (await call(application, "GET", path))[2] == path.encode()
        assert (await call(application, "GET", "/cache/a%252Fb"))[0] == 404  # decoded once
        # A server that gives no raw_path: what it decoded is encoded again.
        assert (await call(application, "GET", "/cache/a b", raw_path=None))[0] == 404
        assert (await call(application, "PUT", "/cache/a%20b", [b"x"]))[0] == 201
        assert (await call(application, "GET", "/cache/a b", raw_path=None))[2] == b"x"

    run(work)


def test_content_comes_in_pieces_with_and_without_a_length() -> None:
    async def work(application: Application) -> None:
        pieces = [bytes([n]) * 100_000 for n in range(20)]
        whole = b"".join(pieces)
        length = ((b"content-length", str(len(whole)).encode()),)
        assert (await call(application, "PUT", "/cache/known", pieces, length))[0] == 201
        assert (await call(application, "PUT", "/cache/unknown", pieces))[0] == 201
        for key in ("known", "unknown"):
            assert (await call(application, "GET", f"/cache/{key}"))[2] == whole
        part = ((b"range", b"bytes=99999-100000"),)
        status, fields, body = await call(application, "GET", "/cache/known", None, part)
        assert (status, body) == (206, b"\x00\x01")
        assert fields[b"content-range"] == b"bytes 99999-100000/2000000"

    run(work)


def test_content_that_ends_early_is_not_stored() -> None:
    async def work(application: Application) -> None:
        received = iter([{"type": "http.request", "body": b"half", "more_body": True}])
        sent: list[Message] = []

        async def receive() -> Message:
            return next(received, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Message = {
            "type": "http", "method": "PUT", "path": "/cache/half", "raw_path": b"/cache/half",
            "query_string": b"", "headers": [(b"host", b"a"), (b"content-length", b"8")],
        }  # fmt: skip
        await application(scope, receive, send)
        assert sent == []  # there is nobody to answer
        assert (await call(application, "GET", "/cache/half"))[0] == 404

    run(work)


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("GET", "/cache/%zz", (), 400),
        ("TRACE", "/page", (), 405),
        ("GET", "/cache/absent", (), 404),
        ("PUT", "/cache/x", ((b"content-length", b"-1"),), 400),
    ],
)
def test_requests_that_are_not_served_get_an_answer(
    method: str, path: str, fields: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    async def work(application: Application) -> None:
        assert (await call(application, method, path, None, fields))[0] == status

    run(work)


def test_a_scope_of_another_kind_and_a_server_without_lifespan_are_refused() -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("it is not asked")

    async def main() -> None:
        application = Application(in_memory())
        with pytest.raises(ArgumentError):
            await application({"type": "websocket"}, nothing, nothing)
        with pytest.raises(StoreClosedError):
            await call(application, "GET", "/page")

    asyncio.run(main())


def test_a_start_that_fails_is_told_to_the_server(tmp_path: Path) -> None:
    """The message goes through the lifespan protocol, with what to do."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    (tmp_path / "file").write_text("not a directory")
    settings = ServerSettings(cache=Config(root=str(tmp_path / "file"), **SMALL))

    async def main() -> None:
        with pytest.raises(Exception):
            await Application(settings)({"type": "lifespan"}, receive, send)

    asyncio.run(main())
    [message] = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "file" in message["message"]


# Under granian


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key),
        "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class Granian:
    """A granian process that serves the application; a context manager."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        config = folder / "edgecache.json"
        config.write_text(json.dumps({"cache": {"root": str(folder / "root"), **SMALL}}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = folder / "log"
        self._certificate = certificate
        self._command = [
            sys.executable, "-m", "granian", "--interface", "asgi", "--http", "auto",
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--ssl-certificate", str(certificate[0]), "--ssl-keyfile", str(certificate[1]),
            "--working-dir", SOURCES, "edgecache.asgi:app",
        ]  # fmt: skip
        self._variables = environment(EDGECACHE_CONFIG=str(config))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Granian:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._variables
            )
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    self.__exit__()
                    raise AssertionError(self.log) from None
                time.sleep(0.05)  # the server tells nobody when it listens

    def __exit__(self, *details: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()

    def client(self) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(self._certificate[0]))
        return httpx.AsyncClient(
            http2=True,
            http1=False,
            verify=context,
            base_url=f"https://127.0.0.1:{self.port}",
            timeout=TIMEOUT_S,
            trust_env=False,
        )


@pytest.fixture(scope="module")
def granian(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Granian]:
    with Granian(tmp_path_factory.mktemp("granian"), certificate) as server:
        yield server


def test_http2_clients_are_served_by_both_doors(granian: Granian) -> None:
    async def main() -> None:
        async with granian.client() as client:
            first = await client.get("/page")
            assert (first.http_version, first.status_code) == ("HTTP/2", 200), granian.log
            assert len(first.headers.get_list("date")) == 1
            again = await client.get("/page")
            assert again.headers["x-cache-status"] == "hit"
            assert again.content == first.content
            part = await client.get("/range", headers={"Range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, bytes(range(5, 10)))
            assert (await client.head("/page")).headers["content-length"] == str(len(first.content))
            assert (await client.request("PURGE", "/page")).headers["x-purged-count"] == "1"
            await client.put("/cache/a%2Fb", content=b"slash")
            assert (await client.get("/cache/a%2Fb")).content == b"slash"
            assert (await client.get("/cache/a%252Fb")).status_code == 404

    asyncio.run(main())


def test_large_content_streams_both_ways_over_http2(granian: Granian) -> None:
    piece = bytes(range(256)) * 256

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield piece

    async def main() -> None:
        async with granian.client() as client:
            assert (await client.put("/cache/large", content=pieces())).status_code == 201
            assert (await client.get("/cache/large")).content == piece * 160

    asyncio.run(main())


def test_many_streams_of_one_connection_share_a_fetch(granian: Granian) -> None:
    async def main() -> None:
        async with granian.client() as client:
            replies = await asyncio.gather(*(client.get("/slow") for _ in range(50)))
        assert {each.status_code for each in replies} == {200}
        assert len({each.content for each in replies}) == 1

    asyncio.run(main())


def test_a_restart_under_granian_keeps_what_was_stored(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    server = Granian(tmp_path, certificate)

    async def put() -> None:
        async with server.client() as client:
            assert (await client.put("/cache/kept", content=b"kept")).status_code == 201

    async def get() -> bytes:
        async with server.client() as client:
            return bytes((await client.get("/cache/kept")).content)

    with server:
        asyncio.run(put())
    with server:
        assert asyncio.run(get()) == b"kept"
