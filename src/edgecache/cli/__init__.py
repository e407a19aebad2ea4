"""The command `edgecache`: the server and the tools around it.

Exit codes: 0 done; 1 it could not be done (the message says why); 2 the command line or the
configuration is not usable; 3 done, and damage was found (verify).
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from edgecache.cli.commands import application
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.exit(
            f"edgecache: the package {error.name!r} is missing; "
            "install the server's: pip install 'edgecache[serve]'"
        )
    application()
