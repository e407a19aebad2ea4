"""Metrics as Prometheus text, OpenMetrics or JSON, by what a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

JSON_TYPE = "application/json"
_TEXT_TYPES = ("text/plain", "application/openmetrics-text")


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    for member in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    weight = min(1.0, max(0.0, float(value)))
                except ValueError:
                    weight = 0.0
        if kind:
            yield kind, 0.0 if math.isnan(weight) else weight


def prefers_json(accept: str) -> bool:
    """Say whether a client wants JSON rather than text: it names it, and no text type before it.

    A wildcard is text: that is what Prometheus and curl get. Of equal weights the first counts.
    """
    best, best_weight = "", 0.0
    for kind, weight in _weights(accept):
        if kind in (JSON_TYPE, *_TEXT_TYPES) and weight > best_weight:
            best, best_weight = kind, weight
    return best == JSON_TYPE


def as_json(registry: CollectorRegistry) -> bytes:
    """Return all families of a registry as JSON; what is no number in JSON is null."""
    families = {
        family.name: {
            "type": family.type,
            "help": family.documentation,
            "samples": [
                {
                    "name": sample.name,
                    "labels": sample.labels,
                    "value": sample.value if math.isfinite(sample.value) else None,
                }
                for sample in family.samples
            ],
        }
        for family in registry.collect()
    }
    return json.dumps({"metrics": families}).encode()


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their content type."""
    if prefers_json(accept):
        return as_json(registry), JSON_TYPE
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
