"""Requests for one URI in several workers: one fetch, whatever becomes of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.crew import DEADLINE_S, Sharing, until_gone, worker_of
from support.serving import Reply, ask, exchange

FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n"
EACH = 4
Script = Callable[[socket.socket], None]


class Origin:
    """Answers each request with what a test says, in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._links: list[socket.socket] = []
        self.scripts: list[Script] = []
        self.count = 0
        self.asked = threading.Semaphore(0)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                thread = threading.Thread(target=self._serve, args=(link,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, link: socket.socket) -> None:
        """Answer the requests of a connection; the last script repeats."""
        with contextlib.suppress(OSError), link:
            while link.recv(65536):
                script = self.scripts[min(self.count, len(self.scripts) - 1)]
                self.count += 1
                self.asked.release()
                script(link)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *self._threads):
            thread.join(DEADLINE_S)


@pytest.fixture
def origin() -> Iterator[Origin]:
    opened = Origin()
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path, origin: Origin) -> Iterator[Sharing]:
    with Sharing(tmp_path, {"proxy": {"upstream": [origin.url]}, "drain_s": 10}) as opened:
        yield opened
        assert opened.stop() == 0, opened.log


Links = dict[int, list[http.client.HTTPConnection]]


def links(server: Sharing, each: int) -> Links:
    """So many connections to each worker, by its process."""
    found: Links = {process: [] for process in server.workers()}
    spare = []
    deadline_s = time.monotonic() + DEADLINE_S
    while any(len(ours) < each for ours in found.values()):
        assert time.monotonic() < deadline_s
        link = server.link()
        ours = found[worker_of(link)]
        (ours if len(ours) < each else spare).append(link)
    for link in spare:
        link.close()
    return found


class Asking:
    """A request in a thread."""

    def __init__(self, link: http.client.HTTPConnection, target: str) -> None:
        self._reply: Reply | Exception | None = None

        def run() -> None:
            try:
                self._reply = ask(link, target)
            except (OSError, http.client.HTTPException) as error:
                self._reply = error
            finally:
                link.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def reply(self) -> Reply:
        self._thread.join(DEADLINE_S)
        assert isinstance(self._reply, Reply), self._reply
        return self._reply

    def fails(self) -> bool:
        self._thread.join(DEADLINE_S)
        return isinstance(self._reply, Exception)


def until_waiting(server: Sharing, count: int) -> None:
    """Wait until so many requests wait for the fetch of another worker."""
    deadline_s = time.monotonic() + DEADLINE_S
    while server.metric("edge_cache_lease_waits_total") < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def leader_and_others(
    server: Sharing, origin: Origin, target: str = "/x"
) -> tuple[int, Asking, list[Asking]]:
    """One request, which the origin has; and as many in the other worker, which wait for it."""
    (process, ours), (_, others) = links(server, EACH).items()
    leader = Asking(ours[0], target)
    for link in ours[1:]:
        link.close()
    assert origin.asked.acquire(timeout=DEADLINE_S)
    waiting = [Asking(link, target) for link in others]
    until_waiting(server, EACH)
    return process, leader, waiting


def test_clients_of_all_workers_are_one_fetch(server: Sharing, origin: Origin) -> None:
    release = threading.Event()

    def answer(link: socket.socket) -> None:
        assert release.wait(DEADLINE_S)
        link.sendall(FRESH % 6 + b"shared")

    origin.scripts = [answer]
    # All at once: whichever is the first leads.
    asking = [Asking(link, "/x") for ours in links(server, EACH).values() for link in ours]
    until_waiting(server, EACH)
    release.set()
    replies = [each.reply() for each in asking]
    assert {reply.body for reply in replies} == {b"shared"}
    assert origin.count == 1
    assert server.metric("edge_cache_lease_hits_total") == EACH
    assert server.metric("edge_cache_proxy_collapsed_total") == 2 * EACH - 1


def test_an_answer_for_one_only_releases_the_other_workers(server: Sharing, origin: Origin) -> None:
    release, all_asked = threading.Event(), threading.Event()

    def private(number: bytes) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: %d\r\n\r\n"
        return head % len(number) + number

    def first(link: socket.socket) -> None:
        assert release.wait(DEADLINE_S)
        link.sendall(private(b"0"))

    def later(link: socket.socket) -> None:
        number = origin.count
        # All of them ask at the same time: none is answered before the last has asked.
        assert all_asked.wait(DEADLINE_S)
        link.sendall(private(b"%d" % number))

    origin.scripts = [first, later]
    _, leader, waiting = leader_and_others(server, origin)
    release.set()
    for _ in waiting:
        assert origin.asked.acquire(timeout=DEADLINE_S)
    all_asked.set()
    bodies = {each.reply().body for each in (leader, *waiting)}
    assert len(bodies) == EACH + 1
    assert server.metric("edge_cache_proxy_released_total") == EACH


def test_a_failed_fetch_lets_another_worker_try(server: Sharing, origin: Origin) -> None:
    release = threading.Event()

    def fail(link: socket.socket) -> None:
        assert release.wait(DEADLINE_S)
        link.sendall(b"no HTTP at all\r\n\r\n")
        link.shutdown(socket.SHUT_RDWR)

    origin.scripts = [fail, lambda link: link.sendall(FRESH % 4 + b"fine")]
    _, leader, waiting = leader_and_others(server, origin)
    release.set()
    assert leader.reply().status == 502
    assert {each.reply().body for each in waiting} == {b"fine"}
    assert origin.count == 2


def test_a_worker_that_dies_while_it_fetches_is_succeeded(server: Sharing, origin: Origin) -> None:
    never = threading.Event()
    origin.scripts = [
        lambda link: never.wait(DEADLINE_S) and None,
        lambda link: link.sendall(FRESH % 4 + b"fine"),
    ]
    process, leader, waiting = leader_and_others(server, origin)
    os.kill(process, signal.SIGKILL)
    until_gone(process)
    assert leader.fails()
    assert {each.reply().body for each in waiting} == {b"fine"}
    assert origin.count == 2
    never.set()
    server.until_up()


def test_a_purge_through_the_other_worker_ends_the_wait(server: Sharing, origin: Origin) -> None:
    """What is on its way is for those who asked before; who asks now gets another answer."""
    release = threading.Event()

    def old(link: socket.socket) -> None:
        assert release.wait(DEADLINE_S)
        link.sendall(FRESH % 3 + b"old")

    origin.scripts = [old, lambda link: link.sendall(FRESH % 3 + b"new")]
    _, leader, waiting = leader_and_others(server, origin)
    assert exchange(server.url, "/x", "PURGE").status == 404  # nothing was stored yet
    assert {each.reply().body for each in waiting} == {b"new"}
    release.set()
    assert leader.reply().body == b"old"
    assert server.get("/x").body == b"new"


# Large bodies, as they arrive

PIECE = bytes(range(256)) * 1024
LARGE = PIECE + PIECE[::-1]


def halves(release: threading.Event, *, with_length: bool = True) -> Script:
    """Send the first half of LARGE, and the second one when told to."""

    def answer(link: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
        if with_length:
            link.sendall(head + b"Content-Length: %d\r\n\r\n" % len(LARGE) + PIECE)
        else:
            chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
            link.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
            half = b"%x\r\n%b\r\n" % (1000, PIECE[::-1][:1000])
            link.sendall(half)
        assert release.wait(DEADLINE_S)
        if with_length:
            link.sendall(PIECE[::-1])
        else:
            rest = PIECE[::-1][1000:]
            link.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))

    return answer


@pytest.fixture
def chunked(tmp_path: Path, origin: Origin) -> Iterator[Sharing]:
    """Workers whose chunks are small: so much is seen at a time."""
    config = {"proxy": {"upstream": [origin.url]}, "drain_s": 10, "cache": {"chunk_size": "64KiB"}}
    with Sharing(tmp_path, config) as opened:
        yield opened
        assert opened.stop() == 0, opened.log


@pytest.mark.parametrize("with_length", [True, False])
def test_a_large_body_reaches_the_clients_of_other_workers_before_it_is_complete(
    chunked: Sharing, origin: Origin, with_length: bool
) -> None:
    release = threading.Event()
    origin.scripts = [halves(release, with_length=with_length)]
    (_, ours), (_, others) = links(chunked, 2).items()
    ours[0].request("GET", "/x")
    assert origin.asked.acquire(timeout=DEADLINE_S)
    others[0].request("GET", "/x")
    others[1].request("GET", "/x")
    first, second = ours[0].getresponse(), others[0].getresponse()
    assert (second.status, second.getheader("content-length")) == (
        200, str(len(LARGE)) if with_length else None,
    )  # fmt: skip
    seen = second.read(128 * 1024)
    assert seen == PIECE[: 128 * 1024]
    assert first.read(1000) == PIECE[:1000]
    release.set()
    assert first.read() == LARGE[1000:]
    assert second.read() == LARGE[len(seen) :]
    assert others[1].getresponse().read() == LARGE
    assert "collapsed" in (second.getheader("cache-status") or "")
    assert origin.count == 1
    for link in (*ours, *others):
        link.close()
    late = chunked.get("/x")
    assert late.fields["x-cache-status"] == "hit"
    assert late.body == LARGE
    assert chunked.metric("edge_cache_lease_stream_attach_total") == 2


def test_who_follows_a_worker_that_dies_gets_an_answer_cut_short(
    chunked: Sharing, origin: Origin
) -> None:
    never = threading.Event()
    origin.scripts = [halves(never), lambda link: link.sendall(FRESH % len(LARGE) + LARGE)]
    (process, ours), (_, others) = links(chunked, 1).items()
    ours[0].request("GET", "/x")
    assert origin.asked.acquire(timeout=DEADLINE_S)
    others[0].request("GET", "/x")
    answer = others[0].getresponse()
    assert answer.read(1000) == PIECE[:1000]
    os.kill(process, signal.SIGKILL)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    until_gone(process)
    never.set()
    # Nothing of it was published; the next one fetches.
    assert chunked.get("/x").body == LARGE
    for link in (*ours, *others):
        link.close()
    chunked.until_up()


def test_who_follows_a_body_that_fails_gets_an_answer_cut_short(
    chunked: Sharing, origin: Origin
) -> None:
    release = threading.Event()

    def cut(link: socket.socket) -> None:
        link.sendall(FRESH % len(LARGE) + PIECE)
        assert release.wait(DEADLINE_S)
        link.shutdown(socket.SHUT_RDWR)

    origin.scripts = [cut]
    (_, ours), (_, others) = links(chunked, 1).items()
    ours[0].request("GET", "/x")
    assert origin.asked.acquire(timeout=DEADLINE_S)
    others[0].request("GET", "/x")
    answer = others[0].getresponse()
    assert answer.read(1000) == PIECE[:1000]
    release.set()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    for link in (*ours, *others):
        link.close()


def test_a_body_that_is_too_large_to_store_holds_nobody_up(tmp_path: Path, origin: Origin) -> None:
    release = threading.Event()
    origin.scripts = [halves(release), lambda link: link.sendall(FRESH % len(LARGE) + LARGE)]
    cache = {"chunk_size": "64KiB", "max_object_size": "300KiB"}
    config = {"proxy": {"upstream": [origin.url]}, "drain_s": 10, "cache": cache}
    with Sharing(tmp_path, config) as server:
        (_, ours), (_, others) = links(server, 1).items()
        ours[0].request("GET", "/x")
        assert origin.asked.acquire(timeout=DEADLINE_S)
        # The other worker fetches while the first one's body is still on its way.
        assert ask(others[0], "/x").body == LARGE
        release.set()
        assert ours[0].getresponse().read() == LARGE
        for link in (*ours, *others):
            link.close()
        assert server.stop() == 0, server.log
