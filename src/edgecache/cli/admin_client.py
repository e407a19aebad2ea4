"""The client of the admin API that the commands use."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any
from urllib.parse import urlsplit

from edgecache.cli.console import CommandError

DEFAULT_ADMIN = "http://127.0.0.1:14000"
TOKEN_VARIABLE = "EDGECACHE_ADMIN_TOKEN"
TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 16 << 20


class AdminClient:
    """Ask one admin listener.

    Args:
        url: http://host:port or https://host:port.
        token: Sent as Bearer; by default what EDGECACHE_ADMIN_TOKEN says.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url!r} is no admin URL", hint=f"write it as {DEFAULT_ADMIN}")
        self._parts = parts
        self._token = os.environ.get(TOKEN_VARIABLE) if token is None else token

    def get(self, path: str) -> Any:
        """GET a JSON document."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: object = None) -> Any:
        """POST JSON and return the JSON answer."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: object) -> Any:
        status, document = self._exchange(method, path, body)
        if status >= 400 and not (status == 503 and "status" in document):
            message = document.get("message") or document.get("detail") or document
            hint = f"set {TOKEN_VARIABLE} or --token" if status == 401 else ""
            raise CommandError(f"the server answered {status}: {message}", hint=hint)
        return document

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, Any]:
        parts = self._parts
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        payload = None
        if body is not None:
            payload = json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read(ANSWER_BYTES_MAX) or b"{}")
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                f"no answer from the admin listener {parts.netloc}: {error}",
                hint="is `edgecache serve` running? --admin names another listener",
            ) from error
        except ValueError as error:
            raise CommandError(
                f"{parts.netloc} does not answer as an admin listener: {error}",
                hint="--admin names the admin port, 14000 by default",
            ) from error
        finally:
            connection.close()
