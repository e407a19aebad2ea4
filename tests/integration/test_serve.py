"""The life of `edgecache serve`: start, reload, drain, and what the service manager hears of it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from support.serving import Reply, Served, ask, exchange

# What a service manager does before it runs a program with a socket.
PASSING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


class SilentOrigin:
    """An origin that takes requests, and answers when it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[socket.socket] = []
        self.asked = threading.Event()
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
                    self.asked.set()

    def answer(self) -> None:
        """Answer every request."""
        for link in self._links:
            link.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: no-store\r\n\r\nlate"
            )

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()
        self._thread.join()


@pytest.fixture
def origin() -> Iterator[SilentOrigin]:
    silent = SilentOrigin()
    yield silent
    silent.close()


def in_background(served: Served, path: str) -> Queue[Reply | Exception]:
    """Ask for a path in a thread; the answer comes through the queue."""
    answers: Queue[Reply | Exception] = Queue()

    def run() -> None:
        try:
            answers.put(served.get(path))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    return answers


def test_it_serves_both_doors_and_ends_in_order(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Served(tmp_path, {"pid_file": str(pid_file)}) as served:
        assert served.process is not None
        assert pid_file.read_text() == f"{served.process.pid}\n"
        assert served.get("/page").fields["x-cache-status"] == "miss"
        assert served.get("/page").fields["x-cache-status"] == "hit"
        assert exchange(served.url, "/cache/a%20b", "PUT", b"value").status == 201
        assert served.get("/cache/a%20b").body == b"value"
        assert b"edge_cache" in exchange(served.metrics, "/metrics").body
        assert exchange(served.admin, "/readyz").json() == {"ready": True}
        served.signal(signal.SIGTERM)
        served.until("STOPPING=1")
        assert served.wait() == 0
        assert not pid_file.exists()
        assert "Traceback" not in served.log
    with Served(tmp_path) as again:  # a warm start: both doors find what they stored
        assert again.get("/cache/a%20b").body == b"value"
        assert again.stop() == 0


def test_a_connection_lives_through_a_reload_that_changes_the_doors(tmp_path: Path) -> None:
    with Served(tmp_path, {"proxy": {"name": "one"}}) as served:
        link = served.link()
        assert ask(link, "/page").fields["via"] == "1.1 one"
        before = link.sock
        served.configure({"proxy": {"name": "two"}, "limits": {"body_bytes_max": 10}})
        served.reload()
        reply = ask(link, "/page")
        assert (reply.fields["via"], reply.fields["x-cache-status"]) == ("1.1 two", "hit")
        assert ask(link, "/cache/x", "PUT", b"12345678901").status == 413
        assert before is not None
        shown = exchange(served.admin, "/api/config").json()
        assert shown["proxy"]["name"] == "two"
        assert "changed: limits, proxy" in served.log
        assert served.stop() == 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"proxy": {"profile": "wild"}}, "proxy.profile"),
        ({"limits": {"header_count_max": 0}}, "limits.header_count_max"),
        ({"tls": {"cert": "/nowhere.pem"}, "log": {"access": "/nowhere/x"}}, "log.access"),
        ({"prox": {}}, "did you mean 'proxy'"),
    ],
)
def test_a_bad_configuration_never_replaces_a_good_one(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    with Served(tmp_path, {"proxy": {"name": "good"}}) as served:
        served.configure(config)
        served.reload()
        assert "the configuration stays as it is" in served.log
        assert said in served.log
        assert served.get("/page").fields["via"] == "1.1 good"
        assert served.stop() == 0


def test_what_a_reload_cannot_change_is_reported(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.configure({"listen": ["127.0.0.1:0", "[::1]:0"], "workers": 1, "drain_s": "5s"})
        served.reload()
        assert "change at the next start only: listen" in served.log
        shown = exchange(served.admin, "/api/config").json()
        assert shown["listen"] == ["127.0.0.1:0"]
        assert shown["drain_s"] == 5.0


def test_a_request_under_way_ends_well_on_the_doors_it_began_on(
    tmp_path: Path, origin: SilentOrigin
) -> None:
    with Served(tmp_path, {"proxy": {"upstream": [origin.url]}}) as served:
        answers = in_background(served, "/late")
        assert origin.asked.wait(30)
        served.configure({"proxy": {"name": "demo"}})
        served.reload()
        assert served.get("/page").fields["via"] == "1.1 demo"
        origin.answer()
        reply = answers.get(timeout=30)
        assert isinstance(reply, Reply), reply
        assert (reply.status, reply.body) == (200, b"late")
        assert reply.fields["via"] == "1.1 edgecache"
        assert served.stop() == 0
        assert "Traceback" not in served.log


def test_a_drain_ends_what_is_under_way_and_takes_nothing_new(
    tmp_path: Path, origin: SilentOrigin
) -> None:
    with Served(tmp_path, {"proxy": {"upstream": [origin.url]}}) as served:
        url, admin = served.url, served.admin
        answers = in_background(served, "/late")
        assert origin.asked.wait(30)
        served.signal(signal.SIGTERM)
        served.until("STOPPING=1")
        assert exchange(admin, "/readyz").status == 503
        with pytest.raises(ConnectionRefusedError):
            exchange(url, "/other")
        origin.answer()
        reply = answers.get(timeout=30)
        assert isinstance(reply, Reply), reply
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert served.wait() == 0


def test_a_second_signal_cuts_off_what_is_under_way(tmp_path: Path, origin: SilentOrigin) -> None:
    config = {"proxy": {"upstream": [origin.url]}, "drain_s": 300}
    with Served(tmp_path, config) as served:
        answers = in_background(served, "/never")
        assert origin.asked.wait(30)
        served.signal(signal.SIGTERM)
        served.until("STOPPING=1")
        served.signal(signal.SIGINT)
        assert served.wait() == 1
        assert isinstance(answers.get(timeout=30), Exception)
        assert "Traceback" not in served.log


def test_a_drain_has_a_deadline(tmp_path: Path, origin: SilentOrigin) -> None:
    with Served(tmp_path, {"proxy": {"upstream": [origin.url]}, "drain_s": 0.2}) as served:
        answers = in_background(served, "/never")
        assert origin.asked.wait(30)
        assert served.stop() == 0
        assert isinstance(answers.get(timeout=30), Exception)
        assert "1 connections were cut off" in served.log


def test_sockets_of_the_service_manager_are_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        number = passed.fileno()
        port = passed.getsockname()[1]
        with Served(
            tmp_path,
            {"listen": ["systemd"]},
            prefix=(sys.executable, "-c", PASSING, str(number)),
            pass_fds=(number,),
        ) as served:
            assert served.url == f"http://127.0.0.1:{port}"
            assert served.get("/page").status == 200
            assert served.stop() == 0


def test_it_gives_signs_of_life_when_they_are_asked_for(tmp_path: Path) -> None:
    with Served(tmp_path, variables={"WATCHDOG_USEC": "200000"}) as served:
        assert served.until("WATCHDOG=1")
        assert served.until("WATCHDOG=1")
        assert served.stop() == 0


def test_the_access_log_follows_a_reload(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Served(tmp_path, {"log": {"access": str(first)}}) as served:
        served.get("/page?x=1")
        served.configure({"log": {"access": str(second)}})
        served.reload()
        served.get("/nocache")
        served.configure({})
        served.reload()
        served.get("/stale")
        assert served.stop() == 0
    [line] = [json.loads(each) for each in first.read_text().splitlines()]
    assert line["method"] == "GET"
    assert line["target"] == "/page?x=1"
    assert line["status"] == 200
    assert line["bytes"] > 0
    assert line["client"] == "127.0.0.1"
    assert [json.loads(each)["target"] for each in second.read_text().splitlines()] == ["/nocache"]


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    place = tmp_path / "door"
    with Served(tmp_path, {"listen": [f"unix:{place}"]}) as served:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(place))
            link.sendall(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 200 OK")
        assert served.stop() == 0
    assert not place.exists()


def test_the_api_answers_on_its_host_and_with_its_tokens_alone(tmp_path: Path) -> None:
    team = {"token": "token-of-the-team", "prefix": "/cache/team/", "methods": ["GET", "PUT"]}
    config = {"api": {"host": "cache.local", "tokens": [team]}}
    with Served(tmp_path, config) as served:

        def status(method: str, path: str, host: str = "cache.local", token: str = "") -> int:
            fields = {"Host": host, **({"Authorization": f"Bearer {token}"} if token else {})}
            return exchange(
                served.url, path, method, b"x" if method == "PUT" else None, **fields
            ).status

        right = team["token"]
        assert isinstance(right, str)
        assert status("PUT", "/cache/team/a", token=right) == 201
        assert status("GET", "/cache/team/a", token=right) == 200
        assert status("GET", "/cache/team/a") == 401
        assert status("GET", "/cache/team/a", token="token-of-others") in (401, 403)
        assert status("DELETE", "/cache/team/a", token=right) in (401, 403)
        assert status("GET", "/cache/other", token=right) in (401, 403)
        # Every other host has the proxy alone, and the proxy has no such page.
        reply = exchange(
            served.url, "/cache/team/a", Host="www.local", Authorization=f"Bearer {right}"
        )
        assert (reply.status, "x-cache-status" in reply.fields) == (404, True)
        assert status("GET", "/page", host="cache.local") == 200
        served.configure({"api": {"enabled": False}})
        served.reload()
        assert served.get("/cache/team/a").fields["x-cache-status"]
        assert served.stop() == 0
