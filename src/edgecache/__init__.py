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
    from edgecache.entry import Availability as Availability
    from edgecache.entry import Entry as Entry
    from edgecache.entry import PurgeType as PurgeType
    from edgecache.entry import ScrubReport as ScrubReport
    from edgecache.errors import ArgumentError as ArgumentError
    from edgecache.errors import ConfigError as ConfigError
    from edgecache.errors import EdgeCacheError as EdgeCacheError
    from edgecache.errors import IncompleteObjectError as IncompleteObjectError
    from edgecache.errors import ObjectChangedError as ObjectChangedError
    from edgecache.errors import ObjectExistsError as ObjectExistsError
    from edgecache.errors import ObjectNotFoundError as ObjectNotFoundError
    from edgecache.errors import ObjectShedError as ObjectShedError
    from edgecache.errors import PartialQuotaError as PartialQuotaError
    from edgecache.errors import PartialWritesError as PartialWritesError
    from edgecache.errors import RangeError as RangeError
    from edgecache.errors import RangeMissingError as RangeMissingError
    from edgecache.errors import StoreClosedError as StoreClosedError
    from edgecache.errors import StoreForkedError as StoreForkedError
    from edgecache.errors import StoreLockedError as StoreLockedError
    from edgecache.errors import StreamAbortedError as StreamAbortedError
    from edgecache.errors import UnsafePathError as UnsafePathError
    from edgecache.health import HealthReport as HealthReport
    from edgecache.memoize.key import memoize_prefix as memoize_prefix
    from edgecache.meta import Meta as Meta
    from edgecache.metrics.schema import StatsSnapshot as StatsSnapshot
    from edgecache.objects.async_hit import AsyncHit as AsyncHit
    from edgecache.objects.async_hit import AsyncMiss as AsyncMiss
    from edgecache.objects.hit import Hit as Hit
    from edgecache.objects.miss import Miss as Miss
    from edgecache.storage import Storage as Storage
    from edgecache.storage import open_store as open  # noqa: A004 - as in gzip.open

# Where each public name lives: (module, name there).
_HOMES = {
    "ArgumentError": ("errors", "ArgumentError"),
    "AsyncHit": ("objects.async_hit", "AsyncHit"),
    "AsyncMiss": ("objects.async_hit", "AsyncMiss"),
    "AsyncStorage": ("aio", "AsyncStorage"),
    "Availability": ("entry", "Availability"),
    "Blob": ("_core_blob", "Blob"),
    "Config": ("config", "Config"),
    "ConfigError": ("errors", "ConfigError"),
    "EdgeCacheError": ("errors", "EdgeCacheError"),
    "Entry": ("entry", "Entry"),
    "HealthReport": ("health", "HealthReport"),
    "Hit": ("objects.hit", "Hit"),
    "IncompleteObjectError": ("errors", "IncompleteObjectError"),
    "Meta": ("meta", "Meta"),
    "Miss": ("objects.miss", "Miss"),
    "ObjectChangedError": ("errors", "ObjectChangedError"),
    "ObjectExistsError": ("errors", "ObjectExistsError"),
    "ObjectNotFoundError": ("errors", "ObjectNotFoundError"),
    "ObjectShedError": ("errors", "ObjectShedError"),
    "PartialQuotaError": ("errors", "PartialQuotaError"),
    "PartialWritesError": ("errors", "PartialWritesError"),
    "PurgeType": ("entry", "PurgeType"),
    "RangeError": ("errors", "RangeError"),
    "RangeMissingError": ("errors", "RangeMissingError"),
    "ScrubReport": ("entry", "ScrubReport"),
    "StatsSnapshot": ("metrics.schema", "StatsSnapshot"),
    "Storage": ("storage", "Storage"),
    "StoreClosedError": ("errors", "StoreClosedError"),
    "StoreForkedError": ("errors", "StoreForkedError"),
    "StoreLockedError": ("errors", "StoreLockedError"),
    "StreamAbortedError": ("errors", "StreamAbortedError"),
    "UnsafePathError": ("errors", "UnsafePathError"),
    "memoize_prefix": ("memoize.key", "memoize_prefix"),
    "open": ("storage", "open_store"),
}

__all__ = [  # noqa: RUF022 - the two entry points first
    "open",
    "Storage",
    "ArgumentError",
    "AsyncHit",
    "AsyncMiss",
    "AsyncStorage",
    "Availability",
    "Blob",
    "Config",
    "ConfigError",
    "EdgeCacheError",
    "Entry",
    "HealthReport",
    "Hit",
    "IncompleteObjectError",
    "Meta",
    "Miss",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ObjectShedError",
    "PartialQuotaError",
    "PartialWritesError",
    "PurgeType",
    "RangeError",
    "RangeMissingError",
    "ScrubReport",
    "StatsSnapshot",
    "StoreClosedError",
    "StoreForkedError",
    "StoreLockedError",
    "StreamAbortedError",
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
