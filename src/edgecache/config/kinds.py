"""Kinds of field: each checks one value and returns it in its final type.

`parse` takes what a program or a file gives; `parse_text` what an environment variable gives, where
everything is text: it reads booleans, numbers and the words "none" and "auto" first.

These are plain classes: a dataclass is built by executing generated source, and eight of them would
take a fifth of the time that importing edgecache may take.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Protocol

from edgecache.config.problem import Problem
from edgecache.config.units import (
    DURATION_SECONDS_MAX,
    SIZE_BYTES_MAX,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    shown,
)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_WHOLE = re.compile(r"[0-9]{1,40}")
_DECIMAL = re.compile(r"[0-9]{1,40}(?:\.[0-9]{1,40})?")


class Kind(Protocol):
    """How one field is read, checked and shown."""

    def parse(self, value: object) -> object:
        """Return the checked value; raise `Problem` when it cannot be used."""

    def parse_text(self, text: str) -> object:
        """Read an environment variable."""

    def grammar(self) -> str:
        """Say in a few words what is accepted; `docs/configuration.md` prints it."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the known name that looks most like `name`, or ""."""
    import difflib  # only for a message

    found = difflib.get_close_matches(name[:100], list(names), n=1, cutoff=0.6)
    return found[0] if found else ""


def is_none_word(text: str) -> bool:
    """Say whether the text of an environment variable means "no value"."""
    return text.lower() in ("none", "null")


class Size:
    """Bytes.

    Args:
        minimum: Smallest value in bytes.
        maximum: Largest value in bytes.
        multiple: The value is a multiple of it.
        zero: 0 is allowed below `minimum`; it means off, unlimited or automatic.
        optional: None is allowed.
        auto: "auto" is allowed; it means 0, or None where that is allowed.
    """

    __slots__ = ("auto", "maximum", "minimum", "multiple", "optional", "zero")

    def __init__(
        self,
        *,
        minimum: int = 0,
        maximum: int = SIZE_BYTES_MAX,
        multiple: int = 1,
        zero: bool = False,
        optional: bool = False,
        auto: bool = False,
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.multiple = multiple
        self.zero = zero
        self.optional = optional
        self.auto = auto

    def parse(self, value: object) -> int | None:
        if value is None and self.optional:
            return None
        if self.auto and value == "auto":
            return None if self.optional else 0
        size_bytes = parse_size(value)
        if size_bytes == 0 and self.zero:
            return 0
        if size_bytes < self.minimum:
            raise Problem(
                f"{shown(value)} is too small", hint=f"at least {format_size(self.minimum)}"
            )
        if size_bytes > self.maximum:
            raise Problem(
                f"{shown(value)} is too large", hint=f"at most {format_size(self.maximum)}"
            )
        if size_bytes % self.multiple:
            raise Problem(
                f"{shown(value)} does not fit the block size",
                hint=f"use a multiple of {format_size(self.multiple)}",
            )
        return size_bytes

    def parse_text(self, text: str) -> int | None:
        return self.parse(None if self.optional and is_none_word(text) else text)

    def grammar(self) -> str:
        words = ["size"]
        if self.optional:
            words.append("none")
        if self.auto:
            words.append("auto")
        return " or ".join(words)


class Duration:
    """Seconds, as a float."""

    __slots__ = ("maximum", "minimum", "optional")

    def __init__(
        self,
        *,
        minimum: float = 0.0,
        maximum: float = float(DURATION_SECONDS_MAX),
        optional: bool = False,
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.optional = optional

    def parse(self, value: object) -> float | None:
        if value is None and self.optional:
            return None
        seconds = parse_duration(value)
        if seconds < self.minimum:
            raise Problem(
                f"{shown(value)} is too short", hint=f"at least {format_duration(self.minimum)}"
            )
        if seconds > self.maximum:
            raise Problem(
                f"{shown(value)} is too long", hint=f"at most {format_duration(self.maximum)}"
            )
        return seconds

    def parse_text(self, text: str) -> float | None:
        return self.parse(None if self.optional and is_none_word(text) else text)

    def grammar(self) -> str:
        return "duration or none" if self.optional else "duration"


class Count:
    """A whole number; `auto` allows "auto" and 0, which mean the same."""

    __slots__ = ("auto", "maximum", "minimum", "optional", "power_of_two")

    def __init__(
        self,
        *,
        minimum: int = 0,
        maximum: int = SIZE_BYTES_MAX,
        optional: bool = False,
        auto: bool = False,
        power_of_two: bool = False,
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.optional = optional
        self.auto = auto
        self.power_of_two = power_of_two

    def parse(self, value: object) -> int | None:
        if value is None and self.optional:
            return None
        if self.auto and value in ("auto", 0) and not isinstance(value, (bool, float)):
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise Problem(f"{shown(value)} is not a whole number", hint=self._range_hint())
        if not self.minimum <= value <= self.maximum:
            raise Problem(f"{shown(value)} is out of range", hint=self._range_hint())
        if self.power_of_two and value & (value - 1):
            lower = 1 << (value.bit_length() - 1)
            raise Problem(
                f"{shown(value)} is not a power of two", hint=f"use {lower} or {lower * 2}"
            )
        return value

    def parse_text(self, text: str) -> int | None:
        if self.optional and is_none_word(text):
            return None
        return self.parse(int(text) if _WHOLE.fullmatch(text) else text)

    def _range_hint(self) -> str:
        if self.minimum == self.maximum:
            return f"it is always {self.minimum}"
        if self.maximum == SIZE_BYTES_MAX:
            return f"use a whole number of at least {self.minimum}"
        return f"use a whole number from {self.minimum} to {self.maximum}"

    def grammar(self) -> str:
        words = ["count"]
        if self.optional:
            words.append("none")
        if self.auto:
            words.append("auto")
        return " or ".join(words)


class Ratio:
    """A fraction of something, as a float."""

    __slots__ = ("maximum", "minimum")

    def __init__(
        self,
        minimum: float,
        maximum: float,
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def parse(self, value: object) -> float:
        hint = f"use a number from {self.minimum:g} to {self.maximum:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Problem(f"{shown(value)} is not a number", hint=hint)
        if not self.minimum <= value <= self.maximum:  # also false for nan
            raise Problem(f"{shown(value)} is out of range", hint=hint)
        return float(value)

    def parse_text(self, text: str) -> float:
        return self.parse(float(text) if _DECIMAL.fullmatch(text) else text)

    def grammar(self) -> str:
        return f"number, {self.minimum:g} to {self.maximum:g}"


class Flag:
    """True or false."""

    __slots__ = ()

    def parse(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Problem(f"{shown(value)} is not true or false", hint="write true or false")
        return value

    def parse_text(self, text: str) -> bool:
        word = text.lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise Problem(
            f"{shown(text)} is not true or false",
            hint="write 1, true, yes or on; 0, false, no or off",
        )

    def grammar(self) -> str:
        return "true or false"


class Choice:
    """One of a few names."""

    __slots__ = ("names",)

    def __init__(
        self,
        names: tuple[str, ...],
    ) -> None:
        self.names = names

    def parse(self, value: object) -> str:
        if isinstance(value, str) and value in self.names:
            return value
        listed = ", ".join(self.names)
        guess = nearest(value, self.names) if isinstance(value, str) else ""
        hint = f"did you mean {guess!r}? one of {listed}" if guess else f"use one of {listed}"
        raise Problem(f"{shown(value)} is not a choice", hint=hint)

    def parse_text(self, text: str) -> str:
        return self.parse(text)

    def grammar(self) -> str:
        return ", ".join(self.names)


class Text:
    """Text of at most `maximum_bytes` in UTF-8."""

    __slots__ = ("maximum_bytes",)

    def __init__(
        self,
        maximum_bytes: int,
    ) -> None:
        self.maximum_bytes = maximum_bytes

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise Problem(f"{shown(value)} is not text", hint="put it in quotes")
        try:
            size_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise Problem(f"{shown(value)} is not valid UTF-8", hint="use plain text") from None
        if size_bytes > self.maximum_bytes:
            raise Problem(
                f"{shown(value)} has {size_bytes} bytes", hint=f"at most {self.maximum_bytes}"
            )
        return value

    def parse_text(self, text: str) -> str:
        return self.parse(text)

    def grammar(self) -> str:
        return f"text, at most {self.maximum_bytes} bytes"


class Directory:
    """A directory, or None. A leading "~" is the user's home directory."""

    __slots__ = ()

    def parse(self, value: object) -> str | None:
        if value is None:
            return None
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise Problem(f"{shown(value)} is not a path", hint="write the directory as text")
        if not value or "\0" in value:
            raise Problem(f"{shown(value)} is not a path", hint="name a directory")
        path = os.path.expanduser(value)
        if path.startswith("~"):
            raise Problem(
                f"no home directory is known for {shown(value)}", hint="write the full path"
            )
        return path

    def parse_text(self, text: str) -> str | None:
        return self.parse(None if is_none_word(text) else text)

    def grammar(self) -> str:
        return "directory or none"
