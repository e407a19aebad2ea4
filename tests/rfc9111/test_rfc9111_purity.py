"""The rules have no clock and no I/O, and see no other part of edgecache but the errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgecache.rfc9111

FOLDER = Path(edgecache.rfc9111.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
ALLOWED = frozenset(
    (
        *("__future__", "base64", "binascii", "collections.abc", "dataclasses", "datetime", "enum"),
        *("functools", "re", "struct", "types", "typing", "urllib.parse", "edgecache.errors"),
    )
)
CLOCKS = frozenset(("now", "utcnow", "today", "time", "time_ns", "monotonic", "open", "print"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_what_is_pure(path: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(node.module or "")
    foreign = {name for name in used if not name.startswith("edgecache.rfc9111.")}
    assert foreign <= ALLOWED


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_reads_no_clock_and_no_file(path: Path) -> None:
    called = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func
            called.add(name.id if isinstance(name, ast.Name) else getattr(name, "attr", ""))
    assert not called & CLOCKS


def test_the_page_names_every_module_that_a_door_calls() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
    for path in MODULES:
        if path.stem in (
            "key",
            "request",
            "vary",
            "reuse",
            "preconditions",
            "ranges",
            "validation",
        ):
            assert f"`{path.stem}." in page
