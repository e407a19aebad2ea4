"""Codecs: results to bytes and back. Never pickle: what a cache holds is data, not code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from edgecache.errors import ArgumentError


class Codec(NamedTuple):
    """How results become bytes, and bytes become results."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


CodecChoice = Literal["json"] | tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def _bytes_only(result: object) -> bytes:
    if type(result) is not bytes:
        raise TypeError(
            f"memoize got {type(result).__name__}, not bytes: give codec='json', or a pair "
            "(encode, decode)"
        )
    return result


def _same(data: bytes) -> bytes:
    return data


def _to_json(result: object) -> bytes:
    # NaN is no JSON: other readers of the entry would choke on it.
    return json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def _from_json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"))


BYTES = Codec(_bytes_only, _same)
JSON = Codec(_to_json, _from_json)


def resolve_codec(choice: CodecChoice | None) -> Codec:
    """Return the codec that was asked for: None is bytes as they are, "json", or a pair.

    Raises:
        ArgumentError: It is something else.
    """
    if choice is None:
        return BYTES
    if isinstance(choice, str):
        if choice == "json":
            return JSON
    elif isinstance(choice, tuple) and len(choice) == 2 and all(map(callable, choice)):
        return Codec(*choice)
    raise ArgumentError(
        f"codec {choice!r} is not known", hint="give 'json', or a pair (encode, decode)"
    )
