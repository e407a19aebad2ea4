"""`edgecache serve` with two workers whose caches are their own: the supervisor by itself.

python -m support.crew_child CONFIG
"""

from __future__ import annotations

import logging
import sys

import uvloop

from edgecache.server.crew import Crew
from edgecache.server.loading import load_settings
from edgecache.server.process import ServerProcess

WORKERS = 2


def main() -> int:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    path = sys.argv[1]
    settings = load_settings(path, {})
    # Behind the checks of the settings: what they refuse is that the cache is not shared.
    object.__setattr__(settings, "workers", WORKERS)

    async def serve() -> int:
        process = ServerProcess(settings, path, {})
        process._plane = Crew(settings, path, {}, is_shared=False)
        return await process.main()

    return uvloop.run(serve())


if __name__ == "__main__":
    sys.exit(main())
