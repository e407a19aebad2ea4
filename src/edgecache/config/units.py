"""Sizes and durations as people write them, exact and strict.

    size      = whole-number | number [ " " ] size-unit
    size-unit = "B" | "kB" | "KB" | "MB" | "GB" | "TB" | "PB"          powers of 1000
              | "KiB" | "MiB" | "GiB" | "TiB" | "PiB"                  powers of 1024
    duration  = number | part { part }       units from large to small, each at most once
    part      = number ( "w" | "d" | "h" | "m" | "s" | "ms" | "us" )   only the last has a fraction
    number    = digit { digit } [ "." digit { digit } ]                ASCII digits, no sign

Units are case-sensitive and no letter stands alone ("100k" could mean either power, "10Mb" could
mean bits). A bare number is bytes or seconds. Fractions of a byte are dropped: "0.1KiB" is 102.

Source: IEC 80000-13 (binary prefixes), SI brochure, 9th edition (decimal prefixes).
"""

from __future__ import annotations

import re

from edgecache.config.problem import Problem

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

# The native side keeps sizes in 64-bit fields and subtracts them: one bit is the sign's.
SIZE_BYTES_MAX = (1 << 63) - 1
# A century: beyond any freshness; as microseconds added to a date it fits a signed 64-bit field.
DURATION_SECONDS_MAX = 100 * 366 * 86400

SIZE_UNITS: dict[str, int] = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "PB": 1000**5,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
    "PiB": 1 << 50,
}
# In microseconds, from large to small: the order in which the parts of a duration must come.
DURATION_UNITS_US: dict[str, int] = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}

# 40 digits hold any value below the limits; more would only cost time.
_SIZE = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?) ?([A-Za-z]*)")
_PART = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)([a-z]+)")
_NUMBER = re.compile(r"[0-9]{1,40}(?:\.[0-9]{1,40})?")
_SIZE_HINT = 'write bytes as a whole number or with a unit, like 1073741824, "1GiB" or "512MB"'
_DURATION_HINT = 'write seconds or units, like 7200, 2.5, "250ms", "1h30m" or "7d"'
_SHOWN_CHARACTERS_MAX = 60


def shown(value: object) -> str:
    """Render a value for a message, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # an int beyond the interpreter's digit limit
        return "a very large number"
    if len(text) > _SHOWN_CHARACTERS_MAX:
        return text[: _SHOWN_CHARACTERS_MAX - 3] + "..."
    return text


def parse_size(value: object) -> int:
    """Return a size in bytes, 0 to 2**63 - 1.

    Raises:
        Problem: The value is not a size, is negative or is too large.
    """
    if isinstance(value, bool):
        raise Problem(f"{shown(value)} is not a size", hint=_SIZE_HINT)
    if isinstance(value, int):
        size_bytes = value
    elif isinstance(value, str):
        size_bytes = _size_of_text(value)
    else:
        raise Problem(f"{shown(value)} is not a size", hint=_SIZE_HINT)
    if size_bytes < 0:
        raise Problem(f"{shown(value)} is negative", hint=_SIZE_HINT)
    if size_bytes > SIZE_BYTES_MAX:
        raise Problem(f"{shown(value)} is more than 2**63 - 1 bytes", hint=_SIZE_HINT)
    return size_bytes


def _size_of_text(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Problem(f"{shown(text)} is not a size", hint=_SIZE_HINT)
    number, unit = match.groups()
    if not unit:
        if "." in number or text.endswith(" "):
            raise Problem(f"{shown(text)} is not a whole number of bytes", hint=_SIZE_HINT)
        return int(number)
    if unit not in SIZE_UNITS:
        raise Problem(
            f"{shown(text)} has the unknown unit {unit!r}", hint=_size_unit_hint(number, unit)
        )
    numerator, denominator = _ratio(number)
    return numerator * SIZE_UNITS[unit] // denominator


def _ratio(number: str) -> tuple[int, int]:
    """Return a decimal number as an exact fraction: "1.25" is 125 over 100."""
    whole, _, decimals = number.partition(".")
    return int(whole + decimals), int(10 ** len(decimals))


def _size_unit_hint(number: str, unit: str) -> str:
    """Name the two units the writer may have meant: 1000 or 1024."""
    letter = unit[0].upper()
    if letter == "B":
        return f"write {number}B"
    if letter in "KMGTP" and unit[1:].lower() in ("", "b", "i", "ib"):
        power = "KMGTP".index(letter) + 1
        return f"write {number}{letter}B (1000**{power}) or {number}{letter}iB (1024**{power})"
    return _SIZE_HINT


def parse_duration(value: object) -> float:
    """Return a duration in seconds, 0 to a century.

    Raises:
        Problem: The value is not a duration, is negative, not finite or too large.
    """
    seconds: float
    if isinstance(value, str):
        seconds = _seconds_of_text(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value:
            raise Problem(f"{shown(value)} is not a duration", hint=_DURATION_HINT)
        seconds = value
    else:
        raise Problem(f"{shown(value)} is not a duration", hint=_DURATION_HINT)
    if seconds < 0:
        raise Problem(f"{shown(value)} is negative", hint=_DURATION_HINT)
    if seconds > DURATION_SECONDS_MAX:
        raise Problem(f"{shown(value)} is longer than a century", hint=_DURATION_HINT)
    return float(seconds)


def _seconds_of_text(text: str) -> float:
    if _NUMBER.fullmatch(text):
        numerator, denominator = _ratio(text)
        return numerator / denominator
    units = list(DURATION_UNITS_US)
    total_us, denominator = 0, 1
    position = 0
    smallest = -1
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            raise Problem(f"{shown(text)} is not a duration", hint=_DURATION_HINT)
        number, unit = match.groups()
        if unit not in DURATION_UNITS_US:
            raise Problem(f"{shown(text)} has the unknown unit {unit!r}", hint=_DURATION_HINT)
        if units.index(unit) <= smallest:
            raise Problem(
                f"{shown(text)} names its units out of order",
                hint="write units from large to small, each once, like 1h30m",
            )
        position = match.end()
        if "." in number and position < len(text):
            raise Problem(
                f"{shown(text)} has a fraction before its last unit",
                hint="only the last part may have a fraction, like 1h30.5s",
            )
        smallest = units.index(unit)
        numerator, denominator = _ratio(number)  # above 1 only for the last part
        total_us = total_us * denominator + numerator * DURATION_UNITS_US[unit]
    if smallest < 0:
        raise Problem(f"{shown(text)} is not a duration", hint=_DURATION_HINT)
    return total_us / (denominator * 1_000_000)


def format_size(size_bytes: int) -> str:
    """Write a size so that `parse_size` returns exactly it, with the largest fitting unit."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % SIZE_UNITS[unit] == 0:
            return f"{size_bytes // SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


def format_duration(seconds: float) -> str:
    """Write a duration so that `parse_duration` returns it to the microsecond."""
    rest_us = round(seconds * 1_000_000)
    parts = []
    for unit, unit_us in DURATION_UNITS_US.items():
        count, rest_us = divmod(rest_us, unit_us)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
