"""The admin plane and the metrics of a running server, and the commands that ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import Reply, Served, command, exchange

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    token_file = folder / "token"
    token_file.write_text(TOKEN + "\n")
    config = {"admin": {"listen": "127.0.0.1:0", "token_file": str(token_file)}}
    with Served(folder, config) as server:
        yield server


def post(served: Served, path: str, body: Any = None, **fields: str) -> Reply:
    text = "" if body is None else json.dumps(body)
    return exchange(served.admin, path, "POST", text, Content_Type="application/json", **fields)


def put(served: Served, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        assert exchange(served.url, f"/cache/{key}", "PUT", body).status in (201, 204)


# Truth


def test_health_readiness_and_version_say_what_is(served: Served) -> None:
    health = exchange(served.admin, "/health").json()
    assert (health["status"], health["reasons"], health["draining"]) == ("ok", [], False)
    assert [each["up"] for each in health["upstreams"]["demo"]] == [True]
    assert exchange(served.admin, "/api/health").json()["status"] == "ok"
    assert exchange(served.admin, "/livez").json() == {"status": "alive"}
    assert exchange(served.admin, "/api/ready").json() == {"ready": True}
    assert exchange(served.admin, "/api/version").json()["version"] == health["version"]


def test_a_server_that_is_down_shows_in_health(tmp_path: Path) -> None:
    upstream = {"servers": ["http://127.0.0.1:9"], "breaker": {"failure_count": 1, "open_s": 60}}
    with Served(tmp_path, {"proxy": {"upstreams": {"dead": upstream}}}) as served:
        assert served.get("/x").status == 502
        reply = exchange(served.admin, "/health")
        assert (reply.status, reply.json()["status"]) == (200, "degraded")
        assert "127.0.0.1:9" in reply.json()["reasons"][0]["detail"]
        assert (
            b'server="127.0.0.1:9",upstream="dead"} 0.0'
            in exchange(served.metrics, "/metrics").body
        )
        assert served.stop() == 0


def test_metrics_are_on_both_listeners_and_count_what_happens(served: Served) -> None:
    before = counted(served, 'edge_cache_http_requests_total{method="GET"}')
    served.get("/page")
    assert counted(served, 'edge_cache_http_requests_total{method="GET"}') == before + 1
    names = [names_of(exchange(url, "/metrics")) for url in (served.admin, served.metrics)]
    assert names[0] == names[1]
    families = ("edge_cache_hits", "edge_cache_http_answers", "edge_cache_proxy_answers")
    for family in families:
        assert any(name.startswith(family) for name in names[0]), sorted(names[0])
    asked = "application/openmetrics-text; version=1.0.0"
    for url in (served.admin, served.metrics):
        reply = exchange(url, "/metrics", Accept=asked)
        assert reply.fields["content-type"].startswith("application/openmetrics-text")
        assert reply.body.endswith(b"# EOF\n")
    assert exchange(served.metrics, "/other").status == 404
    assert exchange(served.metrics, "/metrics", "POST", b"x").status == 405


def test_the_page_names_every_metric_that_the_server_adds(served: Served) -> None:
    text = exchange(served.metrics, "/metrics").body.decode()
    families = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")}
    ours = {name for name in families if name.startswith(("edge_cache_http", "edge_cache_proxy"))}
    assert len(ours) > 15
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    assert [name for name in sorted(ours) if f"`{name}`" not in page] == []
    named = set(re.findall(r"`(edge_cache_[a-z_]+)`", page))
    assert named == ours


def counted(served: Served, sample: str) -> float:
    for line in exchange(served.metrics, "/metrics").body.decode().splitlines():
        if line.startswith(sample):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def names_of(reply: Reply) -> set[str]:
    lines = reply.body.decode().splitlines()
    return {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}


def test_settings_and_their_description_can_be_read(served: Served) -> None:
    shown = exchange(served.admin, "/api/config").json()
    assert shown["cache"]["memory"] == 16 << 20
    assert shown["proxy"]["profile"] == "safe"
    paths = exchange(served.admin, "/openapi.json").json()["paths"]
    assert {"/api/purge", "/api/cache/clear", "/health"} <= set(paths)


def test_the_log_level_really_changes(served: Served) -> None:
    assert exchange(served.admin, "/api/config/logging").json() == {"level": "info"}
    served.reload()
    told = served.log.count("configuration read again")
    assert told >= 1
    assert exchange(served.admin, "/api/config/logging/error", "PUT").json() == {"level": "error"}
    assert exchange(served.admin, "/api/config/logging").json() == {"level": "error"}
    served.reload()  # which logs at info, and then sets the level of the configuration
    assert served.log.count("configuration read again") == told + 1
    assert exchange(served.admin, "/api/config/logging").json() == {"level": "info"}
    assert exchange(served.admin, "/api/config/logging/loud", "PUT").status == 400


# Purges


def test_purges_by_every_target_are_exact(served: Served) -> None:
    post(served, "/api/purge", {"everything": True})
    put(served, "k1", "p/1", "p/2", "p/3", "q")
    for language in ("de", "fr"):
        served.get("/vary", Accept_Language=language)
    served.get("/tagged")
    base = served.url
    for body, count in (
        ({"key": "k1"}, 1),
        ({"key": "k1"}, 0),
        ({"prefix": "p/"}, 3),
        ({"url": f"{base}/vary"}, 2),
        ({"tag": "demo"}, 1),
        ({"tag": "demo"}, 0),
    ):
        assert post(served, "/api/purge", body).json() == {"purged": count, "soft": False}, body
    assert served.get("/cache/k1").status == 404
    assert served.get("/tagged").fields["x-cache-status"] == "miss"
    large = bytes(9 << 20)  # in several chunks, which are not entries of their own
    put(served, "large", body=large)
    # q, large, /tagged
    assert post(served, "/api/purge", {"everything": True}).json()["purged"] == 3
    assert served.get("/cache/large").status == 404
    put(served, "left")
    assert post(served, "/api/cache/clear").json() == {"cleared": True, "purged": 1}


# key in the path of the cache API, encoding, the same key for the admin API
ENCODED = [
    ("caf%C3%A9", "text", "caf\u00e9"),
    ("caf%C3%A9", "percent", "caf%C3%A9"),
    ("caf%C3%A9", "percent", "caf\u00e9"),
    ("%FF%00%2F", "percent", "%ff%00%2F"),
    ("%FF%00%2F", "base64", "/wAv"),
    ("a%25b", "percent", "a%25b"),
    ("a%25b", "text", "a%b"),
    ("%FF" * 8192, "percent", "%FF" * 8192),
]


@pytest.mark.parametrize(("path", "encoding", "key"), ENCODED, ids=lambda text: text[:12])
@pytest.mark.parametrize("kind", ["key", "prefix"])
def test_any_key_can_be_purged(
    served: Served, kind: str, path: str, encoding: str, key: str
) -> None:
    put(served, path)
    body = {kind: key, "encoding": encoding}
    assert post(served, "/api/purge", body).json() == {"purged": 1, "soft": False}
    assert served.get(f"/cache/{path}").status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"key": "%", "encoding": "percent"},
        {"key": "%f", "encoding": "percent"},
        {"key": "/wA", "encoding": "base64"},
        {"key": "*", "encoding": "base64"},
        {"key": "\u00e9", "encoding": "base64"},
        {"key": "a", "encoding": "hex"},
        {"key": "\ud800"},
        {"key": "", "encoding": "percent"},
        {"key": "\u00e9" * 4097},
        {"prefix": "a" * 8193},
        {"tag": "t" * 256},
    ],
    ids=str,
)
def test_a_key_that_is_not_in_its_encoding_is_refused(served: Served, body: dict[str, str]) -> None:
    assert post(served, "/api/purge", body).status == 422


def test_soft_purges_make_stale_and_say_so_once(served: Served) -> None:
    put(served, "soft")
    served.get("/tagged")  # fresh for ten minutes
    for body in ({"key": "soft", "soft": True}, {"url": f"{served.url}/tagged", "soft": True}):
        assert post(served, "/api/purge", body).json() == {"purged": 1, "soft": True}
    assert post(served, "/api/purge", {"key": "soft", "soft": True}).json()["purged"] == 0
    assert served.get("/tagged").fields["x-cache-status"] != "hit"
    assert served.get("/cache/soft").status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"key": "a", "tag": "b"}, 422),
        ({"key": ""}, 422),
        ({"key": "x" * 9000}, 422),
        ({"kee": "a"}, 422),
        ({"url": "no url"}, 400),
        ({"prefix": "a", "soft": True}, 400),
        ({"everything": True, "soft": True}, 400),
        ({"key": "x" * 70_000}, 413),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(
    served: Served, body: dict[str, Any], status: int
) -> None:
    assert post(served, "/api/purge", body).status == status


# Who may


@pytest.mark.parametrize(
    ("method", "path", "is_open"),
    [
        ("GET", "/livez", True),
        ("GET", "/readyz", True),
        ("GET", "/health", True),
        ("GET", "/api/health", True),
        ("GET", "/metrics", False),
        ("GET", "/api/version", False),
        ("GET", "/api/config", False),
        ("GET", "/api/cache/stats", False),
        ("GET", "/openapi.json", False),
        ("PUT", "/api/config/logging/info", False),
        ("POST", "/api/cache/clear", False),
        ("GET", "/api/nothing", False),
        ("GET", "/HEALTH", False),
        ("GET", "/health/", False),
        ("GET", "//health", False),
    ],
)
def test_only_health_answers_without_the_token(
    guarded: Served, method: str, path: str, is_open: bool
) -> None:
    for field in ("", "Bearer wrong", f"bearer {TOKEN}", f"Bearer {TOKEN} ", "Bearer ", TOKEN):
        headers = {"Authorization": field} if field else {}
        reply = exchange(guarded.admin, path, method, **headers)
        accepted = field.strip() == f"Bearer {TOKEN}"  # the parser strips what surrounds a value
        assert (reply.status != 401) is (is_open or accepted), (field, reply)
    reply = exchange(guarded.admin, path, method, Authorization=f"Bearer {TOKEN}")
    assert reply.status != 401
    assert reply.fields["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:14000"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:3000"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_use_an_open_listener(
    served: Served, fields: dict[str, str], status: int
) -> None:
    assert post(served, "/api/purge", {"key": "nothing"}, **fields).status == status


def test_metrics_come_in_three_formats_on_every_listener(served: Served) -> None:
    for base in (served.admin, served.metrics, served.url):
        for accept, kind in (
            ("application/json", "application/json"),
            ("application/json;q=0.1, text/plain", "text/plain"),
            ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text"),
            ("*/*", "text/plain"),
        ):
            reply = exchange(base, "/metrics", Accept=accept)
            assert reply.fields["content-type"].startswith(kind)
            assert reply.fields["vary"] == "Accept"
    families = exchange(served.admin, "/metrics", Accept="application/json").json()["metrics"]
    assert families["edge_cache_http_connections"]["samples"][0]["value"] >= 0


def test_latencies_are_there_by_door(served: Served) -> None:
    put(served, "timed")
    served.get("/slow")
    for _ in range(80):  # one read in 61 is timed
        assert served.get("/cache/timed").status == 200
    latencies = exchange(served.admin, "/api/http/stats").json()["latencies"]
    for door, kind in (("cache", "at_once"), ("proxy", "waited")):
        found = latencies[door][kind]
        assert sum(found["counts"]) >= 1
        assert 0 < found["p50_seconds"] <= found["p99_seconds"]
    text = exchange(served.admin, "/metrics").body.decode()
    assert 'edge_cache_http_answer_seconds_count{door="cache",kind="at_once"}' in text
    assert 'edge_cache_http_answer_seconds_bucket{door="proxy",kind="waited",le="+Inf"}' in text


def test_a_form_of_a_web_page_is_no_order(served: Served) -> None:
    """What a browser sends without asking first: text/plain, or a form."""
    put(served, "formed")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        for body in ('{"key": "formed"}', '{"everything": true}', "everything=true"):
            reply = exchange(served.admin, "/api/purge", "POST", body, Content_Type=kind)
            assert reply.status == 422, (kind, body)
    assert served.get("/cache/formed").status == 200


# Commands


def test_the_commands_ask_a_running_server(served: Served, guarded: Served) -> None:
    put(served, "c1", "c2")
    admin = ("--admin", served.admin)
    assert command("purge", "--prefix", "c", *admin)[:2] == (0, "2 purged\n")
    assert command("purge", "--key", "c1", "--soft", *admin)[:2] == (0, "0 made stale\n")
    put(served, "%FF%01", "%FF%02", "%FF%03")
    assert command("purge", "--key", "%ff%01", "--encoding", "percent", *admin)[1] == "1 purged\n"
    assert command("purge", "--key", "/wI=", "--encoding", "base64", *admin)[1] == "1 purged\n"
    assert command("purge", "--key", "\udcff\x03", *admin)[1] == "1 purged\n"  # the raw bytes
    code, out, _ = command("stat", *admin)
    assert code == 0
    assert all(word in out for word in ("hit ratio", "memory", "disk", "ok"))
    code, out, _ = command("stat", "--json", *admin)
    assert json.loads(out)["memory"]["budget_bytes"] > 0
    code, out, _ = command("top", "--count", "1", "--interval", "0.1", *admin)
    assert (code, "misses" in out) == (0, True)
    code, out, _ = command("bench", f"{served.url}/page", "--duration", "0.2", "--connections", "2")
    assert (code, "200:" in out) == (0, True)
    # With a token
    code, _, err = command("stat", "--admin", guarded.admin)
    assert (code, "EDGECACHE_ADMIN_TOKEN" in err) == (1, True)
    assert command("stat", "--admin", guarded.admin, "--token", TOKEN)[0] == 0
    assert command("stat", "--admin", guarded.admin, EDGECACHE_ADMIN_TOKEN=TOKEN)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("purge",), 2, "exactly one"),
        (("purge", "--key", "a", "--tag", "b"), 2, "exactly one"),
        (("purge", "--all", "--soft"), 1, "made stale at once"),
        (("stat", "--admin", "ftp://x"), 1, "no admin URL"),
        (("stat", "--admin", "http://127.0.0.1:9"), 1, "is `edgecache serve` running?"),
        (("bench", "http://127.0.0.1:9/", "--duration", "0.1"), 1, "nothing answers"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_a_command_that_fails_says_why_in_its_exit_code_too(
    served: Served, arguments: tuple[str, ...], code: int, said: str
) -> None:
    if arguments[0] in ("purge",):
        arguments = (*arguments, "--admin", served.admin)
    got, _, err = command(*arguments)
    assert got == code, err
    assert said in err
    assert "Traceback" not in err


def test_a_data_url_is_not_taken_for_an_admin_listener(served: Served) -> None:
    code, _, err = command("stat", "--admin", served.url)
    assert (code, "Traceback" in err) == (1, False)
    assert "admin" in err
