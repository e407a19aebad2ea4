"""Where the settings of a server come from: a file, the environment, the command line.

Precedence, strongest first: command line, EDGECACHE_* variables, file, default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from edgecache.config import Config
from edgecache.config.documents import read_document
from edgecache.config.settings import KeyPath, Origin
from edgecache.server.sections import Layers, build
from edgecache.server.settings import ServerSettings

# What containers set; the keys of `cache` have variables of their own (docs/configuration.md).
SERVER_VARIABLES: Mapping[str, KeyPath] = {
    "EDGECACHE_LISTEN": ("listen",),
    "EDGECACHE_UPSTREAM": ("proxy", "upstream"),
    "EDGECACHE_PROFILE": ("proxy", "profile"),
    "EDGECACHE_ADMIN_LISTEN": ("admin", "listen"),
    "EDGECACHE_ADMIN_TOKEN": ("admin", "token"),
    "EDGECACHE_ADMIN_TOKEN_FILE": ("admin", "token_file"),
    "EDGECACHE_METRICS_LISTEN": ("metrics", "listen"),
    "EDGECACHE_LOG_LEVEL": ("log", "level"),
    "EDGECACHE_DRAIN": ("drain_s",),
}
OPTIONS: Mapping[str, KeyPath] = {
    "listen": ("listen",),
    "workers": ("workers",),
    "upstream": ("proxy", "upstream"),
    "profile": ("proxy", "profile"),
}
LISTS: frozenset[KeyPath] = frozenset({("listen",), ("proxy", "upstream")})


def load_settings(
    path: str | None,
    options: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> ServerSettings:
    """Return the settings of a file, the environment and the command line.

    Args:
        path: A .yaml, .yml, .toml or .json file; None: defaults.
        options: From the command line: root, memory, disk, listen, upstream, profile, workers.
        environ: Instead of the process's.

    Raises:
        ConfigError: Something is not usable; it names file, line and key.
    """
    variables = os.environ if environ is None else environ
    data: Any = {}
    file = Origin("")
    if path is not None:
        document = read_document(path)
        data = document.data if document.data is not None else {}
        file = Origin("", document.path, (), document.line_of)
    if not isinstance(data, Mapping):
        raise file.error("the configuration is not a table of keys", "write `key: value` lines")
    cache = Config.from_section(
        data.get("cache"),
        file.child("cache"),
        environ=variables,
        **{name: options[name] for name in ("root", "memory", "disk") if name in options},
    )
    rest = {name: value for name, value in data.items() if name != "cache"}
    named: dict[KeyPath, str] = {}
    for name, key_path in SERVER_VARIABLES.items():
        text = variables.get(name, "").strip()
        if text:
            _set(rest, key_path, _from_text(key_path, text), named, name)
    for option, key_path in OPTIONS.items():
        if option in options:
            _set(rest, key_path, options[option], named, f"--{option}")
    origin = Layers("", file.path, (), file.line_of, named=named)
    return build(ServerSettings, rest, origin, {"cache": cache})


def _from_text(key_path: KeyPath, text: str) -> object:
    if key_path in LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return None if text.lower() == "none" else text


def _set(
    data: dict[Any, Any], key_path: KeyPath, value: object, named: dict[KeyPath, str], name: str
) -> None:
    """Set a key over what the file says; a section that is none in the file is left to `build`."""
    section: dict[Any, Any] = data
    for part in key_path[:-1]:
        given = section.get(part)
        if given is not None and not isinstance(given, Mapping):
            return
        section[part] = dict(given or {})
        section = section[part]
    section[key_path[-1]] = value
    named[key_path] = name
