"""Real input of the demo: the files below a directory, with a checksum of each.

The table of checksums is made from the source files before the cache sees them, so it cannot
inherit a mistake of the cache.
"""

from __future__ import annotations

import os
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import xxhash

FILE_COUNT_MAX = 40_000
TOTAL_BYTES_MAX = 1_500_000_000
OBJECT_BYTES_MAX = 16 << 20
KEY_BYTES_MAX = 8192


@dataclass(frozen=True)
class SourceFile:
    """A file, its cache key (the relative path), size and XXH3-64."""

    path: str
    key: bytes
    size_bytes: int
    checksum: int


@dataclass
class Source:
    """What was found below a directory; `skipped` counts by reason."""

    directory: Path
    files: list[SourceFile]
    skipped: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def default_directory() -> Path:
    """The library directory of the running Python's own installation."""
    return Path(sys.base_prefix) / "lib"


def walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Regular files below a directory in a stable order; links are not followed."""
    pending = [str(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in ordered:
            if entry.is_symlink():
                continue
            if entry.is_dir():
                pending.append(entry.path)
            elif entry.is_file():
                yield entry


def candidates(directory: Path, skipped: dict[str, int]) -> list[tuple[str, bytes]]:
    """Paths and keys to read, at most FILE_COUNT_MAX of them, spread over the whole tree."""
    found = []
    for entry in walk(directory):
        key = os.fsencode(os.path.relpath(entry.path, directory))
        if len(key) > KEY_BYTES_MAX:
            skipped["name too long"] += 1
        elif entry.stat(follow_symlinks=False).st_size > OBJECT_BYTES_MAX:
            skipped["larger than an object may be"] += 1
        else:
            found.append((entry.path, key))
    if len(found) > FILE_COUNT_MAX:
        skipped["over the limit of files"] += len(found) - FILE_COUNT_MAX
        found = sorted(random.Random(1).sample(found, FILE_COUNT_MAX))
    return found


def read_source(
    directory: Path, advance: Callable[[int, int], object], is_over: Callable[[], bool]
) -> Source:
    """Find the files and compute their checksums.

    Args:
        advance: Called with (done, all) after each file.
        is_over: Ends the search early when it says so; what was found is used.
    """
    skipped = dict.fromkeys(
        (
            "name too long", "larger than an object may be", "unreadable",
            "over the limit of files", "over the limit of bytes", "out of time",
        ),
        0,
    )  # fmt: skip
    paths = candidates(directory, skipped)
    random.Random(1).shuffle(paths)
    files: list[SourceFile] = []
    total = 0
    for number, (path, key) in enumerate(paths):
        if number % 64 == 0 and is_over():
            skipped["out of time"] += len(paths) - number
            break
        try:
            data = Path(path).read_bytes()
        except OSError:
            skipped["unreadable"] += 1
            continue
        if len(data) > OBJECT_BYTES_MAX:
            skipped["larger than an object may be"] += 1
        elif total + len(data) > TOTAL_BYTES_MAX:
            skipped["over the limit of bytes"] += 1
        else:
            total += len(data)
            files.append(SourceFile(path, key, len(data), xxhash.xxh3_64_intdigest(data)))
        advance(number + 1, len(paths))
    advance(len(paths), len(paths))
    return Source(directory, files, {name: count for name, count in skipped.items() if count})


def is_right(file: SourceFile, value: bytes) -> bool:
    """Whether a value is the file's content, by size and checksum."""
    return len(value) == file.size_bytes and xxhash.xxh3_64_intdigest(value) == file.checksum


def zipf_order(count: int, seed: int, exponent: float = 1.0) -> Iterator[int]:
    """Endless indices below `count`, Zipf distributed; which index is popular is random, seeded.

    Source: inversion of the cumulative weights 1 / rank ** exponent.
    """
    generator = random.Random(seed)
    ranks = list(range(count))
    generator.shuffle(ranks)
    sums = list(accumulate(1 / rank**exponent for rank in range(1, count + 1)))
    while True:
        yield ranks[bisect_left(sums, generator.random() * sums[-1])]
