"""Build frozen dataclasses from the sections of a configuration file.

The fields of a dataclass are its keys; their types say how a value is read:

    int                   a whole number; a size ("64KiB") where the name says bytes
    float ending in _s    a duration: seconds, or "10s", "2h"
    bool, str             as they are
    tuple[X, ...], frozenset[X]   a list
    X | None              also null
    a dataclass           a section of its own

What the dataclass itself refuses (`__post_init__`) is reported with file, line and key.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from edgecache.config.problem import Problem
from edgecache.config.settings import Origin, unknown_key
from edgecache.config.units import parse_duration, parse_size, shown
from edgecache.errors import ConfigError, EdgeCacheError

T = TypeVar("T")


def build(
    section: type[T], data: object, origin: Origin, given: Mapping[str, Any] | None = None
) -> T:
    """Return a `section` made from a mapping; absent keys keep their defaults.

    Args:
        section: A dataclass.
        data: What the file says.
        origin: Where it says it.
        given: Fields with their final values, that are no keys of the file.

    Raises:
        ConfigError: A key is unknown, missing, or holds something unusable.
    """
    if data is None:  # a section whose lines are all commented out
        data = {}
    if not isinstance(data, Mapping):
        raise origin.error("this section is not a table of keys", "indent the keys below it")
    hints = typing.get_type_hints(section)
    fields = {field.name: field for field in dataclasses.fields(section) if field.init}  # type: ignore[arg-type]
    values: dict[str, Any] = dict(given or {})
    for name, value in data.items():
        place = origin.child(str(name))
        if name not in fields or (given and name in given):
            raise unknown_key(place, str(name), fields)
        values[name] = _value(hints[name], name, value, place)
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            raise origin.error(f"the key {name!r} is missing", "add it")
    try:
        return section(**values)
    except ConfigError as error:
        raise _placed(error, origin) from None
    except EdgeCacheError as error:
        raise origin.error(error.message, error.hint) from None


def _placed(error: ConfigError, origin: Origin) -> ConfigError:
    """Give an error of a dataclass the file and line that it cannot know."""
    path = tuple(part for part in str(getattr(error, "key", "") or "").split(".") if part)
    place = origin
    for name in path[len(origin.key_path) :] if path[: len(origin.key_path)] else path:
        place = place.child(name)
    message = error.message
    return ConfigError(
        message,
        hint=error.hint,
        path=origin.path,
        line=place.line_of(place.key_path) or origin.line_of(origin.key_path),
        key=getattr(error, "key", None) or origin.key or None,
    )


def _value(hint: Any, name: str, value: object, origin: Origin) -> Any:
    arguments = typing.get_args(hint)
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        if ipaddress.IPv4Network in rest:
            return _network(value, origin)
        return _value(rest[0], name, value, origin)
    if kind in (tuple, frozenset):
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise origin.error(f"{shown(value)} is not a list", "write [a, b], or `- a` lines")
        return kind(_value(arguments[0], name, item, origin) for item in value)
    if kind in (dict, Mapping) or hint is dict or getattr(kind, "__name__", "") == "Mapping":
        return _mapping(arguments, name, value, origin)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, origin)  # type: ignore[arg-type]
    return _plain(hint, name, value, origin)


def _network(value: object, origin: Origin) -> Any:
    try:
        return ipaddress.ip_network(value)  # type: ignore[arg-type]
    except ValueError as error:
        raise origin.error(f"{shown(value)} is no network: {error}", "as 10.0.0.0/8") from None


def _mapping(arguments: tuple[Any, ...], name: str, value: object, origin: Origin) -> Any:
    if not isinstance(value, Mapping):
        raise origin.error(f"{shown(value)} is not a table of keys", "write `key: value` lines")
    key_kind, value_kind = arguments or (str, str)
    return {
        _plain(key_kind, "", _number(key) if key_kind is int else key, origin.child(str(key))): (
            _value(value_kind, name, each, origin.child(str(key)))
        )
        for key, each in value.items()
    }


def _number(text: object) -> object:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 20 else text


def _plain(kind: Any, name: str, value: object, origin: Origin) -> Any:
    is_duration = name.endswith("_s") and kind in (int, float)
    try:
        if is_duration:
            seconds = parse_duration(value)
            if kind is int and seconds != int(seconds):
                raise Problem(f"{shown(value)} is not a whole number of seconds", hint="round it")
            return kind(seconds)
        if kind is int and "bytes" in name:
            return parse_size(value)
    except Problem as problem:
        raise origin.error(problem.message, problem.hint) from None
    if kind is bytes and isinstance(value, str):
        return value.encode()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {"int": "a whole number", "str": "text", "bool": "true or false"}
        raise origin.error(
            f"{shown(value)} is not {wanted.get(kind.__name__, kind.__name__)}",
            "see docs/serve.md for all keys",
        )
    return value
