"""The header section as a value: ordered pairs of lower-case name and value, duplicates kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from edgecache.errors import ArgumentError

Pair = tuple[bytes, bytes]

# Names whose usual spelling is not one capital per part.
_SPELLINGS = {
    name.lower(): name
    for name in (
        *(b"ETag", b"TE", b"DNT", b"WWW-Authenticate", b"Content-MD5", b"CDN-Cache-Control"),
        *(b"X-XSS-Protection", b"X-UA-Compatible", b"NEL", b"SourceMap", b"Sec-GPC", b"CDN-Loop"),
        *(b"Sec-CH-UA", b"Accept-CH", b"X-DNS-Prefetch-Control", b"Alt-Svc", b"HTTP2-Settings"),
    )
}


@lru_cache(maxsize=2048)
def canonical_name(name: bytes) -> bytes:
    """Return the usual spelling of a field name: `content-type` is `Content-Type`."""
    lowered = name.lower()
    known = _SPELLINGS.get(lowered)
    return known or b"-".join(part.capitalize() for part in lowered.split(b"-"))


class Headers:
    """An immutable header section.

    Names are lower case, order and duplicates are those of the wire. Equal when the pairs are.

    *Thread-safety*: immutable but for an index that is built once; building it twice is harmless.
    *Cost*: the first lookup builds a dict (about 25 ns a field), later ones are a dict lookup.
    Where a name occurs twice, `get_all` scans.
    """

    __slots__ = ("_first", "pairs")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self.pairs: tuple[Pair, ...] = tuple([(name.lower(), value) for name, value in pairs])
        self._first: dict[bytes, bytes] | None = None

    @classmethod
    def of_lower(cls, pairs: Iterable[Pair]) -> Headers:
        """Make one of pairs whose names are lower case already (as llhttp callbacks may give)."""
        made = cls.__new__(cls)
        made.pairs = tuple(pairs)
        made._first = None
        return made

    @property
    def first(self) -> dict[bytes, bytes]:
        """The first value of each name; not to be changed."""
        first = self._first
        if first is None:
            first = self._first = dict(reversed(self.pairs))
        return first

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of a name (lower case), or None."""
        return self.first.get(name)

    def get_all(self, name: bytes) -> tuple[bytes, ...]:
        """Return all values of a name (lower case), in order."""
        first = self.first
        if name not in first:
            return ()
        if len(first) == len(self.pairs):
            return (first[name],)
        return tuple([value for key, value in self.pairs if key == name])

    def combined(self, name: bytes) -> bytes | None:
        """Return the combined value of a list-based field (RFC 9110, section 5.3), or None."""
        first = self.first
        value = first.get(name)
        if value is None or len(first) == len(self.pairs):
            return value
        return b", ".join([value for key, value in self.pairs if key == name])

    def without(self, names: Iterable[bytes]) -> Headers:
        """Return the section less all fields of these names (lower case)."""
        unwanted = names if isinstance(names, set | frozenset) else frozenset(names)
        if unwanted.isdisjoint(self.first):
            return self
        return Headers.of_lower([pair for pair in self.pairs if pair[0] not in unwanted])

    def replacing(self, name: bytes, value: bytes) -> Headers:
        """Return the section with one field of this name, last, in place of all others."""
        kept = [pair for pair in self.pairs if pair[0] != name]
        return Headers.of_lower([*kept, (name, value)])

    def to_wire(self) -> bytes:
        """Return the lines of an HTTP/1 header section, names in their usual spelling.

        Raises:
            ArgumentError: A name or value holds CR, LF or NUL, or a name a colon; such a section
                must never reach a peer or a disk.
        """
        pairs = self.pairs
        block = b"".join([canonical_name(name) + b": " + value + b"\r\n" for name, value in pairs])
        is_torn = block.count(b"\n") != len(pairs) or block.count(b"\r") != len(pairs)
        if is_torn or b"\0" in block or any(b":" in name for name, _ in pairs):
            raise ArgumentError(
                "a header field holds CR, LF or NUL, or a colon in its name",
                hint="reject the message while parsing it",
            )
        return block

    @classmethod
    def from_wire(cls, block: bytes) -> Headers | None:
        """Read what `to_wire` wrote; None for anything else."""
        if not block:
            return cls.of_lower(())
        lines = block.split(b"\r\n")
        if lines.pop():
            return None
        pairs = []
        for line in lines:
            name, separator, value = line.partition(b": ")
            if not separator or not name:
                return None
            pairs.append((name.lower(), value))
        return cls.of_lower(pairs)

    def __contains__(self, name: bytes) -> bool:
        return name in self.first

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


NO_HEADERS = Headers()
