"""Values on their way into a `Config`: who said what, where, and which of them wins.

Precedence, strongest first: explicit argument, EDGECACHE_* variable, EDGE_* variable, file,
default. Every refusal becomes a `ConfigError` that names the key as its author wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgecache.config.kinds import Kind, nearest
from edgecache.config.problem import Problem
from edgecache.errors import ConfigError

KeyPath = tuple[str, ...]
Rules = Callable[[Mapping[str, Any]], None]


def _no_line(_: KeyPath) -> int | None:
    return None


class Origin:
    """Where a value stands, for messages.

    Args:
        key: The key as written: `edgecache.memory`, `EDGECACHE_MEMORY`, `memory`.
        path: The file, if it came from one.
        key_path: The way to the key inside the file.
        line_of: Finds the line of a key; only called for a message.
    """

    __slots__ = ("key", "key_path", "line_of", "path")

    def __init__(
        self,
        key: str,
        path: str | None = None,
        key_path: KeyPath = (),
        line_of: Callable[[KeyPath], int | None] = _no_line,
    ) -> None:
        self.key = key
        self.path = path
        self.key_path = key_path
        self.line_of = line_of

    def error(self, message: str, hint: str) -> ConfigError:
        """Build the exception for this place."""
        return ConfigError(
            f"{self.key}: {message}" if self.key else message,
            hint=hint,
            path=self.path,
            line=self.line_of(self.key_path),
            key=self.key or None,
        )

    def child(self, name: str) -> Origin:
        """Return the place of a key below this one."""
        return Origin(
            f"{self.key}.{name}" if self.key else name,
            self.path,
            (*self.key_path, name),
            self.line_of,
        )


class Setting:
    """One value for one field. `is_text`: from the environment, where everything is text."""

    __slots__ = ("is_text", "origin", "value")

    def __init__(self, value: object, origin: Origin, is_text: bool = False) -> None:
        self.value = value
        self.origin = origin
        self.is_text = is_text


def kind_of(field: dataclasses.Field[Any]) -> Kind:
    """Return the kind that a field of the tree was declared with."""
    kind: Kind = field.metadata["kind"]
    return kind


def parse(setting: Setting, kind: Kind) -> object:
    """Check one value.

    Raises:
        ConfigError: It cannot be used; key, file and line are attributes.
    """
    try:
        if setting.is_text:
            return kind.parse_text(str(setting.value))
        return kind.parse(setting.value)
    except Problem as problem:
        raise setting.origin.error(problem.message, problem.hint) from None


def table(data: Mapping[Any, object], names: Iterable[str], origin: Origin) -> dict[str, Setting]:
    """Turn a mapping into settings; every key must be one of `names`.

    Raises:
        ConfigError: A key is unknown or is no text; the nearest name is in the hint.
    """
    known = list(names)
    found: dict[str, Setting] = {}
    for name, value in data.items():
        if not isinstance(name, str):
            raise origin.error(f"the key {name!r} is not text", "write the key as a plain word")
        if name not in known:
            raise unknown_key(origin.child(name), name, known)
        found[name] = Setting(value, origin.child(name))
    return found


def unknown_key(origin: Origin, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a key that nothing reads."""
    guess = nearest(name.lower().replace("-", "_"), known) or nearest(name, known)
    hint = f"did you mean {guess!r}?" if guess else "see docs/configuration.md for all keys"
    return origin.error("unknown key", hint)


def resolve(
    fields: Iterable[dataclasses.Field[Any]], settings: Mapping[str, Setting], rules: Rules
) -> dict[str, Any]:
    """Check all settings alone and together; fields without one get their default.

    Raises:
        ConfigError: The first value or rule that fails.
    """
    values: dict[str, Any] = {}
    for field in fields:
        setting = settings.get(field.name)
        values[field.name] = field.default if setting is None else parse(setting, kind_of(field))
    try:
        rules(values)
    except Problem as problem:
        blamed = settings.get(problem.field)
        origin = Origin(problem.field) if blamed is None else blamed.origin
        raise origin.error(problem.message, problem.hint) from None
    return values
