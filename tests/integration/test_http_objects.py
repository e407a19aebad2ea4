"""Doors on a store with objects: sparse uploads, and entries that are streams."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http import Answer, Running, answers, request, statuses
from support.objects import ModelObjects

import edgecache
from edgecache.http import HttpApp, mount_cache_api

TIB = 1 << 40


class Api(Running):
    """A cache API on the model, whose objects the engine does not know, as writes in progress."""

    def __init__(self, *, atomic_publish: bool = False) -> None:
        config = edgecache.Config(memory="64MiB", atomic_publish=atomic_publish)
        self.store = ModelObjects(config)
        app = HttpApp()
        mount_cache_api(app, self.store)
        super().__init__(app)

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self.store.storage.close()

    def ask(self, method: str, target: str, body: bytes | None = None, **fields: str) -> Answer:
        named = [(name.replace("_", "-"), value) for name, value in fields.items()]
        return self.exchange(request(method, target, named, body))


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as running:
        yield running


def create(api: Api, key: str = "k", size: int = 10, **fields: str) -> Answer:
    return api.ask("POST", f"/sparse/{key}", b"", X_ElCache_Size=str(size), **fields)


def test_an_object_is_written_in_any_order_and_published_by_finalize(api: Api) -> None:
    assert create(api, Content_Type="text/x").status == 201
    last = api.ask("PATCH", "/sparse/k", b"6789", Content_Range="bytes 6-9/10")
    assert (last.status, last.fields["x-elcache-completion"]) == (202, "40%")
    status = json.loads(api.ask("GET", "/sparse/k").body)
    assert status == {
        "key": "k", "key_hex": "6b", "total_size": 10, "present_bytes": 4,
        "completion_percent": 40.0, "complete": False, "finalized": False, "missing": [[0, 6]],
    }  # fmt: skip
    early = api.ask("POST", "/sparse/k/finalize", b"")
    assert (early.status, early.fields["x-elcache-completion"]) == (409, "40%")
    assert json.loads(early.body)["missing"] == [[0, 6]]
    assert api.ask("GET", "/cache/k").status == 404
    part = api.ask("GET", "/cache/k", Range="bytes=7-8")
    assert (part.status, part.body) == (206, b"78")
    assert part.fields["x-elcache-hit"] == "partial"
    assert part.fields["content-range"] == "bytes 7-8/10"
    assert api.ask("GET", "/cache/k", Range="bytes=5-8").status == 404
    assert api.ask("PUT", "/sparse/k?offset=0", b"012345").fields["x-elcache-completion"] == "100%"
    final = api.ask("POST", "/sparse/k/finalize", b"", X_ElCache_TTL="60")
    assert (final.status, final.fields["x-elcache-size"]) == (201, "10")
    assert api.store.ttls == {b"k": 60.0}
    whole = api.ask("GET", "/cache/k")
    assert (whole.status, whole.body) == (200, b"0123456789")
    assert whole.fields["content-type"] == "text/x"
    assert whole.fields["x-elcache-hit"] == "disk"
    assert api.ask("POST", "/sparse/k/finalize", b"").status == 404


def test_twenty_tebibytes_are_a_size_like_any_other(api: Api) -> None:
    assert create(api, "huge", 20 * TIB).status == 201
    end = f"bytes {20 * TIB - 3}-{20 * TIB - 1}/{20 * TIB}"
    found = api.ask("PATCH", "/sparse/huge", b"end", Content_Range=end)
    assert (found.status, found.fields["x-elcache-completion"]) == (202, "0%")
    assert api.ask("GET", "/cache/huge", Range="bytes=-2").body == b"nd"


@pytest.mark.parametrize(
    ("method", "target", "body", "fields", "status"),
    [
        ("POST", "/sparse/n", b"", {}, 400),
        ("POST", "/sparse/n", b"", {"X_ElCache_Size": "0"}, 400),
        ("POST", "/sparse/n", b"", {"X_ElCache_Size": "-5"}, 400),
        ("POST", "/sparse/n", b"", {"X_ElCache_Size": str(2**63)}, 400),
        ("POST", "/sparse/n", b"x", {"X_ElCache_Size": "5"}, 400),
        ("POST", "/sparse/", b"", {"X_ElCache_Size": "5"}, 400),
        ("POST", "/sparse/k", b"", {"X_ElCache_Size": "5"}, 409),
        ("PATCH", "/sparse/n", b"x", {"Content_Range": "bytes 0-0/10"}, 404),
        ("PATCH", "/sparse/k", b"x", {}, 400),
        ("PATCH", "/sparse/k", b"", {"Content_Range": "bytes 0-0/10"}, 400),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes 0-1/10"}, 400),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes 1-0/10"}, 400),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes a-b/10"}, 400),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes */10"}, 400),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes 0-0/11"}, 416),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes 10-10/*"}, 416),
        ("PATCH", "/sparse/k", b"x", {"Content_Range": "bytes 0-0/*"}, 202),
        ("PATCH", "/sparse/k?offset=0", b"x", {"Content_Range": "bytes 0-0/10"}, 400),
        ("PUT", "/sparse/k?offset=9", b"xy", {}, 416),
        ("PUT", "/sparse/k?offset=10", b"x", {}, 416),
        ("PUT", f"/sparse/k?offset={2**64}", b"x", {}, 400),
        ("PUT", "/sparse/k?offset=-1", b"x", {}, 400),
        ("PUT", "/sparse/k?other=1", b"x", {}, 400),
        ("GET", "/sparse/n", None, {}, 404),
        ("HEAD", "/sparse/k", None, {}, 200),
        ("DELETE", "/sparse/n", None, {}, 404),
        ("DELETE", "/sparse/k", None, {}, 204),
        ("POST", "/sparse/n/finalize", b"", {}, 404),
        ("GET", "/sparse/k/finalize", None, {}, 405),
        ("TRACE", "/sparse/k", None, {}, 405),
        ("OPTIONS", "/sparse/k", None, {}, 204),
    ],
)
def test_sparse_requests(
    api: Api, method: str, target: str, body: bytes | None, fields: dict[str, str], status: int
) -> None:
    create(api)
    found = api.ask(method, target, body, **fields)
    assert found.status == status
    if status == 416:
        assert found.fields["content-range"] == "bytes */10"


def test_content_of_unknown_length_may_not_leave_its_range(api: Api) -> None:
    create(api)
    fields = [("Transfer-Encoding", "chunked"), ("Content-Range", "bytes 0-2/10")]
    head = request("PATCH", "/sparse/k", fields)
    assert api.exchange(head + b"4\r\nabcd\r\n0\r\n\r\n").status == 400
    assert api.exchange(head + b"2\r\nab\r\n0\r\n\r\n").status == 400
    assert api.exchange(head + b"3\r\nabc\r\n0\r\n\r\n").status == 202


def test_a_key_may_end_like_a_command(api: Api) -> None:
    assert create(api, "a%2Ffinalize").status == 201
    assert api.store.sparse.keys() == {b"a/finalize"}


def test_a_large_upload_streams_and_is_aborted_when_its_client_leaves(api: Api) -> None:
    data = bytes(range(256)) * 20000
    assert api.ask("PUT", "/cache/s", data, X_ElCache_TTL="9").status == 201
    assert api.store.objects[b"s"][0] == data
    assert api.store.ttls[b"s"] == 9.0
    with api.connect() as handle:
        handle.sendall(request("PUT", "/cache/s", [("Content-Length", "6000000")]) + b"x" * 100)
    bad = request("PUT", "/cache/s", [("Expect", "100-continue"), ("Transfer-Encoding", "chunked")])
    with api.connect() as handle:
        handle.sendall(bad)
        assert statuses(handle.recv(1000)) == [100]
        handle.sendall(b"1\r\nxXX")
        assert statuses(handle.recv(1000)) == [400]
    assert api.store.objects[b"s"][0] == data
    found = api.ask("GET", "/cache/s")
    assert found.body == data
    assert api.store.aborted_count == 2


def test_ranges_of_a_stream_are_read_one_after_the_other(api: Api) -> None:
    data = bytes(range(256)) * 20
    api.store.objects[b"s"] = (data, None)
    one = api.ask("GET", "/cache/s", Range="bytes=100-4099")
    assert (one.status, one.body) == (206, data[100:4100])
    several = api.ask("GET", "/cache/s", Range="bytes=0-9,1500-3499")
    assert data[1500:3500] in several.body
    head = api.ask("HEAD", "/cache/s")
    assert head.fields["content-length"] == str(len(data))
    unchanged = api.ask("GET", "/cache/s", If_None_Match=head.fields["etag"])
    assert unchanged.status == 304
    assert api.ask("PUT", "/cache/s", b"x", If_None_Match="*").status == 412
    assert all(hit.is_closed for hit in api.store.hits)
    assert len(api.store.hits) == 5


def test_a_part_of_an_unfinished_object_is_found_without_a_lookup() -> None:
    with Api(atomic_publish=True) as api:
        create(api)
        api.ask("PUT", "/sparse/k?offset=2", b"234")
        found = api.ask("GET", "/cache/k?range=3-2")
        assert (found.status, found.body) == (206, b"34")
        for value in ("bytes=1-3", "bytes=2-2,4-4", "bytes=20-"):
            assert api.ask("GET", "/cache/k", Range=value).status == 404
        assert api.ask("HEAD", "/cache/k", Range="bytes=2-3").status == 404
        assert api.ask("GET", "/cache/k").status == 404
        assert api.store.hits == []


def test_an_object_whose_head_is_in_memory_is_sent_as_the_object(tmp_path: Path) -> None:
    config = edgecache.Config(root=tmp_path / "store", memory="64MiB", disk="256MiB")
    app = HttpApp()
    store = edgecache.AsyncStorage(config)
    mount_cache_api(app, store)
    value = random.Random(3).randbytes(6 << 20)
    try:
        with Running(app) as server:
            assert server.exchange(request("PUT", "/cache/k", (), value)).status == 201
            with server.connect() as handle:
                received = answers(handle)
                for _ in range(4):
                    handle.sendall(request("GET", "/cache/k"))
                    assert next(received).body == value
                handle.sendall(request("GET", "/cache/k", [("Range", "bytes=5-9")]))
                assert next(received).body == value[5:10]
    finally:
        store.storage.close()
