"""/sparse/{key}: objects that are written in any order, and published when they are complete.

Everything here is a store's own: the presence map, the quota, expiry. The door checks and passes
on. Content is written as it arrives, piece by piece, and never kept whole.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from edgecache.errors import EdgeCacheError
from edgecache.http.cache_api.answers import NO_CONTENT, SHED, error_for
from edgecache.http.cache_api.keys import decode_key, parse_decimal, parse_query
from edgecache.http.cache_api.options import PutOptions, ttl_of
from edgecache.http.cache_api.stored import make_meta
from edgecache.http.cache_api.tokens import TokenRules
from edgecache.http.failures import RequestError
from edgecache.http.request import BodyReader, Request
from edgecache.http.response import Response, json_response, text_response
from edgecache.http.semantics import parse_content_range

__all__ = ["SparseDoor"]

PREFIX = b"/sparse/"
FINALIZE = b"/finalize"
SIZE_MAX = 2**63 - 1
QUERY = frozenset({b"offset"})
ALLOW = ("Allow", "POST, PATCH, PUT, GET, HEAD, DELETE, OPTIONS")
ALLOWED = Response(204, (ALLOW,))
# Holes that a status lists; a client that fills them asks again.
HOLES_MAX = 100
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")


class SparseDoor:
    """Answers requests below /sparse/.

    Args:
        store: An `AsyncStorage`. Without the object methods every answer is 501.
        tokens: Who may do what.
        prefix: Of the paths that it answers.
    """

    def __init__(self, store: Any, tokens: TokenRules, prefix: bytes = PREFIX) -> None:
        self._store = store
        self._tokens = tokens
        self._prefix = prefix
        self._is_supported = hasattr(store, "create_sparse")
        self._methods = {
            b"POST": self._create,
            b"PATCH": self._write,
            b"PUT": self._write,
            b"GET": self._status,
            b"HEAD": self._status,
            b"DELETE": self._delete,
        }

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        path, query = request.path_and_query
        raw = path[len(self._prefix) :]
        # Before decoding: a key may end with an escaped "/finalize".
        is_final = raw.endswith(FINALIZE)
        key = decode_key(raw[: -len(FINALIZE)] if is_final else raw)
        refused = self._tokens.refusal(request, self._prefix + key)
        if refused is not None:
            return refused
        if not self._is_supported:
            return text_response(501, "this store has no sparse objects")
        if request.method == b"OPTIONS":
            return ALLOWED
        method = self._methods.get(request.method)
        if is_final:
            method = self._finalize if request.method == b"POST" else None
        if method is None:
            return text_response(405, "the method is not for sparse objects", (ALLOW,))
        parameters = parse_query(query, QUERY if method == self._write else frozenset())
        return self._guard(method(request, key, parameters))

    async def _guard(self, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except EdgeCacheError as error:
            missing = getattr(error, "missing", None)
            if missing is not None:
                return self._incomplete(missing)
            return error_for(error)

    def _incomplete(self, missing: tuple[tuple[int, int], ...]) -> Response:
        holes = [list(hole) for hole in missing[:HOLES_MAX]]
        return json_response(409, {"error": "the object is incomplete", "missing": holes})

    async def _create(
        self, request: Request, key: bytes, parameters: dict[bytes, bytes]
    ) -> Response:
        value = request.get(b"x-elcache-size")
        if value is None:
            raise RequestError("X-ElCache-Size is missing", reason="options")
        size = parse_decimal(value, "X-ElCache-Size", SIZE_MAX)
        if size == 0:
            raise RequestError("X-ElCache-Size is 0", reason="options")
        if request.body is not None and await request.body.read():
            raise RequestError("an object is created without content", reason="options")
        options = PutOptions(request)
        known = await self._store.availability(key)
        if known is not None and not known.is_finalized:
            return text_response(409, "an unfinished object of this key exists")
        meta = make_meta(options.content_type, b"", options.flags)
        if not await self._store.create_sparse(key, size, meta=meta, ttl=options.ttl_s):
            return SHED
        return options.created

    async def _write(
        self, request: Request, key: bytes, parameters: dict[bytes, bytes]
    ) -> Response:
        known = await self._store.availability(key)
        if known is None or known.is_finalized:
            return text_response(404, "no unfinished object of this key")
        body = request.body
        if body is None:
            raise RequestError("the range has no content", reason="range")
        start, end = _target(request, parameters, known.size, body)
        position = start
        async for piece in body:
            if position + len(piece) > end:
                raise RequestError("there is more content than the range holds", reason="range")
            if not await self._store.write_range(key, position, piece):
                return SHED
            position += len(piece)
        if position == start:
            raise RequestError("the range has no content", reason="range")
        if request.get(b"content-range") is not None and position != end:
            raise RequestError("there is less content than the range holds", reason="range")
        known = await self._store.availability(key)
        return Response(202, () if known is None else (_completion(known),))

    async def _status(
        self, request: Request, key: bytes, parameters: dict[bytes, bytes]
    ) -> Response:
        known = await self._store.availability(key)
        if known is None:
            return text_response(404, "no object of this key")
        status = {
            "key": _text(key),
            "key_hex": key.hex(),
            "total_size": known.size,
            "present_bytes": known.present_bytes,
            "completion_percent": round(float(known.percent), 2),
            "complete": bool(known.is_complete),
            "finalized": bool(known.is_finalized),
            "missing": [list(hole) for hole in known.missing[:HOLES_MAX]],
        }
        return json_response(200, status, (_completion(known),))

    async def _finalize(
        self, request: Request, key: bytes, parameters: dict[bytes, bytes]
    ) -> Response:
        ttl_s = ttl_of(request)
        known = await self._store.availability(key)
        if known is None or known.is_finalized:
            return text_response(404, "no unfinished object of this key")
        if not known.is_complete:
            answer = self._incomplete(known.missing)
            return Response(
                409, (("Content-Type", "application/json"), _completion(known)), answer.body
            )
        size = await self._store.finalize(key, ttl=ttl_s)
        return Response(201, (("X-ElCache-Size", str(size)), ("X-ElCache-Completion", "100%")))

    async def _delete(
        self, request: Request, key: bytes, parameters: dict[bytes, bytes]
    ) -> Response:
        # Not `delete`, which leaves an unfinished object alone.
        if await self._store.purge(key):
            return NO_CONTENT
        return text_response(404, "no object of this key")


def _target(
    request: Request, parameters: dict[bytes, bytes], size: int, body: BodyReader
) -> tuple[int, int]:
    """Return where the content goes, (start, end) with end exclusive."""
    value = request.get(b"content-range")
    offset = parameters.get(b"offset")
    if (value is None) == (offset is None):
        raise RequestError("give either Content-Range or offset", reason="range")
    if offset is not None:
        start = parse_decimal(offset, "offset", SIZE_MAX)
        end = size if body.length is None else start + body.length
    else:
        assert value is not None
        parsed = parse_content_range(value)
        if parsed is None:
            raise RequestError("Content-Range is malformed", reason="range")
        start, end, total = parsed
        if total is not None and total != size:
            raise _outside(size, "Content-Range names another size")
        if body.length is not None and body.length != end - start:
            raise RequestError("Content-Range does not fit Content-Length", reason="range")
    if start >= size or end > size:
        raise _outside(size, "the range lies outside of the object")
    return start, end


def _outside(size: int, message: str) -> RequestError:
    fields = (("Content-Range", f"bytes */{size}"),)
    return RequestError(message, status=416, reason="range", fields=fields)


def _completion(known: Any) -> tuple[str, str]:
    """Return the completion, rounded down: 100% means complete."""
    percent = 100 if known.is_complete else min(99, int(known.percent))
    return ("X-ElCache-Completion", f"{percent}%")


def _text(key: bytes) -> str | None:
    """Return a key as text where it is printable text."""
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if _PRINTABLE.fullmatch(text) else None
