"""A server that is restarted goes on with what it had in memory, alone or with workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.serving import Served, exchange

from edgecache.warm import forget_warm


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_begins_warm(workers: int, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    config: dict[str, Any] = {
        "cache": {"root": root, "memory": "16MiB", "disk": "64MiB", "keep_warm": True},
        "workers": workers,
        "drain_s": 10,
    }
    try:
        with Served(tmp_path, config) as server:
            for number in range(50):
                answer = exchange(server.url, f"/cache/k{number}", "PUT", b"v%d" % number)
                assert answer.status in (200, 201, 204)
            assert server.stop() == 0, server.log
        with Served(tmp_path, config) as server:
            assert "edge_cache_recovery_warm 1.0" in metrics_of(server)
            for number in range(50):
                answer = exchange(server.url, f"/cache/k{number}")
                assert (answer.status, answer.body) == (200, b"v%d" % number)
            assert server.stop() == 0, server.log
    finally:
        forget_warm(root)


def metrics_of(server: Served) -> str:
    return exchange(server.metrics, "/metrics").body.decode()
