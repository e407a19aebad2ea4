"""Several workers: who starts them, what happens when one dies, and that they speak as one.

Their caches are their own here, unless a test says otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crew import DEADLINE_S, MEMORY_ONLY, Crewed, Sharing, links_to_both, until_gone
from support.serving import Reply, ask, exchange


@pytest.fixture
def crewed(tmp_path: Path) -> Iterator[Crewed]:
    with Crewed(tmp_path) as server:
        yield server
        assert server.stop() == 0, server.log


class SlowOrigin:
    """Counts requests, and answers each when it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[socket.socket] = []
        self.asked = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                if link.recv(65536):
                    self.asked.release()

    def answer(self, body: bytes) -> None:
        """Answer the last request, and close its connection."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nCache-Control: max-age=60\r\n"
        link = self._links.pop()
        link.sendall(head % len(body) + b"Connection: close\r\n\r\n" + body)
        link.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()
        self._thread.join()


def test_both_workers_serve_and_their_counters_are_one_sum(crewed: Crewed) -> None:
    for link in links_to_both(crewed):
        for _ in range(5):
            assert ask(link, "/page").status == 200
        link.close()
    before = crewed.metric('edge_cache_http_answers_total{status="200"}')
    assert crewed.get("/page").status == 200
    assert crewed.metric('edge_cache_http_answers_total{status="200"}') == before + 1
    assert crewed.metric('edge_cache_proxy_answers_total{status="miss"}') == 2
    assert crewed.metric('edge_cache_proxy_answers_total{status="hit"}') == 9
    report = exchange(crewed.admin, "/health").json()
    assert report["status"] == "ok", report


def test_a_worker_that_dies_is_replaced_and_what_waits_for_it_is_answered(crewed: Crewed) -> None:
    crewed.metric("edge_cache_http_connections")
    victim, _ = crewed.workers()
    os.kill(victim, signal.SIGKILL)
    until_gone(victim)  # what it had accepted is lost with it
    # Half of these are in the queue of the one that is gone.
    assert {crewed.get("/page").status for _ in range(16)} == {200}
    crewed.until_up()
    assert victim not in crewed.workers()
    assert len(crewed.workers()) == 2
    restarts = [crewed.metric(f'edge_cache_worker_restarts_total{{worker="{n}"}}') for n in (0, 1)]
    assert sorted(restarts) == [0, 1]
    assert exchange(crewed.admin, "/health").json()["status"] == "ok"


def test_what_a_dead_worker_counted_stays_in_the_sums(crewed: Crewed) -> None:
    for link in links_to_both(crewed):
        link.close()
    before = crewed.metric('edge_cache_http_answers_total{status="200"}')
    for victim in crewed.workers():
        os.kill(victim, signal.SIGKILL)
        until_gone(victim)
    assert crewed.get("/page").status == 200
    crewed.until_up()
    assert crewed.metric('edge_cache_http_answers_total{status="200"}') == before + 1


def test_a_reload_reaches_all_workers_and_keeps_connections(tmp_path: Path) -> None:
    with Crewed(tmp_path) as server:
        links = links_to_both(server)
        server.configure({**MEMORY_ONLY, "proxy": {"name": "renamed"}})
        server.reload()
        for link in links:
            assert "renamed" in ask(link, "/page").fields["via"]
            link.close()
        server.path.write_text("{broken")
        server.reload()
        assert "the configuration stays as it is" in server.log
        assert "renamed" in server.get("/page").fields["via"]
        assert server.stop() == 0


def test_a_request_under_way_ends_before_its_worker(tmp_path: Path) -> None:
    origin = SlowOrigin()
    answers: list[Reply] = []
    with Crewed(tmp_path, {"proxy": {"upstream": [origin.url]}}) as server:
        thread = threading.Thread(target=lambda: answers.append(server.get("/x")))
        thread.start()
        assert origin.asked.acquire(timeout=DEADLINE_S)
        server.signal(signal.SIGTERM)
        server.until("STOPPING=1")
        origin.answer(b"in time")
        thread.join(DEADLINE_S)
        assert server.wait() == 0, server.log
    origin.close()
    assert [reply.body for reply in answers] == [b"in time"]


def test_a_purge_reaches_every_worker_with_an_exact_count(crewed: Crewed) -> None:
    links = links_to_both(crewed)
    for link in links:
        assert ask(link, "/page").fields["x-cache-status"] == "miss"
        assert ask(link, "/page").fields["x-cache-status"] == "hit"
    body = json.dumps({"url": f"{crewed.url}/page"})
    answer = exchange(crewed.admin, "/api/purge", "POST", body, Content_Type="application/json")
    assert answer.json()["purged"] == 2
    for link in links:
        assert ask(link, "/page").fields["x-cache-status"] == "miss"
        link.close()


def test_a_purge_through_one_worker_stops_what_another_has_on_its_way(tmp_path: Path) -> None:
    origin = SlowOrigin()
    replies: list[Reply] = []
    with Crewed(tmp_path, {"proxy": {"upstream": [origin.url]}}) as server:
        fetching, purging = links_to_both(server)
        thread = threading.Thread(target=lambda: replies.append(ask(fetching, "/x")))
        thread.start()
        assert origin.asked.acquire(timeout=DEADLINE_S)
        assert ask(purging, "/x", "PURGE").status == 404  # nothing was stored yet
        origin.answer(b"old")
        thread.join(DEADLINE_S)
        assert replies[0].body == b"old"
        thread = threading.Thread(target=lambda: replies.append(ask(fetching, "/x")))
        thread.start()
        assert origin.asked.acquire(timeout=DEADLINE_S), "the old answer was stored"
        origin.answer(b"new")
        thread.join(DEADLINE_S)
        assert replies[1].body == b"new"
        fetching.close()
        purging.close()
        assert server.stop() == 0
    origin.close()


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with Crewed(tmp_path) as server:
        workers = server.workers()
        assert server.process is not None
        server.process.kill()
        server.wait()
        for worker in workers:
            until_gone(worker)


def test_the_level_of_the_log_is_that_of_all(crewed: Crewed) -> None:
    assert exchange(crewed.admin, "/api/config/logging/debug", "PUT").json() == {"level": "debug"}


def test_a_worker_that_cannot_start_ends_the_start(tmp_path: Path) -> None:
    taken = tmp_path / "access"
    taken.mkdir()
    server = Crewed(tmp_path, {"log": {"access": str(taken)}})
    with open(server.log_path, "wb"):
        pass
    with pytest.raises(AssertionError, match="the worker cannot serve"):
        server.__enter__()


# One cache


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    with Sharing(tmp_path_factory.mktemp("sharing")) as server:
        yield server
        assert server.stop() == 0, server.log


def test_what_one_worker_fetched_is_a_hit_in_the_other(sharing: Sharing) -> None:
    one, other = links_to_both(sharing)
    assert ask(one, "/page").fields["x-cache-status"] == "miss"
    assert ask(other, "/page").fields["x-cache-status"] == "hit"
    assert ask(one, "/page").fields["x-cache-status"] == "hit"
    one.close()
    other.close()


def test_a_put_and_a_delete_are_seen_by_all_at_once(sharing: Sharing) -> None:
    one, other = links_to_both(sharing)
    for value in (b"first", b"second"):
        assert ask(one, "/cache/key", "PUT", value).status in (201, 204)
        assert {ask(link, "/cache/key").body for link in (one, other)} == {value}
        # Prepared answers end with the version that they are of.
        assert {ask(link, "/cache/key").body for link in (one, other)} == {value}
    assert ask(other, "/cache/key", "DELETE").status == 204
    assert {ask(link, "/cache/key").status for link in (one, other)} == {404}
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("target", "fields", "count"),
    [
        ("/tagged", {}, b"1"),
        ("/tagged", {"X_Purge_Tag": "demo"}, b"1"),
        ("/", {"X_Purge": "prefix"}, b"1"),
        ("/", {"X_Purge": "everything"}, b"1"),
    ],
)
def test_a_purge_through_one_worker_is_seen_by_all_at_once(
    sharing: Sharing, target: str, fields: dict[str, str], count: bytes
) -> None:
    one, other = links_to_both(sharing)
    ask(one, "/", "PURGE", X_Purge="everything")
    ask(one, "/tagged")
    for link in (one, other, one, other):  # prepared in both
        assert ask(link, "/tagged").fields["x-cache-status"] == "hit"
    assert ask(other, target, "PURGE", **fields).body == b"purged " + count + b"\n"
    assert ask(one, "/tagged").fields["x-cache-status"] == "miss"
    assert ask(other, "/tagged").fields["x-cache-status"] == "hit"
    one.close()
    other.close()


def test_a_purge_of_the_admin_plane_counts_once(sharing: Sharing) -> None:
    sharing.get("/page")
    body = json.dumps({"url": f"{sharing.url}/page"})
    answer = exchange(sharing.admin, "/api/purge", "POST", body, Content_Type="application/json")
    assert answer.json()["purged"] == 1


def test_the_cache_outlives_a_worker(tmp_path: Path) -> None:
    with Sharing(tmp_path) as server:
        assert server.get("/page").fields["x-cache-status"] == "miss"
        for victim in server.workers():
            os.kill(victim, signal.SIGKILL)
            until_gone(victim)
        assert server.get("/page").fields["x-cache-status"] == "hit"
        server.until_up()
        assert server.stop() == 0, server.log
