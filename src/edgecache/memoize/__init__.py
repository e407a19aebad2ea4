"""Remembering the results of functions: keys from arguments, codecs, one computation at a time.

Pure Python over any store with `get`, `get_entry` and `put`; see `Storage.memoize`. The parts for
event loops are in `flight_async` and `wrap_async`, which only `aio.py` imports.
"""

from edgecache.memoize.codec import Codec, resolve_codec
from edgecache.memoize.flight import Flights
from edgecache.memoize.key import KeyBuilder, memoize_prefix
from edgecache.memoize.plan import AsyncDecorator, Decorator, Plan
from edgecache.memoize.wrap import wrap

__all__ = [
    "AsyncDecorator",
    "Codec",
    "Decorator",
    "Flights",
    "KeyBuilder",
    "Plan",
    "memoize_prefix",
    "resolve_codec",
    "wrap",
]
