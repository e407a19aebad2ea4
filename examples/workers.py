"""One cache for all workers of a web server.

    EDGECACHE_ROOT=cache uvicorn --workers 4 workers:app
    EDGECACHE_ROOT=cache gunicorn --workers 4 workers:wsgi
    EDGECACHE_ROOT=cache gunicorn --preload --workers 4 workers:wsgi

Every worker opens the same root with `shared=True`, or inherits the store from a process that was
forked (`--preload`): a child joins by itself. Requests: GET /key, PUT /key, GET / (statistics).
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import edgecache

store = edgecache.open(
    os.environ.get("EDGECACHE_ROOT", "cache"), memory="64MiB", disk="1GiB", shared=True
)


def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    key = path.lstrip("/")
    if not key:
        counters = store.counters()
        names = ("processes", "puts", "memory_hits", "front_hits", "disk_hits", "misses")
        facts = {name: counters[name] for name in names}
        return 200, json.dumps({"pid": os.getpid(), **facts}).encode()
    if method == "PUT":
        return (204 if store.put(key, body) else 503), b""
    value = store.get(key)
    return (404, b"") if value is None else (200, value)


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The application for gunicorn."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, content = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
    start_response(f"{status} ", [("Content-Length", str(len(content)))])
    return [content]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The application for uvicorn."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    status, content = answer(scope["method"], scope["path"], body)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": content})
