"""From an entry to an answer: preconditions, ranges, framing."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

from edgecache.http.cache_api.answers import NOT_FOUND, entry_fields, validator_fields
from edgecache.http.cache_api.keys import parse_query
from edgecache.http.cache_api.store import Found
from edgecache.http.cache_api.stored import content_etag
from edgecache.http.failures import RequestError
from edgecache.http.multipart import Multipart
from edgecache.http.request import Request
from edgecache.http.response import Response, text_response
from edgecache.http.semantics import (
    Outcome,
    RangeOutcome,
    evaluate,
    if_range_holds,
    select_ranges,
)

__all__ = ["answer_found", "judge_change", "wanted_range"]

QUERY = frozenset({b"range"})
_QUERY_RANGE = re.compile(rb"([0-9]{1,19})-([0-9]{1,19})")


def wanted_range(request: Request, query: bytes | None) -> bytes | None:
    """Return the Range that a GET asks for: by the field, or by ?range=offset-length."""
    given = parse_query(query, QUERY).get(b"range")
    if request.method != b"GET":
        return None  # RFC 9110, section 14.2: only GET has ranges
    if given is None:
        lines = request.block.values.get(b"range")
        return lines[0] if lines is not None and len(lines) == 1 else None
    match = _QUERY_RANGE.fullmatch(given)
    if match is None or int(match[2]) == 0:
        raise RequestError("range is offset-length, in digits", reason="query")
    first = int(match[1])
    return b"bytes=%d-%d" % (first, first + int(match[2]) - 1)


def answer_found(request: Request, found: Found, wanted: bytes | None) -> Response:
    """Return the answer to GET or HEAD of an entry."""
    facts = found.facts
    if not facts.is_fresh:
        return _without(found, NOT_FOUND)
    etag = facts.etag or _etag_of(found)
    now_s = time.time()
    outcome = evaluate(request.get, True, etag, facts.modified_s, True, now_s)
    if outcome is Outcome.NOT_MODIFIED:
        return _without(found, Response(304, validator_fields(facts, etag)))
    if outcome is Outcome.FAILED:
        return _without(found, failed())
    fields = entry_fields(facts, etag, found.size, found.source)
    if (
        wanted is None
        or found.size is None
        or not if_range_holds(request.get(b"if-range"), etag, facts.modified_s, now_s)
    ):
        return _whole(request, found, fields)
    selected = select_ranges(wanted, found.size)
    if selected is RangeOutcome.WHOLE:
        return _whole(request, found, fields)
    if isinstance(selected, RangeOutcome):
        unsatisfied = ("Content-Range", f"bytes */{found.size}")
        return _without(found, text_response(416, "no byte of this range exists", (unsatisfied,)))
    return _ranges(found, selected, etag, fields)


def _ranges(
    found: Found, selected: list[tuple[int, int]], etag: bytes, fields: list[tuple[str, str]]
) -> Response:
    size = found.size
    assert size is not None
    if len(selected) == 1:
        ((start, end),) = selected
        fields.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        if found.hit is None:
            assert found.value is not None
            return Response(206, fields, found.value[start:end])
        body = found.parts(selected)
        return Response(206, fields, body, length=end - start, release=found.release)
    frame = Multipart(found.facts.content_type, selected, size)
    fields = entry_fields(found.facts, etag, size, found.source, frame.content_type)
    body = frame.pieces(found.parts)
    return Response(206, fields, body, length=frame.length, release=found.release)


def _whole(request: Request, found: Found, fields: list[tuple[str, str]]) -> Response:
    if found.hit is None:
        assert found.value is not None
        return Response(200, fields, found.value)
    if request.method == b"HEAD":
        return _without(found, Response(200, fields, _nothing(), length=found.size))
    body = found.parts(None)
    return Response(200, fields, body, length=found.size, release=found.release)


async def _nothing() -> AsyncIterator[bytes]:
    for _ in ():
        yield b""


def _without(found: Found, response: Response) -> Response:
    """Return an answer that needs no byte of the entry."""
    found.release()
    return response


def _etag_of(found: Found) -> bytes:
    """Return a strong tag for an entry that was stored without one."""
    if found.value is not None:
        return content_etag(found.value)
    return b"v%x-%x" % (int(str(found.version)), found.size or 0)


def failed() -> Response:
    """Return the answer to a request whose preconditions are not met."""
    return text_response(412, "a precondition is not met")


def judge_change(request: Request, found: Found | None) -> Response | None:
    """Return 412 when the preconditions of a PUT or DELETE are not met, else None."""
    exists = found is not None and found.facts.is_fresh
    etag = None
    modified_s = None
    if found is not None and exists:
        etag = found.facts.etag or _etag_of(found)
        modified_s = found.facts.modified_s
    outcome = evaluate(request.get, False, etag, modified_s, exists, time.time())
    return None if outcome is Outcome.PROCEED else failed()
