"""The admin API over a server that is not ready, or whose purges fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from edgecache.api import PurgeOrder, create_application
from edgecache.api.application import is_foreign
from edgecache.errors import ArgumentError, StoreClosedError


class Starting:
    """A server that is opening its cache."""

    store: Any = None
    is_draining = False

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def configuration(self) -> Mapping[str, Any]:
        return {}

    async def health(self) -> Mapping[str, Any]:
        return {"status": "starting", "recovery": {"done": 3, "total": 9}}

    async def purge(self, order: PurgeOrder) -> int:
        raise AssertionError("there is nothing to purge")

    async def refresh(self) -> None:
        pass

    def set_log_level(self, level: str) -> None:
        logging.getLogger("edgecache").setLevel(level.upper())


class Failing(Starting):
    """A server whose store was closed, or that refuses an order."""

    store = object()

    async def health(self) -> Mapping[str, Any]:
        return {"status": "failing", "reasons": [{"name": "disk", "detail": "EIO"}]}

    async def purge(self, order: PurgeOrder) -> int:
        if order.soft:
            raise ArgumentError("no", hint="purge hard")
        raise StoreClosedError("closed")


def ask(control: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_application(control))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, json=body)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 503),
        ("GET", "/api/ready", 503),
        ("GET", "/health", 503),
        ("GET", "/api/version", 200),
        ("GET", "/metrics", 200),
        ("GET", "/api/cache/stats", 503),
        ("POST", "/api/cache/clear", 503),
        ("POST", "/api/purge", 503),
    ],
)
def test_a_server_that_opens_its_cache_says_so(method: str, path: str, status: int) -> None:
    body = {"key": "a"} if path.endswith("purge") else None
    assert ask(Starting(), method, path, body).status_code == status


def test_the_progress_of_recovery_is_in_health() -> None:
    answer = ask(Starting(), "GET", "/health").json()
    assert answer["status"] == "starting"
    assert answer["recovery"] == {"done": 3, "total": 9}


def test_a_draining_server_is_alive_and_not_ready() -> None:
    control = Failing()
    control.is_draining = True
    assert ask(control, "GET", "/livez").status_code == 200
    answer = ask(control, "GET", "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "draining")


def test_failures_are_statuses_with_a_sentence() -> None:
    assert ask(Failing(), "GET", "/health").status_code == 503
    answer = ask(Failing(), "POST", "/api/purge", {"key": "a"})
    assert (answer.status_code, answer.json()["error"]) == (503, "StoreClosedError")
    answer = ask(Failing(), "POST", "/api/purge", {"key": "a", "soft": True})
    assert (answer.status_code, answer.json()["error"]) == (400, "ArgumentError")
    assert "purge hard" in answer.json()["message"]


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"host": "127.0.0.1:14000"}, False),
        ({"host": "LOCALHOST"}, False),
        ({"host": "[::1]:14000", "origin": "http://[::1]:3000"}, False),
        ({}, False),
        ({"host": "localhost.evil.example"}, True),
        ({"host": "127.0.0.1:14000", "origin": "https://evil.example"}, True),
        ({"host": "127.0.0.1:14000", "origin": "null"}, True),
        ({"host": "evil.example", "origin": "http://evil.example"}, True),
    ],
)
def test_only_pages_of_this_machine_are_let_in(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign(headers) is foreign
