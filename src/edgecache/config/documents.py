"""Read a configuration file into plain data, and find the line of a key for messages.

The parsers (yaml, tomllib, json) are imported when a file of their kind is read: `import edgecache`
stays cheap. Files are data: nothing in them is executed, their size is limited, keys must not
repeat.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edgecache.config.settings import KeyPath
from edgecache.errors import ConfigError

FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. `data` is what its top level holds; an empty file holds {}."""

    data: object
    path: str
    line_of: Callable[[KeyPath], int | None]


def read_document(path: str) -> Document:
    """Read a .yaml, .yml, .toml or .json file.

    Raises:
        ConfigError: The file is missing, too large, of another kind or malformed.
    """
    parse = _PARSERS.get(os.path.splitext(path)[1].lower())
    if parse is None:
        raise ConfigError(
            f"{path!r} is of no known kind",
            hint="name the file .yaml, .yml, .toml or .json",
            path=path,
        )
    text = _read_text(path)
    try:
        return parse(text, path)
    except RecursionError:
        raise ConfigError(
            "the file is nested too deeply", hint="a configuration has two levels", path=path
        ) from None


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"the configuration file cannot be read: {reason}",
            hint="check the path and its permissions",
            path=path,
        ) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(
            f"the file is larger than {FILE_BYTES_MAX} bytes",
            hint="is this the configuration file?",
            path=path,
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the file is not UTF-8 text",
            hint="save it as UTF-8",
            path=path,
            line=raw.count(b"\n", 0, error.start) + 1,
        ) from None


def _parse_yaml(text: str, path: str) -> Document:
    from edgecache.config.yaml_document import parse_yaml

    return parse_yaml(text, path)


def _parse_toml(text: str, path: str) -> Document:
    import tomllib

    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits
        line = re.search(r"\(at line (\d+)", str(error))
        raise ConfigError(
            f"the file is not valid TOML: {error}",
            hint="correct the line",
            path=path,
            line=int(line[1]) if line else None,
        ) from None
    return Document(data, path, lambda key_path: _toml_line(text, key_path))


def _toml_line(text: str, key_path: KeyPath) -> int | None:
    """Find a key by its table header and its line; dotted keys count as well.

    The tables of an array are named by their index, and so are the tables below them.
    """
    table: KeyPath = ()
    arrays: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.fullmatch(r"(\[\[?)([^\]]+)\]\]?\s*(?:#.*)?", stripped)
        if header:
            parts = _toml_keys(header[2])
            if header[1] == "[[":
                arrays[parts] = arrays.get(parts, -1) + 1
            table = _toml_indexed(parts, arrays)
            if table == key_path:
                return number
            continue
        name, equals, _ = stripped.partition("=")
        if equals and (*table, *_toml_keys(name)) == key_path:
            return number
    return None


def _toml_keys(text: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _toml_indexed(name: KeyPath, arrays: Mapping[KeyPath, int]) -> KeyPath:
    """Put the index of the newest table behind every part of a name that is an array."""
    found: list[str] = []
    for count, part in enumerate(name, 1):
        found.append(part)
        if name[:count] in arrays:
            found.append(str(arrays[name[:count]]))
    return tuple(found)


class _RepeatedKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} is repeated")
        self.key = key


def _parse_json(text: str, path: str) -> Document:
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise _RepeatedKeyError(key)
            found[key] = value
        return found

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a number")

    if not text.strip():
        return Document({}, path, lambda _: None)
    line: int | None = None
    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        problem, line = error.msg, error.lineno
    except _RepeatedKeyError as error:
        problem, line = str(error), _json_last_line(text, error.key)
    except ValueError as error:
        problem = str(error)
    else:
        return Document(data, path, lambda key_path: _json_line(text, key_path))
    raise ConfigError(
        f"the file is not valid JSON: {problem}", hint="correct the line", path=path, line=line
    )


def _json_key(key: str) -> re.Pattern[str]:
    return re.compile(r'"' + re.escape(key) + r'"\s*:')


def _json_line(text: str, key_path: KeyPath) -> int | None:
    """Find a key of a document that was parsed before; an item of a list is named by its index."""
    position = 0
    for name in key_path:
        for child, start, value in _json_children(text, position):
            if child == name:
                line, position = text.count("\n", 0, start) + 1, value
                break
        else:
            return None
    return line if key_path else None


def _json_children(text: str, position: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, place and place of the value of everything in an object or a list."""
    import json

    decoder = json.JSONDecoder()

    def skip(place: int) -> int:
        while text[place].isspace() or text[place] in ",:":
            place += 1
        return place

    position = skip(position)
    opening, position = text[position], position + 1
    if opening not in "{[":
        return
    index = 0
    while text[position := skip(position)] not in "}]":
        start, name = position, str(index)
        if opening == "{":
            name, position = decoder.raw_decode(text, position)
            position = skip(position)
        yield name, start, position
        position = decoder.raw_decode(text, position)[1]
        index += 1


def _json_last_line(text: str, key: str) -> int | None:
    matches = list(_json_key(key).finditer(text))
    return text.count("\n", 0, matches[-1].start()) + 1 if matches else None


_PARSERS: dict[str, Callable[[str, str], Document]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".toml": _parse_toml,
    ".json": _parse_json,
}
