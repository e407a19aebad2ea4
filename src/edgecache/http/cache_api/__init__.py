"""The cache API: entries and sparse objects over HTTP. docs/http-api.md is its contract.

app = HttpApp()
mount_cache_api(app, store, tokens=[TokenRule("secret", b"/cache/tenant1/")])
server = HttpServer(app)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgecache.http.cache_api.objects import ObjectDoor
from edgecache.http.cache_api.observe import ObserveDoor
from edgecache.http.cache_api.sparse import SparseDoor
from edgecache.http.cache_api.store import adapt
from edgecache.http.cache_api.tokens import TokenRule, TokenRules

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.http.app import HttpApp
    from edgecache.http.cache_api.observe import Source

__all__ = ["TokenRule", "mount_cache_api"]


def mount_cache_api(
    app: HttpApp,
    store: AsyncStorage,
    *,
    tokens: Iterable[TokenRule] = (),
    statistics: Source = lambda: None,
    host: bytes | None = None,
) -> None:
    """Mount /cache/, /sparse/, /stats, /metrics, /health and /cluster.

    Args:
        app: Where.
        store: What is served.
        tokens: Without any, everybody may do everything.
        statistics: Returns the counters of the server that runs `app`, or None.
        host: Answer on this host only.
    """
    rules = TokenRules(tokens)
    app.mount(b"/cache/", ObjectDoor(adapt(store), rules), host=host, name="cache")
    app.mount(b"/sparse/", SparseDoor(store, rules), host=host, name="sparse")
    observe = ObserveDoor(store, rules, statistics)
    for path in observe.paths:
        app.mount(path, observe, host=host, name="pages")
