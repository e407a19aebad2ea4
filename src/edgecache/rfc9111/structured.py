"""Structured Fields (RFC 9651, which contains RFC 8941): strict parsing and serialising.

One fault anywhere makes the whole field invalid (section 4.2), so every parser here gives a value
or None. Parameters are parsed, for strictness, and kept only where somebody reads them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_KEY = re.compile(rb"[a-z*][a-z0-9_\-.*]*")
_TOKEN = re.compile(rb"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_NUMBER = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]+))?")
_STRING = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+)"')
_DISPLAY = re.compile(rb'%"((?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*+)"')
_BYTES = re.compile(rb":([A-Za-z0-9+/=]*):")
_BOOLEAN = re.compile(rb"\?([01])")
_DATE = re.compile(rb"@(-?[0-9]{1,15})(?![0-9.])")
_ESCAPED = re.compile(rb"\\(.)")
_SP = b" "
_OWS = b" \t"


class Token(NamedTuple):
    """A Token; everything else that is text is a `bytes`."""

    text: bytes


class Decimal(NamedTuple):
    """A Decimal, in thousandths."""

    thousandths: int


@dataclass(frozen=True, slots=True)
class ByteSequence:
    """A Byte Sequence."""

    content: bytes


@dataclass(frozen=True, slots=True)
class DisplayString:
    """A Display String, decoded."""

    text: str


@dataclass(frozen=True, slots=True)
class Date:
    """A Date, in seconds since the epoch."""

    seconds: int


Bare = bool | int | bytes | Token | Decimal | ByteSequence | DisplayString | Date
"""A bare item: Boolean, Integer, String as bytes, and the classes above."""
Parameters = dict[bytes, Bare]


class Item(NamedTuple):
    """An Item with its parameters."""

    value: Bare
    parameters: Parameters


class InnerList(NamedTuple):
    """An Inner List with its parameters."""

    items: tuple[Item, ...]
    parameters: Parameters


Member = Item | InnerList


class _InvalidError(Exception):
    """Ends a parse; never leaves this module."""


def _number(found: re.Match[bytes]) -> Bare:
    sign, whole, fraction = found.groups()
    if fraction is None:
        if len(whole) > 15:
            raise _InvalidError
        return -int(whole) if sign else int(whole)
    if len(whole) > 12 or len(fraction) > 3:
        raise _InvalidError
    thousandths = int(whole) * 1000 + int(fraction.ljust(3, b"0"))
    return Decimal(-thousandths if sign else thousandths)


def _string(found: re.Match[bytes]) -> Bare:
    return _ESCAPED.sub(rb"\1", found.group(1))


def _byte_sequence(found: re.Match[bytes]) -> Bare:
    encoded = found.group(1)
    try:
        return ByteSequence(base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True))
    except binascii.Error:
        raise _InvalidError from None


def _display(found: re.Match[bytes]) -> Bare:
    raw = re.sub(rb"%([0-9a-f]{2})", lambda part: bytes([int(part.group(1), 16)]), found.group(1))
    try:
        return DisplayString(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _InvalidError from None


def _token(found: re.Match[bytes]) -> Bare:
    return Token(found.group())


_BARE_ITEMS: tuple[tuple[bytes, re.Pattern[bytes], Callable[[re.Match[bytes]], Bare]], ...] = (
    (b'"', _STRING, _string),
    (b"-0123456789", _NUMBER, _number),
    (b"?", _BOOLEAN, lambda found: found.group(1) == b"1"),
    (b":", _BYTES, _byte_sequence),
    (b"@", _DATE, lambda found: Date(int(found.group(1)))),
    (b"%", _DISPLAY, _display),
)


class _Parser:
    """A cursor over one combined field value (RFC 9651, section 4.2)."""

    __slots__ = ("at", "end", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text.strip(_SP)
        self.at = 0
        self.end = len(self.text)

    def peek(self) -> bytes:
        return self.text[self.at : self.at + 1]

    def skip(self, blanks: bytes) -> None:
        while self.at < self.end and self.text[self.at] in blanks:
            self.at += 1

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise _InvalidError
        self.at = found.end()
        return found

    def bare_item(self) -> Bare:
        sign = self.peek()
        if not sign:
            raise _InvalidError
        for signs, pattern, make in _BARE_ITEMS:
            if sign in signs:
                return make(self.take(pattern))
        return _token(self.take(_TOKEN))

    def parameters(self) -> Parameters:
        found: Parameters = {}
        while self.peek() == b";":
            self.at += 1
            self.skip(_SP)
            key = self.take(_KEY).group()
            value: Bare = True
            if self.peek() == b"=":
                self.at += 1
                value = self.bare_item()
            found.pop(key, None)  # the last one counts, in the place of the last one
            found[key] = value
        return found

    def item(self) -> Item:
        return Item(self.bare_item(), self.parameters())

    def member(self) -> Member:
        if self.peek() != b"(":
            return self.item()
        self.at += 1
        items: list[Item] = []
        while True:
            self.skip(_SP)
            if self.peek() == b")":
                self.at += 1
                return InnerList(tuple(items), self.parameters())
            items.append(self.item())
            if self.peek() not in (b" ", b")"):
                raise _InvalidError

    def next_member(self) -> bool:
        """Step over the comma between two members; False at the end of the field."""
        self.skip(_OWS)
        if self.at >= self.end:
            return False
        if self.peek() != b",":
            raise _InvalidError
        self.at += 1
        self.skip(_OWS)
        if self.at >= self.end:  # a trailing comma
            raise _InvalidError
        return True


def parse_list(value: bytes) -> tuple[Member, ...] | None:
    """Parse a List (section 4.2.1); an empty field is an empty list, an invalid one None."""
    parser = _Parser(value)
    members: list[Member] = []
    try:
        if parser.at < parser.end:
            members.append(parser.member())
            while parser.next_member():
                members.append(parser.member())
    except _InvalidError:
        return None
    return tuple(members)


def parse_dictionary(value: bytes) -> dict[bytes, Member] | None:
    """Parse a Dictionary (section 4.2.2); of a key that repeats the last member counts."""
    parser = _Parser(value)
    members: dict[bytes, Member] = {}
    try:
        while parser.at < parser.end:
            key = parser.take(_KEY).group()
            if parser.peek() == b"=":
                parser.at += 1
                member = parser.member()
            else:
                member = Item(True, parser.parameters())
            members.pop(key, None)
            members[key] = member
            if not parser.next_member():
                break
    except _InvalidError:
        return None
    return members


def parse_strings(value: bytes) -> tuple[bytes, ...] | None:
    """Parse a List of Strings, parameters ignored; None if it is anything else."""
    members = parse_list(value)
    if members is None:
        return None
    strings = []
    for member in members:
        if not isinstance(member, Item) or not isinstance(member.value, bytes):
            return None
        strings.append(member.value)
    return tuple(strings)


def is_sf_token(text: bytes) -> bool:
    """Say whether the text can be serialised as a Token."""
    return _TOKEN.fullmatch(text) is not None


def serialise_string(text: bytes) -> bytes:
    """Serialise a String (section 4.1.6); bytes that a String cannot hold become "?"."""
    clean = bytes(byte if 0x20 <= byte <= 0x7E else 0x3F for byte in text)
    return b'"' + clean.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
