"""Build frozen dataclasses from the sections of a configuration file.

The fields of a dataclass are its keys; their types say how a value is read:

    int                   a whole number; a size ("64KiB") where the name says bytes
    float ending in _s    a duration: seconds, or "10s", "2h"
    bool, str             as they are
    tuple[X, ...], frozenset[X]   a list
    X | None              also null
    a dataclass           a section of its own

What the dataclass itself refuses (`__post_init__`) is reported with file, line and key as well. An
item of a list is named by its index: `proxy.routes.0.path`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from edgecache.config.kinds import nearest
from edgecache.config.problem import Problem
from edgecache.config.settings import KeyPath, Origin
from edgecache.config.units import parse_duration, parse_size, shown
from edgecache.errors import ConfigError, EdgeCacheError

T = TypeVar("T")

PAGE_HINT = "docs/serve.md says what it takes"
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "bytes": "text",
}


class Layers(Origin):
    """The places of a file, where some keys were set by something stronger.

    Args:
        key, path, key_path, line_of: As of any `Origin`.
        named: Keys that the environment or the command line set, and what they are called there.
    """

    __slots__ = ("_named",)

    def __init__(self, *place: Any, named: Mapping[KeyPath, str]) -> None:
        super().__init__(*place)
        self._named = named
        find = self.line_of

        def nearest_line(key_path: KeyPath) -> int | None:
            """Find a key, or what holds it: an item of a list has no line of its own."""
            while key_path:
                line = find(key_path)
                if line is not None:
                    return line
                key_path = key_path[:-1]
            return None

        self.line_of = nearest_line

    def child(self, name: str) -> Origin:
        """Return the place of a key below this one."""
        key_path = (*self.key_path, name)
        if key_path in self._named:
            return Origin(self._named[key_path], None, key_path)
        key = f"{self.key}.{name}" if self.key else name
        return Layers(key, self.path, key_path, self.line_of, named=self._named)


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
    kind: Any = section
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    values: dict[str, Any] = dict(given or {})
    for name, value in data.items():
        place = origin.child(str(name))
        if name not in fields or (given and name in given):
            raise _unknown(place, str(name), fields)
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
        place = _blamed(error, origin, fields)
        message = error.message.removeprefix(f"{error.key}: ")
        raise place.error(message, error.hint or PAGE_HINT) from None
    except EdgeCacheError as error:
        name = error.message.partition(" ")[0].strip(":,'\"")
        place = origin.child(name) if name in fields else origin
        hint = error.hint or (f"use {error.expected}" if error.expected else PAGE_HINT)
        raise place.error(error.message, hint) from None


def _unknown(origin: Origin, name: str, known: Mapping[str, object]) -> ConfigError:
    guess = nearest(name.lower().replace("-", "_"), known)
    hint = f"did you mean {guess!r}?" if guess else "see docs/serve.md for all keys"
    return origin.error("unknown key", hint)


def _blamed(error: ConfigError, origin: Origin, fields: Mapping[str, object]) -> Origin:
    """Return the place that an error of a dataclass means: it knows its own names only."""
    owner, _, name = str(error.key or "").rpartition(".")
    several = owner.rpartition(".")[2] + "s"
    if several in fields:  # of one item of a list, noticed by who has the list
        return origin.child(several)
    return origin.child(name) if name in fields else origin


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
        return kind(
            _value(arguments[0], name, item, origin.child(str(index)))
            for index, item in enumerate(value)
        )
    if kind in (dict, Mapping) or hint is dict or getattr(kind, "__name__", "") == "Mapping":
        return _mapping(arguments, name, value, origin)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, origin)  # type: ignore[arg-type]
    return _plain(hint, name, value, origin)


def _network(value: object, origin: Origin) -> Any:
    try:
        if not isinstance(value, str):
            raise ValueError("it is not text")
        return ipaddress.ip_network(value)
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
        raise origin.error(problem.message, problem.hint or PAGE_HINT) from None
    if kind is bytes and isinstance(value, str):
        return value.encode()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = _WORDS.get(kind.__name__, kind.__name__)
        raise origin.error(f"{shown(value)} is not {wanted}", f"write {wanted}")
    return value
