"""Ranges of complete and of partial responses (RFC 9110, section 14; RFC 9111, section 3.4)."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest
from support.origin import CLOSE, Received, looped, response
from support.origin_world import World

from edgecache.proxy.partials import Partial, Partials

BODY = bytes(range(256)) * 40
SIZE = len(BODY)
FRESH = {"Cache_Control": "max-age=60", "ETag": '"v1"', "Content_Type": "x/y"}


def ranged(body: bytes = BODY, etag: str = '"v1"', **more: str) -> object:
    """An origin that serves ranges of a body, honouring If-Range."""

    def answer(asked: Received) -> bytes:
        fields = {"Cache_Control": "max-age=60", "ETag": etag, "Content_Type": "x/y", **more}
        wanted = (asked.get("range") or b"").decode()
        pin = asked.get("if-range")
        if not wanted.startswith("bytes=") or (pin is not None and pin.decode() != etag):
            return response(200, body, **fields)
        first, _, last = wanted[6:].partition("-")
        start = int(first) if first else len(body) - int(last)
        end = min(int(last), len(body) - 1) if first and last else len(body) - 1
        if start >= len(body):
            return response(416, b"", Content_Range=f"bytes */{len(body)}")
        span = f"bytes {start}-{end}/{len(body)}"
        return response(206, body[start : end + 1], Content_Range=span, **fields)

    return answer


# id: Range, status, expected slices, Content-Range
WHOLE: dict[str, tuple[str, int, slice | None, str | None]] = {
    "first bytes": ("bytes=0-9", 206, slice(0, 10), f"bytes 0-9/{SIZE}"),
    "middle": ("bytes=100-199", 206, slice(100, 200), f"bytes 100-199/{SIZE}"),
    "open": ("bytes=10000-", 206, slice(10000, SIZE), f"bytes 10000-{SIZE - 1}/{SIZE}"),
    "suffix": ("bytes=-5", 206, slice(SIZE - 5, SIZE), f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}"),
    "suffix beyond": ("bytes=-99999", 206, slice(0, SIZE), f"bytes 0-{SIZE - 1}/{SIZE}"),
    "last beyond": ("bytes=10-99999", 206, slice(10, SIZE), f"bytes 10-{SIZE - 1}/{SIZE}"),
    "beyond": ("bytes=99999-", 416, None, f"bytes */{SIZE}"),
    "suffix zero": ("bytes=-0", 416, None, f"bytes */{SIZE}"),
    "huge": ("bytes=0-99999999999999999999999", 206, slice(0, SIZE), None),
    "other unit": ("lines=0-1", 200, slice(0, SIZE), None),
    "malformed": ("bytes=5-1", 200, slice(0, SIZE), None),
    "no digits": ("bytes=a-b", 200, slice(0, SIZE), None),
    "empty": ("bytes=", 200, slice(0, SIZE), None),
    "nine ranges": ("bytes=" + ",".join(f"{n}0-{n}1" for n in range(9)), 200, slice(0, SIZE), None),
    "overlapping": ("bytes=0-100,50-200", 206, slice(0, 201), f"bytes 0-200/{SIZE}"),
}


@pytest.mark.parametrize("case", WHOLE)
@looped
async def test_ranges_are_served_from_a_complete_response(case: str) -> None:
    wanted, status, part, span = WHOLE[case]
    async with World() as world:
        world.origin.answer("/x", response(200, BODY, **FRESH))
        await world.get("/x")
        answer = await world.get("/x", Range=wanted)
        assert answer.status == status
        assert answer.body == (b"" if part is None else BODY[part])
        if span is not None:
            assert answer["content-range"] == span
        if status == 206:
            assert answer["etag"] == '"v1"'
            assert answer["content-type"] == "x/y"
        assert world.origin.count() == 1


@looped
async def test_several_ranges_come_as_multipart() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, BODY, **FRESH))
        await world.get("/x")
        answer = await world.get("/x", Range="bytes=0-9,500-509,-3")
        assert answer.status == 206
        kind, _, boundary = answer["content-type"].partition("; boundary=")
        assert kind == "multipart/byteranges"
        mark = b"--" + boundary.encode()
        before, *parts, after = answer.body.split(mark)
        assert (before, after) == (b"", b"--\r\n")
        found = []
        for part in parts:
            head, _, data = part.partition(b"\r\n\r\n")
            assert b"Content-Type: x/y" in head
            found.append((head.split(b"Content-Range: ")[1].split(b"\r\n")[0], data[:-2]))
        assert found == [
            (b"bytes 0-9/%d" % SIZE, BODY[:10]),
            (b"bytes 500-509/%d" % SIZE, BODY[500:510]),
            (b"bytes %d-%d/%d" % (SIZE - 3, SIZE - 1, SIZE), BODY[-3:]),
        ]


IF_RANGE = {'"v1"': 206, '"v2"': 200, 'W/"v1"': 200, "Mon, 01 Jan 2024 00:00:00 GMT": 206,
            "Mon, 01 Jan 2024 00:00:01 GMT": 200, "nonsense": 200}  # fmt: skip


@pytest.mark.parametrize("pin", IF_RANGE)
@looped
async def test_if_range_decides_between_part_and_whole(pin: str) -> None:
    async with World() as world:
        modified = "Mon, 01 Jan 2024 00:00:00 GMT"
        world.origin.answer("/x", response(200, BODY, Last_Modified=modified, **FRESH))
        await world.get("/x")
        answer = await world.get("/x", Range="bytes=0-9", If_Range=pin)
        assert answer.status == IF_RANGE[pin]
        assert answer.body == (BODY[:10] if answer.status == 206 else BODY)


@looped
async def test_a_range_of_what_is_not_stored_is_forwarded_and_kept() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        first = await world.get("/x", Range="bytes=100-199")
        assert (first.status, first.body) == (206, BODY[100:200])
        assert world.origin.requests[0].get("range") == b"bytes=100-199"
        inside = await world.get("/x", Range="bytes=150-159")
        assert (inside.status, inside.body, inside.word) == (206, BODY[150:160], "hit")
        assert inside["content-range"] == f"bytes 150-159/{SIZE}"
        assert world.origin.count() == 1


@looped
async def test_only_what_is_missing_is_fetched_pinned_to_the_stored_validator() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=100-199")
        await world.get("/x", Range="bytes=300-399")
        answer = await world.get("/x", Range="bytes=150-449")
        assert (answer.status, answer.body) == (206, BODY[150:450])
        fetched = [asked.get("range") for asked in world.origin.requests[2:]]
        assert fetched == [b"bytes=200-299", b"bytes=400-449"]
        assert {asked.get("if-range") for asked in world.origin.requests[2:]} == {b'"v1"'}
        again = await world.get("/x", Range="bytes=100-449")
        assert (again.body, again.word) == (BODY[100:450], "hit")


@looped
async def test_a_whole_is_completed_from_parts_and_stays() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-4999")
        answer = await world.get("/x")
        assert (answer.status, answer.body) == (200, BODY)
        assert world.origin.requests[1].get("range") == f"bytes=5000-{SIZE - 1}".encode()
        await world.settled()
        again = await world.get("/x")
        assert (again.status, again.body, again.word) == (200, BODY, "hit")
        assert again["etag"] == '"v1"'
        assert again.get("content-range") is None
        assert world.origin.count() == 2


@looped
async def test_parts_of_two_versions_are_never_joined() -> None:
    other = bytes(reversed(BODY))
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-99")
        world.origin.answer("/x", ranged(other, '"v2"'))
        answer = await world.get("/x", Range="bytes=50-199")
        assert answer.status == 206
        assert answer.body == other[50:200]
        assert answer["etag"] == '"v2"'
        again = await world.get("/x", Range="bytes=0-99")
        assert again.body == other[:100]


LYING: dict[str, bytes] = {
    "another etag": response(206, b"x" * 100, Content_Range=f"bytes 100-199/{SIZE}", ETag='"v2"',
                             Cache_Control="max-age=60"),
    "weak etag": response(206, b"x" * 100, Content_Range=f"bytes 100-199/{SIZE}", ETag='W/"v1"',
                          Cache_Control="max-age=60"),
    "no etag": response(206, b"x" * 100, Content_Range=f"bytes 100-199/{SIZE}",
                        Cache_Control="max-age=60"),
    "another size": response(206, b"x" * 100, Content_Range=f"bytes 100-199/{SIZE + 1}",
                             **FRESH),
    "another place": response(206, b"x" * 100, Content_Range=f"bytes 101-200/{SIZE}", **FRESH),
    "more than asked": response(206, b"x" * 200, Content_Range=f"bytes 100-299/{SIZE}", **FRESH),
    "no content-range": response(206, b"x" * 100, **FRESH),
}  # fmt: skip


@pytest.mark.parametrize("case", LYING)
@looped
async def test_a_part_that_does_not_fit_is_not_joined_to_what_is_stored(case: str) -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-99")
        world.origin.answer("/x", LYING[case], ranged())
        answer = await world.get("/x", Range="bytes=0-199")
        assert answer.status in (200, 206)
        assert answer.body == (BODY if answer.status == 200 else BODY[:200])


@looped
async def test_parts_without_a_strong_validator_are_not_completed() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged(etag='W/"v1"'))
        await world.get("/x", Range="bytes=0-99")
        answer = await world.get("/x", Range="bytes=50-199")
        assert answer.body == BODY[50:200]
        assert world.origin.requests[1].get("range") == b"bytes=50-199"


@looped
async def test_a_length_that_contradicts_the_range_is_passed_and_not_stored() -> None:
    async with World() as world:
        short = response(206, b"x" * 50, Content_Range=f"bytes 0-99/{SIZE}", **FRESH)
        world.origin.answer("/x", short, ranged())
        assert (await world.get("/x", Range="bytes=0-99")).body == b"x" * 50
        assert (await world.get("/x", Range="bytes=0-99")).body == BODY[:100]


@looped
async def test_a_200_to_a_range_is_stored_whole_and_the_range_cut_out_of_it() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, BODY, **FRESH))
        answer = await world.get("/x", Range="bytes=10-19")
        assert (answer.status, answer.body) == (206, BODY[10:20])
        again = await world.get("/x")
        assert (again.status, again.body, again.word) == (200, BODY, "hit")


@looped
async def test_a_cut_answer_keeps_its_beginning_and_fetches_the_rest() -> None:
    async with World() as world:
        head = response(200, b"", length=SIZE, **FRESH)
        world.origin.answer("/x", [head + BODY[:4000], CLOSE], ranged())
        first = await world.get("/x")
        assert not first.is_complete
        assert BODY.startswith(first.body)
        await world.settled()
        answer = await world.get("/x")
        assert (answer.status, answer.body) == (200, BODY)
        assert world.origin.requests[1].get("range") == f"bytes=4000-{SIZE - 1}".encode()
        assert world.origin.requests[1].get("if-range") == b'"v1"'


@looped
async def test_a_416_of_the_origin_is_passed() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        answer = await world.get("/x", Range="bytes=99999-")
        assert (answer.status, answer["content-range"]) == (416, f"bytes */{SIZE}")


@looped
async def test_ranges_of_large_streamed_and_stored_objects() -> None:
    big = b"".join(b"%09d\n" % number for number in range(900_000))
    async with World(store={"memory": "256MiB"}) as world:
        world.origin.answer("/x", response(200, big, **FRESH))
        first = await world.get("/x")
        assert first.body == big
        for start, end in ((0, 10), (5_000_000, 6_000_000), (len(big) - 7, len(big))):
            answer = await world.get("/x", Range=f"bytes={start}-{end - 1}")
            assert (answer.status, answer.body) == (206, big[start:end])
        many = await world.get("/x", Range="bytes=0-9,8000000-8000009")
        assert big[8_000_000:8_000_010] in many.body
        assert world.origin.count() == 1


@looped
async def test_a_purge_removes_parts() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-99")
        purged = await world.ask("/x", "PURGE")
        assert (purged.status, purged["x-purged-count"]) == (200, "1")
        await world.get("/x", Range="bytes=0-99")
        assert world.origin.count() == 2


@looped
async def test_head_of_a_partial_response_tells_the_whole_size() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-99")
        head = await world.ask("/x", "HEAD")
        assert (head.status, head["content-length"]) == (200, str(SIZE))


class _Interleaved:
    """The store of a proxy; before or after one of its calls something else happens, once."""

    def __init__(self, store: object, name: str, event: object, is_before: bool) -> None:
        self._store = store
        self._name = name
        self._event = event
        self._is_before = is_before
        self.count = 0

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        if name != self._name or self.count:
            return found

        async def call(*args: object, **options: object) -> object:
            self.count += 1
            if self._is_before:
                await self._event()  # type: ignore[operator]
                return await found(*args, **options)
            result = await found(*args, **options)
            await self._event()  # type: ignore[operator]
            return result

        return call


@looped
async def test_parts_that_are_completed_after_a_request_found_them_stay_for_it() -> None:
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-4999")
        library = world.proxy._library
        is_completed = asyncio.Event()
        make_whole = Partials.complete

        async def noted(self: Partials, partial: Partial) -> bool:
            is_whole = await make_whole(self, partial)
            is_completed.set()
            return is_whole

        async def complete() -> None:
            with patch.object(Partials, "complete", noted):
                assert (await world.get("/x")).body == BODY
                await is_completed.wait()
            assert await library.load(b"http://example.org:80/x") is not None

        library.store = store = _Interleaved(library.store, "availability", complete, False)
        answer = await world.get("/x", Range="bytes=100-199")
        assert store.count == 1
        assert answer.is_complete
        assert (answer.status, answer.body) == (206, BODY[100:200])
        library.store = world.store
        await world.settled()
        assert (await world.get("/x")).word == "hit"
        assert world.origin.count() == 2


# id: what takes the place of the parts between plan and reading, whether the answer is whole
REPLACED: dict[str, tuple[object, bool]] = {
    "the same representation": (response(200, BODY, **FRESH), True),
    "another tag": (response(200, BODY, **(FRESH | {"ETag": '"v2"'})), False),
    "a weak tag": (response(200, BODY, **(FRESH | {"ETag": 'W/"v1"'})), False),
    "another size": (response(200, BODY + b"!", **FRESH), False),
    "nothing": (None, False),
}


@pytest.mark.parametrize("case", REPLACED)
@looped
async def test_parts_that_went_are_read_of_the_whole_that_took_their_place(case: str) -> None:
    whole, is_served = REPLACED[case]
    async with World() as world:
        world.origin.answer("/x", ranged())
        await world.get("/x", Range="bytes=0-4999")
        library = world.proxy._library

        async def replace() -> None:
            """As another process that shares the store does: without heed of our pins."""
            partial = await world.proxy._service._parts._partials.find(b"http://example.org:80/x")
            assert partial is not None
            if whole is not None:
                world.origin.answer("/x", whole)
                await world.get("/x", Cache_Control="no-cache")
            await world.store.purge(partial.key)

        library.store = store = _Interleaved(library.store, "read_range", replace, True)
        if is_served:
            answer = await world.get("/x", Range="bytes=100-199")
            assert (answer.status, answer.body) == (206, BODY[100:200])
        else:  # no byte of the answer was sent: the connection closes, nothing wrong is served
            with pytest.raises(asyncio.IncompleteReadError):
                await world.get("/x", Range="bytes=100-199")
        assert store.count == 1
        library.store = world.store
