"""What the parsers below `Config` raise; turned into `ConfigError` where the location is known.

A parser of one value knows neither the file nor the line it came from, so it reports the bare
fact. `settings.py` adds key, path and line and raises the public exception.
"""

from __future__ import annotations


class Problem(Exception):  # noqa: N818 - never leaves this package
    """A value or a combination of values that cannot be used.

    Args:
        message: What is wrong, without the key.
        hint: What to write instead.
        field: The field to blame, for rules over several fields.
    """

    __slots__ = ("field", "hint", "message")

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
