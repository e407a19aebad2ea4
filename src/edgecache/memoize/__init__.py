"""Remembering the results of functions: keys from arguments, codecs, one computation at a time.

Pure Python over any store with `get`, `get_entry` and `put`; see `Storage.memoize`.
"""

from edgecache.memoize.codec import Codec, resolve_codec
from edgecache.memoize.flight import Flights
from edgecache.memoize.flight_async import AsyncFlights
from edgecache.memoize.key import KeyBuilder, memoize_prefix
from edgecache.memoize.plan import AsyncDecorator, Decorator, Plan
from edgecache.memoize.wrap import wrap, wrap_async

__all__ = [
    "AsyncDecorator",
    "AsyncFlights",
    "Codec",
    "Decorator",
    "Flights",
    "KeyBuilder",
    "Plan",
    "memoize_prefix",
    "resolve_codec",
    "wrap",
    "wrap_async",
]
