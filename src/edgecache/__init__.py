"""edgecache: a native hybrid cache for Python.

    import edgecache

    with edgecache.open("cache", memory="256MiB", disk="10GiB") as store:
        store.put("key", b"value", ttl=60)
        store.get("key")

Names are loaded when they are first used, so that importing the package costs next to nothing
(PEP 562).
"""

from edgecache._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs more than this module
    from edgecache._core_blob import Blob as Blob
    from edgecache.aio import AsyncStorage as AsyncStorage
    from edgecache.config import Config as Config
    from edgecache.entry import Entry as Entry
    from edgecache.entry import ScrubReport as ScrubReport
    from edgecache.errors import ArgumentError as ArgumentError
    from edgecache.errors import ConfigError as ConfigError
    from edgecache.errors import EdgeCacheError as EdgeCacheError
    from edgecache.errors import StoreClosedError as StoreClosedError
    from edgecache.errors import StoreForkedError as StoreForkedError
    from edgecache.errors import StoreLockedError as StoreLockedError
    from edgecache.errors import UnsafePathError as UnsafePathError
    from edgecache.health import HealthReport as HealthReport
    from edgecache.memoize.key import memoize_prefix as memoize_prefix
    from edgecache.meta import Meta as Meta
    from edgecache.metrics.schema import StatsSnapshot as StatsSnapshot
    from edgecache.storage import Storage as Storage
    from edgecache.storage import open_store as open  # noqa: A004 - as in gzip.open

# Where each public name lives: (module, name there).
_HOMES = {
    "ArgumentError": ("errors", "ArgumentError"),
    "AsyncStorage": ("aio", "AsyncStorage"),
    "Blob": ("_core_blob", "Blob"),
    "Config": ("config", "Config"),
    "ConfigError": ("errors", "ConfigError"),
    "EdgeCacheError": ("errors", "EdgeCacheError"),
    "Entry": ("entry", "Entry"),
    "HealthReport": ("health", "HealthReport"),
    "Meta": ("meta", "Meta"),
    "ScrubReport": ("entry", "ScrubReport"),
    "StatsSnapshot": ("metrics.schema", "StatsSnapshot"),
    "Storage": ("storage", "Storage"),
    "StoreClosedError": ("errors", "StoreClosedError"),
    "StoreForkedError": ("errors", "StoreForkedError"),
    "StoreLockedError": ("errors", "StoreLockedError"),
    "UnsafePathError": ("errors", "UnsafePathError"),
    "memoize_prefix": ("memoize.key", "memoize_prefix"),
    "open": ("storage", "open_store"),
}

__all__ = [  # noqa: RUF022 - the two entry points first
    "open",
    "Storage",
    "ArgumentError",
    "AsyncStorage",
    "Blob",
    "Config",
    "ConfigError",
    "EdgeCacheError",
    "Entry",
    "HealthReport",
    "Meta",
    "ScrubReport",
    "StatsSnapshot",
    "StoreClosedError",
    "StoreForkedError",
    "StoreLockedError",
    "UnsafePathError",
    "__version__",
    "memoize_prefix",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgecache' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"edgecache.{home[0]}"), home[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
