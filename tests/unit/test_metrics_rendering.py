"""Which format of the metrics a client gets (metrics/rendering.py)."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from edgecache.metrics.rendering import as_json, prefers_json, render

ACCEPT = {
    "": False,
    "*/*": False,
    "text/plain": False,
    "text/html": False,
    "application/json": True,
    "Application/JSON": True,
    "application/json; charset=utf-8": True,
    "application/json, */*": True,
    "*/*, application/json": True,
    "application/json;q=0.5, text/plain": False,
    "text/plain;q=0.5, application/json": True,
    "text/plain, application/json": False,
    "application/json, text/plain": True,
    "application/openmetrics-text;q=0.75,text/plain;q=0.5,application/json;q=0.9": True,
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1": False,
    "application/json;q=0": False,
    "application/json;q=x": False,
    "application/json;q=nan": False,
    ",,;;": False,
}  # fmt: skip


@pytest.mark.parametrize("accept", ACCEPT)
def test_json_is_for_those_who_ask_for_it(accept: str) -> None:
    assert prefers_json(accept) is ACCEPT[accept]


def test_every_format_has_every_sample() -> None:
    registry = CollectorRegistry()
    Counter("a", "Of a.", ["kind"], registry=registry).labels("x").inc(3)
    Gauge("b", "Of b.", registry=registry).set(float("inf"))
    metrics = json.loads(as_json(registry))["metrics"]
    assert metrics["a"]["type"] == "counter"
    assert {"name": "a_total", "labels": {"kind": "x"}, "value": 3.0} in metrics["a"]["samples"]
    assert metrics["b"]["samples"][0]["value"] is None
    for accept, kind in (
        ("application/json", "application/json"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text"),
        ("*/*", "text/plain"),
    ):
        body, content_type = render(registry, accept)
        assert content_type.startswith(kind)
        assert b"a_total" in body
