"""The answers of this door: fixed ones, the fields of entries, and what errors become."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from edgecache.errors import (
    EdgeCacheError,
    EntryExistsError,
    EntryNotFoundError,
    StoreClosedError,
    TooManyWritesError,
    ValueTooLargeError,
)
from edgecache.http.cache_api.stored import Facts
from edgecache.http.failures import ClientGoneError, RequestError
from edgecache.http.response import Response, text_response
from edgecache.http.semantics import format_date

__all__ = [
    "ALLOW",
    "ALLOWED",
    "NOT_FOUND",
    "NO_CONTENT",
    "SHED",
    "entry_fields",
    "error_for",
    "partial_fields",
    "validator_fields",
]

logger = logging.getLogger("edgecache.http")

CHUNK_BYTES = 4 << 20
ALLOW = ("Allow", "GET, PUT, POST, DELETE, HEAD, OPTIONS")
RETRY = ("Retry-After", "1")
ALLOWED = Response(204, (ALLOW, ("Accept-Ranges", "bytes")))
NO_CONTENT = Response(204)
NOT_FOUND = text_response(404, "no such entry", (("X-ElCache-Hit", "miss"),))
SHED = text_response(503, "the store has no room for it now", (RETRY,))


def validator_fields(facts: Facts, etag: bytes) -> list[tuple[str, str]]:
    """Return what a 304 and a 200 have in common."""
    fields = [("ETag", '"' + etag.decode("latin-1") + '"')]
    if facts.modified_s is not None:
        fields.append(("Last-Modified", format_date(facts.modified_s)))
    return fields


def entry_fields(
    facts: Facts, etag: bytes, size: int | None, source: str, content_type: str | None = None
) -> list[tuple[str, str]]:
    """Return the fields of an entry that is sent whole or in part."""
    fields = [
        ("Content-Type", content_type or facts.content_type),
        *validator_fields(facts, etag),
        ("Accept-Ranges", "bytes"),
        ("X-ElCache-Hit", source),
    ]
    if size is not None:
        fields.append(("X-ElCache-Size", str(size)))
        fields.append(("X-ElCache-Chunks", str(max(1, -(-size // CHUNK_BYTES)))))
    if facts.flags:
        fields.append(("X-ElCache-Flags", str(facts.flags)))
    return fields


def partial_fields(start: int, end: int, size: int) -> Iterable[tuple[str, str]]:
    """Return the fields of a range of an object that is not complete."""
    return (
        ("Content-Type", "application/octet-stream"),
        ("Content-Range", f"bytes {start}-{end - 1}/{size}"),
        ("X-ElCache-Hit", "partial"),
        ("X-ElCache-Size", str(size)),
    )


def error_for(error: EdgeCacheError) -> Response:
    """Return the answer to what the store raised."""
    if isinstance(error, (RequestError, ClientGoneError)):
        raise error
    if isinstance(error, EntryNotFoundError):
        return text_response(404, "no such object", (("X-ElCache-Hit", "miss"),))
    if isinstance(error, EntryExistsError):
        return text_response(409, "an unfinished object of this key exists")
    if isinstance(error, ValueTooLargeError):
        return text_response(413, "the content is larger than the store takes")
    if isinstance(error, (TooManyWritesError, StoreClosedError)):
        return text_response(503, "the store cannot take it now", (RETRY,))
    if isinstance(error, OSError):
        # A quota, a full or sick disk, content that was shed: a cache goes on without it.
        logger.warning("the store did not take a change: %s", error)
        return text_response(507, "the store has no room for it", (RETRY,))
    if isinstance(error, ValueError):
        return text_response(400, error.message or "the request is out of range")
    logger.error("the store failed", exc_info=error)
    return text_response(503, "the store failed", (RETRY,))
