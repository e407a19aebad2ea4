"""`python -m edgecache` is the command `edgecache`."""

from __future__ import annotations

from edgecache.cli import main

if __name__ == "__main__":
    main()
