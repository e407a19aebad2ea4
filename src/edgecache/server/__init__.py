"""The server: settings, and the life of the process (`edgecache serve`)."""

from __future__ import annotations

from edgecache.server.loading import load_settings
from edgecache.server.settings import ServerSettings

__all__ = ["ServerSettings", "load_settings", "run_server"]


def run_server(
    settings: ServerSettings, path: str | None = None, options: dict[str, object] | None = None
) -> int:
    """Serve until a signal says otherwise; the exit code.

    Args:
        settings: What to serve.
        path, options: Where the settings came from, to read them again on SIGHUP.
    """
    from edgecache.server.process import run  # uvloop, FastAPI and the doors

    return run(settings, path, options or {})
