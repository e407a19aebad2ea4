"""From files, mappings and arguments to settings: which style a source is written in.

own, plain      only our keys at the top level; anything else is an error
own, nested     our keys below `edgecache:`; the other top-level keys belong to others
pingora         `edge-cdn-cache-*` keys at the top level; the other keys belong to the server
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgecache.config import pingora
from edgecache.config.settings import Origin, Setting, table

if TYPE_CHECKING:
    from edgecache.config.documents import Document

SECTION = "edgecache"

Style = Literal["auto", "own", "pingora"]


def from_document(
    document: Document, style: Style, environ: Mapping[str, str], names: Iterable[str]
) -> dict[str, Setting]:
    """Return the settings of a file."""
    origin = Origin("", document.path, (), document.line_of)
    return _from_data(document.data, style, origin, environ, names)


def from_mapping(
    data: Mapping[str, object], environ: Mapping[str, str], names: Iterable[str]
) -> dict[str, Setting]:
    """Return the settings of a mapping given by the program."""
    return _from_data(data, "auto", Origin(""), environ, names)


def from_section(data: object, origin: Origin, names: Iterable[str]) -> dict[str, Setting]:
    """Return the settings of a section with our keys in a document of somebody else."""
    if not isinstance(data, Mapping):
        raise origin.error("this section is not a table of keys", "indent the keys below it")
    return table(data, names, origin)


def arguments(values: Mapping[str, object], names: Iterable[str]) -> dict[str, Setting]:
    """Return the settings of keyword arguments."""
    return table(values, names, Origin(""))


def _from_data(
    data: Any, style: Style, origin: Origin, environ: Mapping[str, str], names: Iterable[str]
) -> dict[str, Setting]:
    if style not in get_args(Style):
        raise origin.error(f"the style {style!r} is unknown", "use auto, own or pingora")
    if not isinstance(data, Mapping):
        raise origin.error("the configuration is not a table of keys", "write `key: value` lines")
    is_nested = SECTION in data
    is_pingora = any(pingora.is_ours(key) for key in data)
    if is_nested and is_pingora and style == "auto":
        raise origin.child(SECTION).error(
            f"the file has {pingora.PREFIX}* keys as well",
            f"keep the {SECTION} section and remove the {pingora.PREFIX}* keys, or the reverse",
        )
    if style == "pingora" or (style == "auto" and is_pingora):
        return pingora.translate(data, origin, environ)
    if not is_nested:
        return table(data, names, origin)
    section = data[SECTION]
    if section is None:  # `edgecache:` with all its lines commented out
        section = {}
    if not isinstance(section, Mapping):
        raise origin.child(SECTION).error(
            "this section is not a table of keys", "indent the keys below it"
        )
    return table(section, names, origin.child(SECTION))
