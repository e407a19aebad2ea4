"""The admin plane: a small REST API on a listener of its own (see `application`)."""

from __future__ import annotations

from edgecache.api.application import create_application
from edgecache.api.control import Control, PurgeOrder

__all__ = ["Control", "PurgeOrder", "create_application"]
