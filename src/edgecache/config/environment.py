"""Environment variables: EDGECACHE_<FIELD> for every field, and the EDGE_* ones of older systems.

An empty variable counts as not set, as shells and compose files make it easy to leave one empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from edgecache.config.kinds import Flag
from edgecache.config.settings import Origin, Setting, kind_of, parse

PREFIX = "EDGECACHE_"
ROOT_FALLBACK = "EDGE_STORE_DIR"
DISK_LIMIT = "EDGE_MAX_DISK_BYTES"
EVICTION_LIMIT = "EDGE_EVICTION_LIMIT_BYTES"
IO_URING = "EDGE_IO_URING"

# Source: the variables of the earlier edge-cdn-store server, with the field that each one sets.
# Three more are not one to one: ROOT_FALLBACK, EVICTION_LIMIT and IO_URING, see below.
OLDER_FIELDS: dict[str, str] = {
    DISK_LIMIT: "disk",
    "EDGE_MAX_OBJECT_BYTES": "max_object_size",
    "EDGE_MAX_PARTIAL_WRITES": "max_partial_writes",
    "EDGE_MAX_IN_MEM_PARTIAL_BYTES": "max_in_mem_partial_bytes",
    "EDGE_ATOMIC_PUBLISH": "atomic_publish",
}
# How alike a variable must be to a known one before it is called a misspelling. Orchestrators set
# EDGECACHE_SERVICE_HOST and the like on their own, so an unknown variable cannot be an error.
MISSPELLING_LIKENESS = 0.85


def variable(field_name: str) -> str:
    """Return the name of the variable that sets a field."""
    return PREFIX + field_name.upper()


def _read(environ: Mapping[str, str], name: str) -> Setting | None:
    value = environ.get(name, "").strip()
    return Setting(value, Origin(name), is_text=True) if value else None


def fallback(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Return what applies only where nothing else, not even a file, says something."""
    root = _read(environ, ROOT_FALLBACK)
    return {} if root is None else {"root": root}


def settings(
    environ: Mapping[str, str], fields: Iterable[dataclasses.Field[Any]]
) -> dict[str, Setting]:
    """Return the settings of all variables; EDGECACHE_* win over EDGE_*.

    A variable that looks like a misspelt EDGECACHE_* one is logged as a warning.

    Raises:
        ConfigError: EDGE_IO_URING, EDGE_MAX_DISK_BYTES or EDGE_EVICTION_LIMIT_BYTES is unusable.
    """
    by_name = {field.name: field for field in fields}
    found: dict[str, Setting] = {}
    for name, field_name in OLDER_FIELDS.items():
        setting = _read(environ, name)
        if setting is not None:
            found[field_name] = setting
    _add_eviction_limit(environ, found, by_name["disk"])
    _add_io_uring(environ, found)
    for field_name in by_name:
        setting = _read(environ, variable(field_name))
        if setting is not None:
            found[field_name] = setting
    _warn_of_misspellings(environ, [variable(field_name) for field_name in by_name])
    return found


def _add_eviction_limit(
    environ: Mapping[str, str], found: dict[str, Setting], disk: dataclasses.Field[Any]
) -> None:
    """Let the smaller of the two older limits be the disk budget.

    The earlier system evicted complete objects, which it kept on disk, down to EVICTION_LIMIT and
    refused new ones at DISK_LIMIT; here both mean eviction at a budget.
    """
    limit = _read(environ, EVICTION_LIMIT)
    if limit is None:
        return
    limit_bytes = parse(limit, kind_of(disk))
    given = found.get("disk")
    if given is not None:
        given_bytes = parse(given, kind_of(disk))
        assert isinstance(limit_bytes, int)
        assert isinstance(given_bytes, int)
        if given_bytes <= limit_bytes:
            return
    found["disk"] = limit


def _add_io_uring(environ: Mapping[str, str], found: dict[str, Setting]) -> None:
    """On: io_uring where the kernel allows it, as before. Off: the thread engine."""
    setting = _read(environ, IO_URING)
    if setting is not None:
        enabled = parse(setting, Flag())
        found["io"] = Setting("auto" if enabled else "threads", setting.origin)


def _warn_of_misspellings(environ: Mapping[str, str], known: list[str]) -> None:
    unknown = [name for name in environ if name.startswith(PREFIX) and name not in known]
    if not unknown:
        return
    import difflib  # these two only for a message
    import logging

    log = logging.getLogger("edgecache.config")
    for name in unknown:
        guess = difflib.get_close_matches(name[:100], known, 1, MISSPELLING_LIKENESS)
        if guess:
            log.warning("environment variable %s is unknown: %s?", name[:100], guess[0])
