"""Sequences through a whole cache made of the rules: what a client and an origin see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import Rules
from tests.rfc9111.exchanges import headers
from tests.rfc9111.tiny_cache import Answer, TinyCache


class Origin:
    """Answers with a script, the last line of it again and again, and remembers what it was asked.

    `{now}` in a header section is the present date. Where the request's If-None-Match or
    If-Modified-Since equals the validator in the answer, it is a 304. None means: unreachable.
    """

    def __init__(self, *script: tuple[int, str] | None, body: bytes = b"0123456789") -> None:
        self.script = list(script)
        self.body = body
        self.asked: list[tuple[bytes, bytes, Headers]] = []
        self.cache = TinyCache(self)

    def __call__(self, method: bytes, target: bytes, request: Headers) -> Answer:
        line = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.asked.append((method, target, request))
        if line is None:
            raise ConnectionError
        status, text = line
        section = headers("Date: " + self.cache.date + "\n" + text)
        etag, tags = section.get(b"etag"), request.get(b"if-none-match")
        modified = section.get(b"last-modified")
        is_same = etag in tags.split(b", ") if etag and tags else (
            not tags and modified is not None and modified == request.get(b"if-modified-since")
        )  # fmt: skip
        if status == 200 and is_same:
            return Answer(304, section, b"")
        return Answer(status, section, b"" if method == b"HEAD" else self.body)


def cache_of(
    *script: tuple[int, str] | None, rules: Rules | None = None, body: bytes = b"0123456789"
) -> tuple[TinyCache, list[tuple[bytes, bytes, Headers]]]:
    origin = Origin(*script, body=body)
    if rules is not None:
        origin.cache.rules = rules
    return origin.cache, origin.asked


FRESH = (200, "Cache-Control: max-age=60")
TAGGED = (200, 'Cache-Control: max-age=60\nETag: "a"')


def test_9111_4_a_fresh_response_is_reused_with_its_age() -> None:
    cache, asked = cache_of(FRESH)
    assert cache.get().word == "miss"
    cache.sleep(5)
    answer = cache.get()
    assert (answer.word, answer.status, answer.body) == ("hit", 200, b"0123456789")
    assert answer.headers.get_all(b"age") == (b"5",)
    assert cache.get(method=b"HEAD").body == b""
    assert cache.get(b"/other").word == "miss"
    cache.sleep(55)
    assert cache.get().word == "expired"
    assert len(asked) == 3


def test_9111_4_3_a_stale_response_is_validated_and_lives_again() -> None:
    cache, asked = cache_of(
        (200, 'Cache-Control: max-age=60\nETag: "a"\nX: 1'),
        (200, 'Cache-Control: max-age=9\nETag: "a"\nX: 2'),
    )
    cache.get()
    cache.sleep(61)
    answer = cache.get()
    assert (answer.word, answer.status, answer.body) == ("revalidated", 200, b"0123456789")
    assert answer.headers.get(b"x") == b"2"
    assert asked[1][2].get(b"if-none-match") == b'"a"'
    cache.sleep(8)
    assert cache.get().headers.get(b"age") == b"8"
    cache.sleep(2)
    assert cache.get().word == "revalidated"
    assert len(asked) == 3


@pytest.mark.parametrize(
    "response",
    [
        "Cache-Control: no-store",
        "Cache-Control: private, max-age=60",
        "Cache-Control: max-age=60\nVary: *",
        "Cache-Control: max-age=60\nSet-Cookie: a=b",
        "CDN-Cache-Control: no-store\nCache-Control: max-age=60",
        "CDN-Cache-Control: max-age=0\nCache-Control: max-age=60",
        "Expires: 0",
        "",
    ],
)
def test_9111_3_what_may_not_be_stored_is_asked_for_again(response: str) -> None:
    cache, asked = cache_of((200, response))
    assert [cache.get().word, cache.get().word] == ["miss", "miss"]
    assert len(asked) == 2


def test_9111_5_2_2_4_no_cache_is_validated_every_time() -> None:
    cache, asked = cache_of((200, 'Cache-Control: no-cache, max-age=60\nETag: "a"'))
    assert [cache.get().word for _ in range(3)] == ["miss", "revalidated", "revalidated"]
    assert len(asked) == 3


def test_9111_4_1_every_variant_is_stored() -> None:
    cache, asked = cache_of((200, "Cache-Control: max-age=60\nVary: Foo"))
    words = [cache.get(request=f"Foo: {n}").word for n in (1, 2, 3, 1, 2, 3)]
    assert words == ["miss"] * 3 + ["hit"] * 3
    assert cache.get().word == "miss"
    assert len(asked) == 4


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"M-SEARCH"])
def test_9111_4_4_an_unsafe_request_goes_through_and_invalidates(method: bytes) -> None:
    cache, asked = cache_of(FRESH, FRESH, (204, "Location: /l"), FRESH)
    cache.get()
    cache.get(b"/l")
    assert cache.get(method=method).word == "bypass"
    assert [cache.get().word, cache.get(b"/l").word, cache.get().word] == ["miss", "miss", "hit"]
    assert len(asked) == 5


def test_9111_4_4_a_failed_unsafe_request_invalidates_nothing() -> None:
    cache, _ = cache_of(FRESH, (500, ""))
    cache.get()
    assert cache.get(method=b"POST").status == 500
    assert cache.get().word == "hit"


def test_9875_a_group_is_invalidated_together() -> None:
    grouped = (200, 'Cache-Control: max-age=60\nCache-Groups: "a", "b"')
    cache, _ = cache_of(grouped, FRESH, (200, 'Cache-Group-Invalidation: "b"'), FRESH)
    cache.get(b"/1")
    cache.get(b"/2")
    cache.get(b"/3", method=b"POST")
    assert [cache.get(b"/2").word, cache.get(b"/1").word] == ["hit", "miss"]


def test_5861_3_stale_while_revalidate_answers_at_once_and_refreshes() -> None:
    text = 'Cache-Control: max-age=60, stale-while-revalidate=30\nETag: "a"'
    cache, asked = cache_of((200, text))
    cache.get()
    cache.sleep(61)
    assert cache.get().word == "stale-updating"
    assert len(asked) == 1
    cache.refresh()
    assert cache.get().word == "hit"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("directives", "failure", "word", "status"),
    [
        ("max-age=60", None, "stale", 200),
        ("max-age=60, must-revalidate", None, "gateway-timeout", 504),
        ("max-age=60, proxy-revalidate", None, "gateway-timeout", 504),
        ("s-maxage=60", None, "gateway-timeout", 504),
        ("no-cache", None, "gateway-timeout", 504),
        ("max-age=60", (503, ""), "expired", 503),
        ("max-age=60, stale-if-error=60", (503, ""), "stale", 200),
        ("max-age=60, stale-if-error=60, must-revalidate", (503, ""), "expired", 503),
        ("max-age=60, stale-if-error=60", (404, ""), "expired", 404),
    ],
)
def test_9111_4_2_4_when_the_origin_fails(
    directives: str, failure: tuple[int, str] | None, word: str, status: int
) -> None:
    cache, _ = cache_of((200, f'Cache-Control: {directives}\nETag: "a"'), failure)
    cache.get()
    cache.sleep(61)
    answer = cache.get()
    assert (answer.word, answer.status) == (word, status)
    if word == "stale":
        assert answer.headers.get(b"age") == b"61"


def test_9111_4_3_2_conditions_of_the_client_are_answered_from_the_store() -> None:
    cache, asked = cache_of((200, 'Cache-Control: max-age=60\nETag: "a"\nLast-Modified: {-1000}'))
    assert cache.get(request='If-None-Match: "b"').word == "miss"
    assert asked[0][2].get(b"if-none-match") == b'"b"'  # a miss is forwarded as it is
    assert cache.get(request='If-None-Match: "b", W/"a"').status == 304
    assert cache.get(request='If-None-Match: "b"').status == 200
    assert cache.get(request="If-Modified-Since: {-1000}").status == 304
    assert cache.get(request="If-Modified-Since: {-1001}").status == 200
    assert len(asked) == 1


def test_9111_4_3_2_a_client_and_the_cache_validate_different_things() -> None:
    cache, asked = cache_of(TAGGED)
    cache.get()
    cache.sleep(61)
    answer = cache.get(request='If-None-Match: "other"')
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert asked[1][2].get(b"if-none-match") == b'"a"'
    cache.sleep(61)
    assert cache.get(request='If-None-Match: "a"').status == 304


def test_a_304_to_the_clients_own_condition_is_relayed_and_not_stored() -> None:
    cache, asked = cache_of(TAGGED)
    assert cache.get(request='If-None-Match: "a"').status == 304
    assert cache.get().word == "miss"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("range_", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=10-", 416, b""),
        ("bytes=4-2", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_9110_14_ranges_are_cut_from_a_complete_response(
    range_: str, status: int, body: bytes
) -> None:
    cache, asked = cache_of(TAGGED)
    cache.get()
    answer = cache.get(request=f"Range: {range_}")
    assert (answer.status, answer.body) == (status, body)
    assert cache.get(request=f'Range: {range_}\nIf-Range: "b"').body == b"0123456789"
    assert len(asked) == 1


def test_9111_3_3_a_stored_part_answers_the_ranges_in_it() -> None:
    part = (206, 'Cache-Control: max-age=60\nETag: "a"\nContent-Range: bytes 2-6/10')
    cache, asked = cache_of(part, body=b"23456")
    assert cache.get(request="Range: bytes=2-6").status == 206
    answer = cache.get(request="Range: bytes=3-4")
    assert (answer.word, answer.status, answer.body) == ("hit", 206, b"34")
    assert answer.headers.get(b"content-range") == b"bytes 3-4/10"
    assert len(asked) == 1
    assert cache.get(request="Range: bytes=3-7").word == "miss"
    assert cache.get().word == "miss"  # never a part without saying so


def test_9111_4_3_5_head_updates_or_invalidates() -> None:
    same = (200, 'Cache-Control: max-age=60\nETag: "a"\nX: 2\nContent-Length: 10')
    other = (200, 'Cache-Control: max-age=60\nETag: "b"')
    cache, asked = cache_of(TAGGED, same, other)
    cache.get()
    cache.sleep(61)
    # a stale response makes HEAD conditional; the answer of this origin is a 304 that updates it
    assert cache.get(method=b"HEAD").word == "revalidated"
    assert cache.get().headers.get(b"x") == b"2"
    cache.sleep(61)
    assert cache.get(method=b"HEAD").word == "expired"
    assert cache.get().word == "expired"
    assert len(asked) == 4


def test_9111_5_2_1_7_only_if_cached() -> None:
    cache, asked = cache_of(FRESH)
    request = "Cache-Control: only-if-cached"
    assert cache.get(request=request).status == 504
    cache.get()
    assert cache.get(request=request).word == "hit"
    assert len(asked) == 1


def test_9110_9_3_3_a_post_answers_later_gets() -> None:
    cache, asked = cache_of((200, "Cache-Control: max-age=60\nContent-Location: /"))
    assert cache.get(method=b"POST").word == "bypass"
    assert cache.get().word == "hit"
    assert len(asked) == 1


def test_9213_a_targeted_field_rules_here_and_is_passed_on() -> None:
    cache, asked = cache_of((200, "CDN-Cache-Control: max-age=60\nCache-Control: no-store"))
    cache.get()
    answer = cache.get()
    assert answer.word == "hit"
    assert answer.headers.get(b"cdn-cache-control") == b"max-age=60"
    assert answer.headers.get(b"cache-control") == b"no-store"
    assert len(asked) == 1


def test_9111_4_3_4_one_of_several_variants_is_validated() -> None:
    def by_foo(method: bytes, target: bytes, request: Headers) -> Answer:
        tag = b'"' + (request.get(b"foo") or b"") + b'"'
        section = headers(f"Date: {cache.date}\nCache-Control: max-age=60\nVary: Foo")
        section = section.replacing(b"etag", tag)
        is_known = tag in (request.get(b"if-none-match") or b"").split(b", ")
        return Answer(304 if is_known else 200, section, b"" if is_known else tag)

    cache = TinyCache(by_foo)
    for name in ("x", "y"):
        assert cache.get(request=f"Foo: {name}").body == f'"{name}"'.encode()
    cache.sleep(61)
    answer = cache.get(request="Foo: y")
    assert (answer.word, answer.body) == ("revalidated", b'"y"')
    assert [cache.get(request=f"Foo: {name}").word for name in "yx"] == ["hit", "revalidated"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 4.0, 30.0]),
        st.sampled_from([b"GET", b"HEAD", b"GET", b"POST"]),
        st.sampled_from(["", "Foo: 1", "Cache-Control: no-cache", "Cache-Control: max-stale=5"]),
    ),
    max_size=12,
)


@given(STEPS, st.sampled_from(["", "must-revalidate", "stale-while-revalidate=10", "no-cache"]))
def test_no_sequence_serves_what_the_origin_did_not_permit(
    steps: list[tuple[float, bytes, str]], extra: str
) -> None:
    """The body says when it was made, so that the true age of every answer is known."""
    cache = TinyCache(lambda method, target, request: Answer(404, headers(""), b""))

    def stamped(method: bytes, target: bytes, request: Headers) -> Answer:
        text = f"Cache-Control: max-age=8, {extra}\nDate: {cache.date}\nVary: Foo\n"
        text += f'ETag: W/"{cache.now_us}"'
        body = b"%d %s" % (cache.now_us, request.get(b"foo") or b"")
        return Answer(200, headers(text), b"" if method == b"HEAD" else body)

    cache.origin = stamped
    for seconds, method, request in steps:
        cache.sleep(seconds)
        answer = cache.get(request=request, method=method)
        if method == b"POST" or answer.word == "miss" or not answer.body:
            continue
        made_us, _, foo = answer.body.partition(b" ")
        age_s = (cache.now_us - int(made_us)) / 1e6
        assert foo == (b"1" if request == "Foo: 1" else b"")
        if answer.word == "hit":
            assert age_s < 8
            assert extra != "no-cache"
            assert "no-cache" not in request
            assert abs(int(answer.headers.get(b"age") or b"-9") - age_s) <= 1
        elif answer.word == "stale":
            assert "max-stale" in request
            assert age_s <= 13
            assert extra != "must-revalidate"
        elif answer.word == "stale-updating":
            assert age_s < 18  # less than 8 where a HEAD has shown that it changed
            assert extra == "stale-while-revalidate=10"
        else:
            assert age_s == 0
