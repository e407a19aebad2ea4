"""The command `edgecache`: the server and the tools around it.

Exit codes: 0 done; 1 it could not be done (the message says why); 2 the command line or the
configuration is not usable; 3 done, and damage was found (verify).
"""

from __future__ import annotations

import sys

__all__ = ["main"]


# Packages of the extra `serve`.
_EXTRA = frozenset(
    {"typer", "rich", "click", "uvloop", "httptools", "fastapi", "starlette", "pydantic", "uvicorn"}
)


def main() -> None:
    """Run the command line."""
    try:
        from edgecache.cli.commands import application

        application()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"edgecache: the package {error.name!r} is missing; "
            "install the server's: pip install 'edgecache[serve]'",
            file=sys.stderr,
        )
        sys.exit(1)
