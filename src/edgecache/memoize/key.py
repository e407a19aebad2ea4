"""Keys of remembered results: an injective encoding of the arguments, and its hash.

    key = "memoize:" name ":" hex of BLAKE2b-256(encoding of (name, arguments))

Invariants of the encoding:

1. Every value starts with a byte that names its type, so 1, True, 1.0 and "1" differ.
2. Every part of variable length is preceded by its length, so ("ab", "c") and ("a", "bc") differ.
3. Equal calls encode equally: positional or by keyword, defaults given or left out.

Only exact builtin types are taken: two objects of any other type may be equal and print alike, or
differ where no encoding would see it.

The name in front makes all results of a function one prefix (`memoize_prefix`). Source: RFC 7693.
"""

from __future__ import annotations

import hashlib
import inspect
import struct
from collections.abc import Callable, Mapping
from typing import Any

from edgecache.errors import KeyTypeError

KeyFunction = Callable[..., str | bytes]

PREFIX = b"memoize:"
DIGEST_BYTES = 32
# Longer names are cut; the digest covers the whole name.
NAME_BYTES_MAX = 1024
DEPTH_MAX = 32
_LENGTH = struct.Struct("<I")
_DOUBLE = struct.Struct("<d")


def memoize_prefix(name: str) -> bytes:
    """Return what the keys of a function's results start with, for `delete_prefix`.

    Args:
        name: "module.qualname" of the function, or the name that was given as `key`.
    """
    return PREFIX + name.encode("utf-8", "surrogatepass")[:NAME_BYTES_MAX] + b":"


def encode(value: Any, depth: int = 0) -> bytes:
    """Return the injective encoding of one argument.

    Raises:
        KeyTypeError: It is of a type that has none, or nested deeper than 32 levels.
    """
    kind = type(value)
    if kind is str:
        text: bytes = value.encode("utf-8", "surrogatepass")
        return b"s" + _LENGTH.pack(len(text)) + text
    if kind is int:
        digits = b"%x" % value
        return b"i" + _LENGTH.pack(len(digits)) + digits
    if kind is bytes:
        return b"".join((b"b", _LENGTH.pack(len(value)), value))
    if value is None:
        return b"N"
    if kind is bool:
        return b"T" if value else b"F"
    if kind is float:
        return b"f" + _DOUBLE.pack(value)
    if kind is tuple or kind is frozenset:
        if depth >= DEPTH_MAX:
            raise KeyTypeError("an argument is nested too deeply", hint=_HINT)
        parts = [encode(item, depth + 1) for item in value]
        if kind is frozenset:
            parts.sort()
        return (b"t" if kind is tuple else b"z") + _LENGTH.pack(len(parts)) + b"".join(parts)
    raise KeyTypeError(f"an argument is {kind.__name__}", hint=_HINT)


_HINT = (
    "memoize builds keys from str, bytes, int, float, bool, None, and tuples and frozensets of "
    "them; for anything else give key=, a function of the same arguments that returns str or bytes"
)


class KeyBuilder:
    """Builds the key of one call of one function.

    Args:
        function: The function whose results are remembered.
        key: None: from module and qualified name; a str: this name in their place; a function: it
            is called with the same arguments, and what it returns is the whole key.

    Raises:
        KeyTypeError: The function has no name of its own (a lambda, or a function that closes over
            variables: another one of the same name could give other results), and `key` is None.
    """

    __slots__ = ("_head", "_key", "_plain_count", "_signature", "prefix")

    def __init__(self, function: Callable[..., Any], key: str | KeyFunction | None = None) -> None:
        self._key = key if callable(key) else None
        name = key if isinstance(key, str) else f"{function.__module__}.{function.__qualname__}"
        if key is None and ("<lambda>" in name or getattr(function, "__closure__", None)):
            raise KeyTypeError(
                f"{name} is not told apart by its name: it is a lambda, or uses outer variables",
                hint="give key=, a name that stands for this function alone",
            )
        self.prefix = memoize_prefix(name)
        self._head = encode(name)
        self._signature = inspect.signature(function)
        kinds = {parameter.kind for parameter in self._signature.parameters.values()}
        plain = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        # A call that gives just these in order needs no binding (10 us less).
        self._plain_count = len(self._signature.parameters) if kinds <= plain else -1

    def build(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | str:
        """Return the key of a call.

        Raises:
            KeyTypeError: An argument has no encoding.
            TypeError: The function does not take these arguments.
        """
        if self._key is not None:
            return self._key(*args, **kwargs)
        named: tuple[tuple[str, Any], ...] = ()
        if kwargs or len(args) != self._plain_count:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
            named = tuple(sorted(bound.kwargs.items()))
        body = hashlib.blake2b(
            self._head + encode(args) + encode(named), digest_size=DIGEST_BYTES
        ).hexdigest()
        return self.prefix + body.encode()
