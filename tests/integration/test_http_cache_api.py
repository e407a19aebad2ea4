"""The cache API over sockets: entries, ranges, preconditions, options, tokens, pages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from support.http import Answer, Running, request, statuses

import edgecache
from edgecache.http import HttpApp, HttpServer, TokenRule, mount_cache_api

BODY = bytes(range(256)) * 8
SIZE = len(BODY)


class Api(Running):
    """A cache API on a store in RAM."""

    def __init__(self, *, tokens: tuple[TokenRule, ...] = (), **options: object) -> None:
        self.store = edgecache.AsyncStorage(edgecache.Config(memory="64MiB", **options))
        app = HttpApp()
        mount_cache_api(app, self.store, tokens=tokens, statistics=lambda: self.server.statistics)
        super().__init__(app)
        self.server: HttpServer

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self.store.storage.close()

    def ask(self, method: str, target: str, body: bytes | None = None, **fields: str) -> Answer:
        named = [(name.replace("_", "-"), value) for name, value in fields.items()]
        return self.exchange(request(method, target, named, body))


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with Api() as running:
        yield running


@pytest.fixture
def entry(api: Api) -> Answer:
    """An entry at /cache/entry, freshly put; its HEAD."""
    assert api.ask("PUT", "/cache/entry", BODY, Content_Type="image/x-test").status == 201
    return api.ask("HEAD", "/cache/entry")


def test_what_is_put_is_what_is_got(api: Api, entry: Answer) -> None:
    found = api.ask("GET", "/cache/entry")
    assert (found.status, found.body) == (200, BODY)
    assert found.fields["content-type"] == "image/x-test"
    assert found.fields["x-elcache-hit"] == "memory"
    assert found.fields["x-elcache-size"] == str(SIZE)
    assert found.fields["x-elcache-chunks"] == "1"
    assert found.fields["accept-ranges"] == "bytes"
    assert re.fullmatch(r'"[0-9a-f]{32}"', found.fields["etag"])
    assert found.fields == {**entry.fields, "date": found.fields["date"]}
    # Twice: the second one takes the rendered head.
    again = api.ask("GET", "/cache/entry")
    assert again.body == BODY
    assert again.fields == {**found.fields, "date": again.fields["date"]}


def test_a_replaced_entry_has_another_tag_and_its_own_length(api: Api) -> None:
    found = []
    for body in (b"one", b"three", b"one"):
        assert api.ask("POST", "/cache/replaced", body).status == 201
        found.append(api.ask("GET", "/cache/replaced"))
    assert [each.body for each in found] == [b"one", b"three", b"one"]
    tags = [each.fields["etag"] for each in found]
    assert tags[0] == tags[2] != tags[1]


def test_deleting_and_missing(api: Api) -> None:
    api.ask("PUT", "/cache/gone", b"x")
    assert api.ask("DELETE", "/cache/gone").status == 204
    assert api.ask("DELETE", "/cache/gone").status == 404
    for method in ("GET", "HEAD"):
        missing = api.ask(method, "/cache/gone")
        assert (missing.status, missing.fields["x-elcache-hit"]) == (404, "miss")


def test_an_entry_of_another_door_is_served_too(api: Api) -> None:
    api.store.storage.put("from python", b"hello")
    found = api.ask("GET", "/cache/from%20python")
    assert (found.status, found.body) == (200, b"hello")
    assert found.fields["content-type"] == "application/octet-stream"
    assert api.ask("GET", "/cache/from%20python", If_None_Match=found.fields["etag"]).status == 304
    meta = edgecache.Meta(created=0, updated=0, headers=b"EA\x01 something else", fresh_until=1)
    api.store.storage.put("stale", b"old", meta=meta)
    assert api.ask("GET", "/cache/stale").status == 404


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/cache/a%2Fb", b"a/b"),
        ("/cache/a/b/../c", b"a/b/../c"),
        ("/cache//", b"/"),
        ("/cache/%00", b"\0"),
        ("/cache/%25%32%35", b"%25"),
        ("/cache/a+b", b"a+b"),
        ("/cache/%FF%fe", b"\xff\xfe"),
        ("/cache/a;b=c&d", b"a;b=c&d"),
        ("/cache/" + "%61" * 8192, b"a" * 8192),
        ("http://a/cache/absolute", b"absolute"),
    ],
)
def test_keys_are_decoded_exactly_once(api: Api, target: str, key: bytes) -> None:
    assert api.ask("PUT", target, key).status == 201
    assert api.store.storage.get(key) == key
    assert api.ask("GET", target).body == key
    assert api.ask("DELETE", target).status == 204


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PUT", "/cache/", 400),
        ("GET", "/cache/", 400),
        ("GET", "/cache/%", 400),
        ("GET", "/cache/%4", 400),
        ("GET", "/cache/%zz", 400),
        ("GET", "/cache/" + "a" * 8193, 400),
        ("PUT", "/cache/k?range=0-1", 400),
        ("GET", "/cache/k?what=1", 400),
        ("GET", "/cache/k?range=1-1&range=1-1", 400),
        ("GET", "/cache/k?range=-1", 400),
        ("GET", "/cache/k?range=1-0", 400),
        ("GET", "/cache/k?range=a-b", 400),
        ("PATCH", "/cache/k", 405),
        ("FOO", "/cache/k", 405),
        ("GET", "/elsewhere", 404),
        ("OPTIONS", "/cache/k", 204),
        ("OPTIONS", "*", 204),
    ],
)
def test_requests_that_make_no_sense(api: Api, method: str, target: str, status: int) -> None:
    found = api.ask(method, target, b"" if method == "PUT" else None)
    assert found.status == status
    if status == 405 or (method == "OPTIONS" and target != "*"):
        assert found.fields["allow"] == "GET, PUT, POST, DELETE, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"X_ElCache_TTL": "abc"}, 400),
        ({"X_ElCache_TTL": "-1"}, 400),
        ({"X_ElCache_TTL": "1e3"}, 400),
        ({"X_ElCache_TTL": "9" * 30}, 400),
        ({"X_ElCache_TTL": "60"}, 201),
        ({"X_ElCache_TTL": "0"}, 201),
        ({"X_ElCache_Flags": "4294967296"}, 400),
        ({"X_ElCache_Flags": "4294967295"}, 201),
        ({"X_ElCache_No_Memory": "yes"}, 400),
        ({"X_ElCache_No_Cluster": "true"}, 201),
        ({"Content_Range": "bytes 0-0/2"}, 400),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": "a" * 600}, 400),
    ],
)
def test_options_of_a_put_are_judged(api: Api, fields: dict[str, str], status: int) -> None:
    api.ask("DELETE", "/cache/options")
    assert api.ask("PUT", "/cache/options", b"x", **fields).status == status
    assert api.ask("GET", "/cache/options").status == (200 if status == 201 else 404)


def test_flags_and_lifetime_are_stored(api: Api) -> None:
    api.ask("PUT", "/cache/kept", b"x", X_ElCache_Flags="7", X_ElCache_TTL="60")
    assert api.ask("GET", "/cache/kept").fields["x-elcache-flags"] == "7"
    found = api.store.storage.read_entry("kept")
    assert found is not None
    assert 50e6 < found[2] - time.time() * 1e6 < 61e6


def test_a_placement_that_is_not_applied_is_said(api: Api) -> None:
    both = api.ask("PUT", "/cache/p", b"x", X_ElCache_No_Disk="true", X_ElCache_No_Memory="true")
    assert both.fields["x-elcache-not-applied"] == "no-memory, no-disk"
    plain = api.ask("PUT", "/cache/p", b"x", X_ElCache_No_Cluster="true")
    assert "x-elcache-not-applied" not in plain.fields


# Ranges


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=5-9", 5, 10),
        ("Bytes = 5-9", 5, 10),
        ("bytes=-1", SIZE - 1, SIZE),
        (f"bytes=-{10**30}", 0, SIZE),
        (f"bytes=5-{10**30}", 5, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=0-4,5-9", 0, 10),
        ("bytes=3-8,0-5,,", 0, 9),
        (f"bytes=5-5,{SIZE}-", 5, 6),
    ],
)
def test_one_range_is_sent_as_it_is(
    api: Api, entry: Answer, value: str, start: int, end: int
) -> None:
    found = api.ask("GET", "/cache/entry", Range=value)
    assert (found.status, found.body) == (206, BODY[start:end])
    assert found.fields["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert found.fields["etag"] == entry.fields["etag"]
    assert found.fields["content-type"] == "image/x-test"


@pytest.mark.parametrize(
    "value",
    [
        "bytes=", "bytes=-", "bytes=a-b", "bytes=5", "bytes=9-5", "bytes=0-1,x", "bytes 0-1",
        "items=0-1", "bytes=0x0-1", "bytes=+0-1", "bytes=0--1", "bytes=0-1;2-3",
        "bytes=" + ",".join(f"{n * 4}-{n * 4}" for n in range(9)),
        "bytes=0-1999,1-1999,3-", "bytes=0-1000,1002-2047",
    ],
)  # fmt: skip
def test_a_range_that_is_malformed_or_costs_more_than_the_whole_is_ignored(
    api: Api, entry: Answer, value: str
) -> None:
    found = api.ask("GET", "/cache/entry", Range=value)
    if value == "bytes=0-1000,1002-2047":
        assert found.status == 206  # two parts, less than the whole together
    elif value == "bytes=0-1999,1-1999,3-":
        assert found.fields["content-range"] == f"bytes 0-{SIZE - 1}/{SIZE}"
    else:
        assert (found.status, found.body) == (200, BODY)


@pytest.mark.parametrize(
    "value", [f"bytes={SIZE}-", "bytes=-0", f"bytes={10**40}-", "bytes=9999-9999"]
)
def test_a_range_without_a_byte_is_a_416(api: Api, entry: Answer, value: str) -> None:
    found = api.ask("GET", "/cache/entry", Range=value)
    assert found.status == 416
    assert found.fields["content-range"] == f"bytes */{SIZE}"


def parts(found: Answer) -> list[tuple[str, bytes]]:
    """Split multipart/byteranges as a client does."""
    boundary = found.fields["content-type"].split("boundary=")[1].encode()
    pieces = found.body.split(b"\r\n--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    split = []
    for piece in pieces[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        assert b"Content-Type: image/x-test" in head
        split.append((head.split(b"Content-Range: ")[1].decode(), body))
    return split


@pytest.mark.parametrize("count", [2, 8])
def test_several_ranges_are_sent_in_parts(api: Api, entry: Answer, count: int) -> None:
    value = "bytes=" + ",".join(f"{n * 10}-{n * 10 + 4}" for n in range(count))
    found = api.ask("GET", "/cache/entry", Range=value)
    assert found.status == 206
    assert "content-range" not in found.fields
    assert parts(found) == [
        (f"bytes {n * 10}-{n * 10 + 4}/{SIZE}", BODY[n * 10 : n * 10 + 5]) for n in range(count)
    ]
    assert int(found.fields["content-length"]) == len(found.body)


def test_ranges_by_query(api: Api, entry: Answer) -> None:
    found = api.ask("GET", "/cache/entry?range=5-3")
    assert (found.status, found.body) == (206, BODY[5:8])
    clipped = api.ask("GET", f"/cache/entry?range={SIZE - 2}-100")
    assert clipped.body == BODY[-2:]
    assert api.ask("GET", f"/cache/entry?range={SIZE}-1").status == 416


def test_a_head_has_no_ranges(api: Api, entry: Answer) -> None:
    found = api.ask("HEAD", "/cache/entry", Range="bytes=0-1")
    assert (found.status, found.fields["content-length"]) == (200, str(SIZE))


def test_if_range_with_the_wrong_validator_gives_the_whole(api: Api, entry: Answer) -> None:
    tag, date = entry.fields["etag"], entry.fields["last-modified"]
    wanted = {"Range": "bytes=0-1"}
    assert api.ask("GET", "/cache/entry", If_Range=tag, **wanted).status == 206
    for other in ('"other"', f"W/{tag}", date[:-4], f"{tag}, {tag}", "*"):
        assert api.ask("GET", "/cache/entry", If_Range=other, **wanted).status == 200


# Preconditions: the table of RFC 9110, section 13.2.2

OLD = formatdate(time.time() - 1000, usegmt=True)
NEW = formatdate(time.time() + 1000, usegmt=True)


@pytest.mark.parametrize(
    ("fields", "reading", "changing"),
    [
        ({"If_Match": "TAG"}, 200, True),
        ({"If_Match": "*"}, 200, True),
        ({"If_Match": '"x", TAG'}, 200, True),
        ({"If_Match": '"x"'}, 412, False),
        ({"If_Match": "W/TAG"}, 412, False),
        ({"If_Match": "garbage"}, 412, False),
        ({"If_None_Match": "TAG"}, 304, False),
        ({"If_None_Match": "W/TAG"}, 304, False),
        ({"If_None_Match": '"x", W/"y" ,, TAG'}, 304, False),
        ({"If_None_Match": "*"}, 304, False),
        ({"If_None_Match": '"x"'}, 200, True),
        ({"If_Modified_Since": NEW}, 304, True),
        ({"If_Modified_Since": OLD}, 200, True),
        ({"If_Modified_Since": "yesterday"}, 200, True),
        ({"If_Unmodified_Since": NEW}, 200, True),
        ({"If_Unmodified_Since": OLD}, 412, False),
        ({"If_Unmodified_Since": "yesterday"}, 200, True),
        # A tag goes before a date.
        ({"If_None_Match": '"x"', "If_Modified_Since": NEW}, 200, True),
        ({"If_None_Match": "TAG", "If_Modified_Since": OLD}, 304, False),
        ({"If_Match": "TAG", "If_Unmodified_Since": OLD}, 200, True),
        ({"If_Match": '"x"', "If_None_Match": "TAG"}, 412, False),
        ({"If_Match": "TAG", "If_None_Match": "TAG"}, 304, False),
    ],
)
def test_preconditions(
    api: Api, entry: Answer, fields: dict[str, str], reading: int, changing: bool
) -> None:
    tag = entry.fields["etag"]
    given = {name: value.replace("TAG", tag) for name, value in fields.items()}
    for method in ("GET", "HEAD"):
        found = api.ask(method, "/cache/entry", **given)
        assert found.status == reading
        if reading == 304:
            assert found.fields["etag"] == tag
            assert found.fields["last-modified"] == entry.fields["last-modified"]
            assert found.body == b""
    assert api.ask("PUT", "/cache/entry", b"new", **given).status == (201 if changing else 412)
    assert api.ask("GET", "/cache/entry").body == (b"new" if changing else BODY)
    assert api.ask("PUT", "/cache/entry", BODY).status == 201
    assert api.ask("DELETE", "/cache/entry", **given).status == (204 if changing else 412)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"If_None_Match": "*"}, 201),
        ({"If_None_Match": '"x"'}, 201),
        ({"If_Match": "*"}, 412),
        ({"If_Match": '"x"'}, 412),
        ({"If_Unmodified_Since": NEW}, 412),
        ({"If_Modified_Since": NEW}, 201),
    ],
)
@pytest.mark.parametrize("size", [1, 2_000_000])
def test_preconditions_on_what_is_not_there(
    api: Api, fields: dict[str, str], status: int, size: int
) -> None:
    api.ask("DELETE", "/cache/new")
    assert api.ask("PUT", "/cache/new", bytes(size), **fields).status == status


def test_a_failed_precondition_is_told_before_content_is_asked_for(api: Api, entry: Answer) -> None:
    fields = [("Expect", "100-continue"), ("Content-Length", "3000000"), ("If-None-Match", "*")]
    received = api.send(request("PUT", "/cache/entry", fields))
    assert statuses(received) == [412]


# Sizes


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_content_of_any_size_comes_back(api: Api, size: int, is_chunked: bool) -> None:
    data = (BODY * (size // SIZE + 1))[:size]
    if is_chunked:
        head = request("PUT", "/cache/size", [("Transfer-Encoding", "chunked")])
        data_sent = b"".join(
            b"%x\r\n%s\r\n" % (len(data[at : at + 70000]), data[at : at + 70000])
            for at in range(0, size, 70000)
        )
        assert api.exchange(head + data_sent + b"0\r\n\r\n").status == 201
    else:
        assert api.ask("PUT", "/cache/size", data).status == 201
    found = api.ask("GET", "/cache/size")
    assert found.body == data
    if size > 100:
        parts_found = api.ask("GET", "/cache/size", Range="bytes=1-2,-3")
        assert data[1:3] in parts_found.body


def test_content_above_the_limit_of_the_store_is_refused_at_once() -> None:
    with Api(max_object_size="1MiB") as small:
        fields = [("Content-Length", str(20 * 2**40)), ("Expect", "100-continue")]
        assert statuses(small.send(request("PUT", "/cache/k", fields))) == [413]
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        head = request("PUT", "/cache/k", [("Transfer-Encoding", "chunked")])
        assert small.exchange(head + chunk + b"1\r\nx\r\n0\r\n\r\n").status == 413
        assert small.ask("PUT", "/cache/k", bytes(1 << 19)).status == 201


# Who may


@pytest.fixture(scope="module")
def guarded() -> Iterator[Api]:
    rules = (
        TokenRule("all", b"/"),
        TokenRule("one", b"/cache/one/"),
        TokenRule("read", b"/cache/", ["GET", "HEAD"]),
    )
    with Api(tokens=rules) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "target", "token", "status"),
    [
        ("PUT", "/cache/one/k", "Bearer all", 201),
        ("PUT", "/cache/one/k", "bearer one", 201),
        ("PUT", "/cache/%6fne/k", "Bearer one", 201),
        ("PUT", "/cache/two/k", "Bearer one", 403),
        ("PUT", "/cache/one%2", "Bearer one", 400),
        ("GET", "/cache/one", "Bearer one", 403),
        ("GET", "/cache/one/k", "Bearer read", 200),
        ("PUT", "/cache/one/k", "Bearer read", 403),
        ("GET", "/stats", "Bearer read", 403),
        ("GET", "/stats", "Bearer all", 200),
        ("GET", "/cache/one/k", "Bearer wrong", 401),
        ("GET", "/cache/one/k", "Bearer", 401),
        ("GET", "/cache/one/k", "Basic all", 401),
        ("GET", "/cache/one/k", "all", 401),
        ("GET", "/cache/one/k", "", 401),
        ("GET", "/metrics", "", 401),
        ("POST", "/sparse/one/k", "Bearer one", 403),
    ],
)
def test_tokens_permit_what_they_say(
    guarded: Api, method: str, target: str, token: str, status: int
) -> None:
    guarded.store.storage.put("one/k", b"x")
    fields = {"Authorization": token} if token else {}
    found = guarded.ask(method, target, b"x" if method == "PUT" else None, **fields)
    assert found.status == status
    assert ("www-authenticate" in found.fields) == (status in (401, 403))


# Pages


def test_statistics_count_what_was_asked(api: Api, entry: Answer) -> None:
    before = json.loads(api.ask("GET", "/stats").body)
    for _ in range(3):
        api.ask("GET", "/cache/entry")
    api.ask("GET", "/cache/nothing")
    after = json.loads(api.ask("GET", "/stats").body)
    assert after["hits"] - before["hits"] == 3
    assert after["misses"] - before["misses"] == 1
    assert after["http"]["requests"] - before["http"]["requests"] == 5
    assert after["entry_count"] == before["entry_count"] > 0
    assert after["capacity_bytes"] == 64 << 20


def test_metrics_come_in_the_format_that_is_asked_for(api: Api, entry: Answer) -> None:
    text = api.ask("GET", "/metrics")
    assert text.fields["content-type"].startswith("text/plain")
    assert b"\nedge_cache_hits_total{" in text.body
    assert re.search(rb'\nedge_cache_http_answers_total\{status="200"\} \d', text.body)
    openmetrics = api.ask("GET", "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert openmetrics.fields["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")
    as_json = api.ask("GET", "/metrics", Accept="application/json")
    assert json.loads(as_json.body)["http"]["connections"] >= 1


def test_the_cluster_is_one_node_and_says_so(api: Api) -> None:
    cluster = json.loads(api.ask("GET", "/cluster").body)
    assert (cluster["mode"], cluster["nodes_total"], cluster["nodes_active"]) == (
        "standalone",
        1,
        1,
    )
    (node,) = json.loads(api.ask("GET", "/cluster/nodes").body)["nodes"]
    assert (node["state"], node["is_self"]) == ("active", True)
    assert json.loads(api.ask("GET", "/health").body)["status"] == "ok"
    assert api.ask("POST", "/stats", b"").status == 405
    assert api.ask("GET", "/statsx").status == 404


def test_a_store_that_was_closed_is_a_503_for_everybody() -> None:
    with Api() as api:
        get = request("GET", "/cache/k")
        assert api.ask("PUT", "/cache/k", b"x").status == 201
        api.store.storage.close()
        # The second and third of a connection take the short way.
        last = request("GET", "/cache/k", [("Connection", "close")])
        assert statuses(api.send(get * 3 + last)) == [503] * 4
        for method, target in (
            ("PUT", "/cache/k"), ("DELETE", "/cache/k"), ("HEAD", "/cache/k"),
            ("GET", "/cache/k?range=0-1"), ("GET", "/stats"),
        ):  # fmt: skip
            assert api.ask(method, target, b"x" if method == "PUT" else None).status == 503
        assert "handler" not in api.refused


def test_a_hit_on_disk_says_so(tmp_path: object) -> None:
    with Api(root=str(tmp_path), disk="256MiB") as api:
        for number in range(120):
            assert api.ask("PUT", f"/cache/{number}", bytes([number]) * 1_000_000).status == 201
        found = [api.ask("GET", f"/cache/{number}") for number in range(120)]
        assert [each.body[:1] for each in found] == [bytes([number]) for number in range(120)]
        assert "disk" in {each.fields["x-elcache-hit"] for each in found}
