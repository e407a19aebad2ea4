"""The `edge-cdn-cache-*` keys at the top level of a Pingora configuration file.

Source: the keys, their meaning and their root fallback are those of the earlier edge-cdn-store.
It took its defaults, silently, when a value had the wrong type; here that is an error, and so is an
unknown key with our prefix. All other keys of such a file belong to the server and are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecache.config.environment import ROOT_FALLBACK
from edgecache.config.kinds import Flag
from edgecache.config.settings import Origin, Setting, parse, unknown_key

PREFIX = "edge-cdn-cache-"
IO_URING = PREFIX + "io-uring-enabled"
ROOT_DEFAULT = "edge_store_data"

FIELDS: dict[str, str] = {
    PREFIX + "disk-root": "root",
    PREFIX + "max-disk-bytes": "disk",
    PREFIX + "max-object-bytes": "max_object_size",
    PREFIX + "max-partial-writes": "max_partial_writes",
    PREFIX + "max-in-mem-partial-bytes": "max_in_mem_partial_bytes",
    PREFIX + "atomic-publish": "atomic_publish",
    IO_URING: "io",
}


def is_ours(key: object) -> bool:
    """Say whether a top-level key is meant for the cache."""
    return isinstance(key, str) and key.startswith(PREFIX)


def translate(
    data: Mapping[Any, object], origin: Origin, environ: Mapping[str, str]
) -> dict[str, Setting]:
    """Return the settings of a Pingora configuration.

    A key without a value (null) counts as absent, as it did before. Without a root the cache goes
    to EDGE_STORE_DIR, else to "edge_store_data" in the working directory.

    Raises:
        ConfigError: A key with our prefix is unknown, or io-uring-enabled is not true or false.
    """
    found: dict[str, Setting] = {}
    for key, value in data.items():
        if not is_ours(key):
            continue
        if key not in FIELDS:
            raise unknown_key(origin.child(key), key, FIELDS)
        if value is None:
            continue
        setting = Setting(value, origin.child(key))
        if key == IO_URING:
            enabled = parse(setting, Flag())
            setting = Setting("auto" if enabled else "threads", setting.origin)
        found[FIELDS[key]] = setting
    if "root" not in found and not environ.get(ROOT_FALLBACK, "").strip():
        found["root"] = Setting(ROOT_DEFAULT, Origin("root"))
    return found
