"""The admin REST API: health, metrics, statistics, purges, log level.

Invariants:

1. Nothing but /livez, /readyz, /health and their /api twins answers without the token, when there
   is one.
2. Every purge returns the exact number of entries that it met.
3. Without a token, a web page of another site is refused (see `is_foreign`).
4. What a route returns is what the server is in: no constant stands for a state.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import logging
import platform
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from edgecache._version import __version__
from edgecache.api.control import Control, PurgeOrder
from edgecache.errors import EdgeCacheError, StoreClosedError
from edgecache.metrics.rendering import render

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage

__all__ = ["create_application"]

LEVELS = ("debug", "info", "warning", "error", "critical")
KEY_BYTES_MAX = 8192
TAG_BYTES_MAX = 255
ENCODED_MAX = 3 * KEY_BYTES_MAX
"""Characters of a key, each of its bytes as a percent-escape."""
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/api/health", "/api/ready"})


class RequestError(Exception):
    """A request that cannot be served: status, word and sentence."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


class PurgeRequest(BaseModel):
    """What POST /api/purge takes: one target.

    `encoding` says how `key`, `prefix` and `tag` stand for bytes: as the UTF-8 of the text, with
    percent-escapes as in a path of the cache API, or in Base64.
    """

    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(None, min_length=1, max_length=ENCODED_MAX)
    prefix: str | None = Field(None, min_length=1, max_length=ENCODED_MAX)
    tag: str | None = Field(None, min_length=1, max_length=1024)
    url: str | None = Field(None, min_length=1, max_length=16384)
    encoding: Literal["text", "percent", "base64"] = "text"
    everything: bool = False
    soft: bool = False

    def order(self) -> PurgeOrder:
        """Return it as the server takes it.

        Raises:
            RequestError: A target is not in its encoding, or too long.
        """
        return PurgeOrder(
            key=self._bytes("key", self.key, KEY_BYTES_MAX),
            prefix=self._bytes("prefix", self.prefix, KEY_BYTES_MAX),
            tag=self._tag(),
            url=self.url,
            everything=self.everything,
            soft=self.soft,
        )

    def _bytes(self, name: str, text: str | None, size_max: int) -> bytes | None:
        if text is None:
            return None
        try:
            found = decode_text(text, self.encoding)
        except ValueError as error:
            message = f"{name} is not in the encoding {self.encoding!r}: {error}"
            raise RequestError(422, "encoding", message) from None
        if not 0 < len(found) <= size_max:
            raise RequestError(422, "size", f"{name} is not 1 to {size_max} bytes")
        return found

    def _tag(self) -> str | None:
        """Return the tag; those that came as bytes of a field are known as Latin-1."""
        if self.encoding == "text":
            self._bytes("tag", self.tag, TAG_BYTES_MAX)
            return self.tag
        found = self._bytes("tag", self.tag, TAG_BYTES_MAX)
        return None if found is None else found.decode("latin-1")


def decode_text(text: str, encoding: str) -> bytes:
    """Return the bytes that a text stands for.

    Args:
        text: The text.
        encoding: "text" (its UTF-8), "percent" (the same, percent-escapes decoded once) or
            "base64" (RFC 4648, section 4, with its padding).

    Raises:
        ValueError: The text is not in this encoding.
    """
    if encoding == "base64":
        return base64.b64decode(text, validate=True)
    data = text.encode()
    if encoding == "percent":
        if _BAD_ESCAPE.search(data):
            raise ValueError("a percent sign begins no escape")
        data = unquote_to_bytes(data)
    return data


def create_application(control: Control, token: str | None = None) -> FastAPI:
    """Return the ASGI application of the admin plane.

    Args:
        control: The server.
        token: What `Authorization: Bearer` must carry; None: everybody who reaches it may.
    """
    application = FastAPI(
        title="edgecache admin", version=__version__, docs_url=None, redoc_url=None
    )
    _guard(application, token)
    _add_health(application, control)
    _add_metrics(application, control)
    _add_cache(application, control)
    _add_settings(application, control)
    return application


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Say whether a request may come from a web page in a browser on this machine.

    Without a token the listener trusts who reaches it, and a browser reaches the loopback for every
    page that it shows: an Origin of another host is such a page, a Host that is a name other than
    localhost may be a name that was pointed here (DNS rebinding).
    """
    host = split_host(headers.get("host", ""))
    origin = headers.get("origin")
    if origin is not None and split_host(origin.partition("://")[2]) != host:
        return True
    if host in ("", "localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def split_host(authority: str) -> str:
    """Return the host of "host:port" or "[v6]:port", in lower case."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def _guard(application: FastAPI, token: str | None) -> None:
    wanted = b"" if token is None else b"Bearer " + token.encode()

    @application.middleware("http")
    async def check_token(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if token is not None and request.url.path in _OPEN_PATHS:
            pass
        elif token is not None:
            given = request.headers.get("authorization", "").strip().encode()
            if not hmac.compare_digest(given, wanted):
                return JSONResponse(
                    {"error": "unauthorized", "message": "send the admin token as Bearer"},
                    401,
                    {"WWW-Authenticate": 'Bearer realm="edgecache admin"'},
                )
        elif token is None and is_foreign(request.headers):
            return JSONResponse(
                {"error": "foreign", "message": "web pages of other sites may not use this API"},
                403,
            )
        response = await answer(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    @application.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"error": error.error, "message": str(error)}, error.status)

    @application.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Say where the fault is; what was sent is not echoed: it may be no text at all."""
        faults = [
            {"place": [str(part) for part in each["loc"]], "message": each["msg"]}
            for each in error.errors()
        ]
        text = "; ".join(f"{'.'.join(each['place'])}: {each['message']}" for each in faults)
        body = json.dumps({"error": "invalid", "message": text, "faults": faults})
        return Response(body, 422, media_type="application/json")  # ASCII whatever was sent

    @application.exception_handler(EdgeCacheError)
    async def fail(_: Request, error: EdgeCacheError) -> JSONResponse:
        status = 503 if isinstance(error, StoreClosedError) else 400
        return JSONResponse({"error": type(error).__name__, "message": str(error)}, status)


def _add_health(application: FastAPI, control: Control) -> None:
    @application.get("/livez")
    async def livez() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "alive"}

    @application.get("/readyz")
    @application.get("/api/ready")
    async def readyz() -> JSONResponse:
        """Say whether traffic should be sent here."""
        if control.is_draining:
            return JSONResponse({"ready": False, "reason": "draining"}, 503)
        if control.store is None:
            return JSONResponse({"ready": False, "reason": "the cache is being opened"}, 503)
        return JSONResponse({"ready": True})

    @application.get("/health")
    @application.get("/api/health")
    async def health() -> JSONResponse:
        """Judge the cache, its disk, its engine and its upstreams."""
        report = dict(await control.health())
        bad = report.get("status") in ("failing", "starting")
        return JSONResponse({**report, "version": __version__}, 503 if bad else 200)

    @application.get("/api/version")
    async def version() -> dict[str, str]:
        """Name the version of the program and of Python."""
        return {"version": __version__, "python": platform.python_version()}


def _add_metrics(application: FastAPI, control: Control) -> None:
    @application.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Return all metrics as Prometheus text, OpenMetrics or JSON, by Accept."""
        body, content_type = render_metrics(control, request.headers.get("accept", ""))
        return Response(body, media_type=content_type, headers={"Vary": "Accept"})


def render_metrics(control: Control, accept: str) -> tuple[bytes, str]:
    """Return the metrics of the process and their content type."""
    return render(control.registry, accept)


def _opened(control: Control) -> AsyncStorage:
    store = control.store
    if store is None:
        raise RequestError(503, "starting", "the cache is being opened; try again")
    return store


def _add_cache(application: FastAPI, control: Control) -> None:
    @application.get("/api/cache/stats")
    async def stats() -> dict[str, Any]:
        """Return the statistics of the engine."""
        return dict(await _opened(control).stats())

    @application.get("/api/http/stats")
    async def http_stats() -> dict[str, Any]:
        """Return what the data plane counts: requests, answers, refusals, latencies by door."""
        return dict(control.http())

    @application.post("/api/cache/clear")
    async def clear() -> dict[str, int | bool]:
        """Delete everything, durably; the number of entries there were."""
        _opened(control)
        return {"cleared": True, "purged": await control.purge(PurgeOrder(everything=True))}

    @application.post("/api/purge")
    async def purge(wanted: PurgeRequest) -> dict[str, int | bool]:
        """Purge by key, prefix, tag or URL, or everything; the exact number of entries."""
        order = wanted.order()
        if order.target_count != 1:
            raise RequestError(
                422, "one_target", "name exactly one of key, prefix, tag, url, everything"
            )
        _opened(control)
        return {"purged": await control.purge(order), "soft": order.soft}


def _add_settings(application: FastAPI, control: Control) -> None:
    @application.get("/api/config")
    async def configuration() -> dict[str, Any]:
        """Return the settings in use; secrets are shown as "***"."""
        return dict(control.configuration())

    @application.get("/api/config/logging")
    async def log_level() -> dict[str, str]:
        """Return the level of the log."""
        level = logging.getLogger("edgecache").getEffectiveLevel()
        return {"level": logging.getLevelName(level).lower()}

    @application.put("/api/config/logging/{level}")
    async def set_log_level(level: str) -> dict[str, str]:
        """Change the level of the log, at once and until the next reload or start."""
        if level not in LEVELS:
            raise RequestError(400, "invalid_level", f"use one of {', '.join(LEVELS)}")
        logging.getLogger("edgecache").setLevel(level.upper())
        return {"level": level}
