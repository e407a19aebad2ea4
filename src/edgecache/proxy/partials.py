"""Responses of which only parts are stored (RFC 9111, sections 3.3 and 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecache.http.response import Response
from edgecache.proxy.asking import Asked

if TYPE_CHECKING:
    from edgecache.proxy.service import Service


class Partials:
    """Answers from, and fills, unfinished responses."""

    async def answer(self, service: Service, asked: Asked, has_variants: bool) -> Response | None:
        """Answer a request that nothing complete fits; None: it is not for partial responses."""
        return None
