"""/cache/{key}: one entry is one resource.

Invariants:

1. An entry that RAM holds is answered without suspending, and so is a PUT whose content came with
   its header.
2. The validators, the type and the bytes of an answer belong to one version of the entry.
3. A PUT is published whole or not at all; the entry before it serves until then.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from edgecache.errors import EdgeCacheError
from edgecache.http._head import plain_rest
from edgecache.http.cache_api.answers import (
    ALLOW,
    ALLOWED,
    NO_CONTENT,
    NOT_FOUND,
    SHED,
    entry_fields,
    error_for,
    partial_fields,
)
from edgecache.http.cache_api.keys import KEY_BYTES_MAX, decode_key
from edgecache.http.cache_api.options import PutOptions
from edgecache.http.cache_api.reading import answer_found, judge_change, wanted_range
from edgecache.http.cache_api.store import PIECE_BYTES, EntryStore
from edgecache.http.cache_api.stored import content_etag, facts_of, make_meta
from edgecache.http.cache_api.tokens import TokenRules
from edgecache.http.failures import RequestError
from edgecache.http.request import BodyReader, Request
from edgecache.http.response import Response, text_response
from edgecache.http.semantics import RangeOutcome, select_ranges
from edgecache.meta import FRESH_FOREVER, Meta

if TYPE_CHECKING:
    from edgecache import Blob

__all__ = ["ObjectDoor"]

PREFIX = b"/cache/"
# Rendered heads of entries, by their meta; emptied when it is full.
HEADS_MAX = 4096
# A larger value is hashed and stored in pieces, so that other connections get their turn.
INLINE_BYTES_MAX = 1 << 20


class ObjectDoor:
    """Answers requests below /cache/.

    Args:
        entries: The adapter of the store.
        tokens: Who may do what.
        prefix: Of the paths that it answers.
    """

    def __init__(self, entries: EntryStore, tokens: TokenRules, prefix: bytes = PREFIX) -> None:
        self._entries = entries
        self._peek_entry = entries.peek_entry
        self._tokens = tokens
        self._prefix = prefix
        self._skip = len(prefix)
        self._is_open = not tokens
        self._heads: dict[bytes, tuple[int, bytes]] = {}
        self._methods = {
            b"GET": self._get,
            b"HEAD": self._get,
            b"PUT": self._put,
            b"POST": self._put,
            b"DELETE": self._delete,
        }

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        try:
            return self._answer(request)
        except EdgeCacheError as error:
            return error_for(error)

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        if request.method == b"GET" and not request.block.has_conditions:
            answer = self.instant(request.target)
            if isinstance(answer, tuple):
                return Response.ready(200, answer[0], bytes(answer[1]))
            if answer is not None:
                return answer
        return self._route(request)

    def instant(self, target: bytes) -> tuple[bytes, bytes | Blob] | Response | None:
        """Return the answer to a plain GET that RAM can give; None: take the long way."""
        key = plain_rest(target, self._prefix, KEY_BYTES_MAX)
        if key is None or not self._is_open:
            return None
        found = self._peek_entry(key)
        if found is None:
            return NOT_FOUND if self._entries.is_certain else None
        if found is NotImplemented:  # on the disk, or the head of an object
            return None
        value, encoded, _, _, _ = found
        known = self._heads.get(encoded)
        if known is not None and known[0] == len(value):
            return known[1], value
        value = bytes(value)
        facts = facts_of(Meta.decode(encoded) if encoded else None)
        etag = facts.etag
        if not facts.is_fresh:
            return NOT_FOUND
        fields = entry_fields(facts, etag or content_etag(value), len(value), "memory")
        answer = Response(200, fields, value)
        is_small = len(value) <= PIECE_BYTES
        if is_small and etag is not None and facts.fresh_until == FRESH_FOREVER:
            # The head follows from meta and size alone, and so does that it may be served.
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[encoded] = (len(value), answer.head)
        return answer

    def _route(self, request: Request) -> Response | Awaitable[Response]:
        path, query = request.path_and_query
        key = decode_key(path[self._skip :])
        refused = self._tokens.refusal(request, self._prefix + key)
        if refused is not None:
            return refused
        if request.method == b"OPTIONS":
            return ALLOWED
        method = self._methods.get(request.method)
        if method is None:
            return text_response(405, "the method is not for entries", (ALLOW,))
        return method(request, key, query)

    # Reading

    def _get(
        self, request: Request, key: bytes, query: bytes | None
    ) -> Response | Awaitable[Response]:
        wanted = wanted_range(request, query)
        is_known, found = self._entries.find_now(key)
        if not is_known:
            return self._guard(self._find_later(request, key, wanted))
        if found is not None:
            return answer_found(request, found, wanted)
        if wanted is not None and self._entries.has_partials:
            return self._guard(self._partial(request, key, wanted))
        return NOT_FOUND

    async def _guard(self, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except EdgeCacheError as error:
            return error_for(error)

    async def _find_later(self, request: Request, key: bytes, wanted: bytes | None) -> Response:
        found = await self._entries.find(key)
        if found is not None:
            return answer_found(request, found, wanted)
        return await self._partial(request, key, wanted)

    async def _partial(self, request: Request, key: bytes, wanted: bytes | None) -> Response:
        """Answer a range of an object that is not complete, if all of the range is there."""
        if wanted is None or request.method != b"GET":
            return NOT_FOUND
        known = await self._entries.partial(key)
        if known is None or request.block.values.get(b"if-range"):
            return NOT_FOUND
        selected = select_ranges(wanted, known.size)
        if isinstance(selected, RangeOutcome) or len(selected) > 1:
            return NOT_FOUND
        ((start, end),) = selected
        if not any(low <= start and end <= high for low, high in known.ranges):
            return NOT_FOUND
        body = self._entries.partial_pieces(key, start, end)
        return Response(206, partial_fields(start, end, known.size), body, length=end - start)

    # Writing

    def _put(
        self, request: Request, key: bytes, query: bytes | None
    ) -> Response | Awaitable[Response]:
        if query:
            raise RequestError("a PUT has no parameters", reason="query")
        if request.get(b"content-range") is not None:
            # RFC 9110, section 14.5: a partial PUT that is taken for a whole one destroys data.
            raise RequestError("Content-Range is for /sparse/", reason="content_range")
        options = PutOptions(request)
        value = b"" if request.body is None else request.body.whole()
        if value is None or len(value) > INLINE_BYTES_MAX:
            return self._put_later(request, key, options, value)
        if request.block.has_conditions:
            is_known, found = self._entries.find_now(key)
            if not is_known:
                return self._put_later(request, key, options, value)
            refused = judge_change(request, found)
            if refused is not None:
                return refused
        meta = make_meta(options.content_type, content_etag(value), options.flags)
        try:
            stored = self._entries.try_put(key, value, ttl=options.ttl_s, meta=meta)
        except EdgeCacheError as error:
            return error_for(error)
        if stored is None:  # it would wait for the disk
            return self._put_later(request, key, options, value)
        return options.created if stored else SHED

    async def _check(self, request: Request, key: bytes) -> Response | None:
        if not request.block.has_conditions:
            return None
        found = await self._entries.find(key)
        try:
            return judge_change(request, found)
        finally:
            if found is not None:
                found.release()

    async def _put_later(
        self, request: Request, key: bytes, options: PutOptions, value: bytes | None
    ) -> Response:
        try:
            refused = await self._check(request, key)
            if refused is not None:
                return refused
            body = request.body
            if value is None and body is not None:
                if body.length is None or body.length > INLINE_BYTES_MAX:
                    return await self._stream(request, key, options, body)
                value = await body.read_all(INLINE_BYTES_MAX)
                # Somebody may have changed the entry while the content came in.
                refused = await self._check(request, key)
                if refused is not None:
                    return refused
            value = value or b""
            meta = make_meta(options.content_type, content_etag(value), options.flags)
            stored = await self._entries.put(key, value, options.ttl_s, meta)
        except EdgeCacheError as error:
            return error_for(error)
        return options.created if stored else SHED

    async def _stream(
        self, request: Request, key: bytes, options: PutOptions, body: BodyReader
    ) -> Response:
        """Write content as it arrives. Its tag is a random one: the bytes are not known yet."""
        etag = b"g" + os.urandom(16).hex().encode("ascii")
        meta = make_meta(options.content_type, etag, options.flags)
        upload = await self._entries.begin(key, meta, options.ttl_s, body.length)
        try:
            async for piece in body:
                await upload.write(piece)
            refused = await self._check(request, key)
        except BaseException:
            await upload.abort()
            raise
        if refused is not None:
            await upload.abort()
            return refused
        return options.created if await upload.finish() else SHED

    def _delete(self, request: Request, key: bytes, query: bytes | None) -> Awaitable[Response]:
        if query:
            raise RequestError("a DELETE has no parameters", reason="query")
        return self._guard(self._delete_later(request, key))

    async def _delete_later(self, request: Request, key: bytes) -> Response:
        refused = await self._check(request, key)
        if refused is not None:
            return refused
        return NO_CONTENT if await self._entries.delete(key) else NOT_FOUND
