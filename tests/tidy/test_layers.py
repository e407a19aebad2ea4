"""Imports run downwards only; `layers.py` states the order, `ARCHITECTURE.md` the reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import (
    SOURCE,
    cython_imports,
    imports_of,
    module_name,
    modules,
    python_imports,
    sources,
)
from layers import EVERYWHERE, FAMILIES, KERNELS, LAYERS, NATIVE_USERS, complaint, layer_of

KNOWN = modules()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_uses_only_what_is_below_it(path: Path) -> None:
    user = module_name(path)
    used = imports_of(path, KNOWN)
    assert "." not in used, "relative imports hide the layer: write edgecache.x"
    complaints = [complaint(user, module) for module in sorted(used)]
    assert [text for text in complaints if text] == []


@pytest.mark.parametrize("module", sorted(KNOWN))
def test_every_module_has_a_row(module: str) -> None:
    is_placed = layer_of(module) is not None or module in EVERYWHERE
    assert is_placed or module.startswith("_testing"), "add it to tests/tidy/layers.py"


def test_no_module_is_named_in_two_rows() -> None:
    names = [name for _, patterns in LAYERS for name in patterns]
    assert len(names) == len(set(names))
    assert not EVERYWHERE & set(names)


def test_a_family_lives_in_one_row() -> None:
    for family in FAMILIES:
        assert len({layer_of(pattern) for pattern in family}) == 1, family


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_a_header_and_nothing_else(kernel: str) -> None:
    assert not (SOURCE / f"{kernel}.pyx").exists()
    assert not (SOURCE / f"{kernel}.py").exists()


def test_the_core_has_two_users() -> None:
    assert {user for user, used in NATIVE_USERS.items() if "_core" in used} == {"storage", "aio"}


@pytest.mark.parametrize(
    ("user", "used", "words"),
    [
        ("_index", "_memory", "siblings"),
        ("_segment_format", "_segment", "imports run down"),
        ("_bytes", "_status", "imports run down"),
        ("_memory", "_core", "imports run down"),
        ("_io_uring", "_index", "imports run down"),
        ("_index", "storage", "imports run down"),
        ("_index", "_testing_index", "for tests"),
        ("storage", "_testing_index", "for tests"),
        ("http", "_core", "not one of its native modules"),
        ("metrics", "_io", "not one of its native modules"),
        ("config", "_core", "not one of its native modules"),
        ("storage", "_index", "not one of its native modules"),
        ("proxy", "s3", "siblings"),
        ("config", "metrics", "siblings"),
        ("config", "storage", "imports run down"),
        ("errors", "config", "imports nothing"),
        ("storage", "surprise", "in no row"),
        ("surprise", "storage", "in no row"),
    ],
)
def test_a_wrong_direction_is_reported(user: str, used: str, words: str) -> None:
    assert words in complaint(user, used)


@pytest.mark.parametrize(
    ("user", "used"),
    [
        ("_memory", "_slab"), ("_slab", "_memory"), ("_io_uring", "_io"), ("_io", "_io_memory"),
        ("_evict_arc", "_evict_ghost"), ("_memory", "_evict"), ("_core", "_recovery"),
        ("_status", "errors"), ("storage", "_core"), ("aio", "storage"), ("config", "errors"),
        ("storage", "config"), ("http", "storage"), ("cli", "http"), ("_testing_x", "_core"),
        ("_segment", "_segment_format"), ("config", "config"), ("__init__", "storage"),
    ],
)  # fmt: skip
def test_a_right_direction_is_not(user: str, used: str) -> None:
    assert complaint(user, used) == ""


def test_cython_imports_are_found_in_every_form() -> None:
    source = '''
"""Prose: from edgecache._a cimport x"""
from edgecache._b cimport (One,  # from edgecache._c cimport y
                           Two)
    from edgecache._d cimport Three as Four
cimport edgecache._e as e, edgecache._f
import edgecache._g
from edgecache cimport _h, _i as j
from edgecache._k.inner import thing
from libc.stdint cimport uint64_t
cdef str text = "from edgecache._l cimport x"
from edgecache._m cimport \\
    far
'''
    found = cython_imports(source, {"_h"})
    assert found == {"_b", "_d", "_e", "_f", "_g", "_h", "_i", "_k", "_m"}
    assert cython_imports("from . cimport _x\n", set()) == {"."}


def test_python_imports_are_found_in_every_form() -> None:
    source = '''
"""from edgecache import hidden"""
import edgecache.storage, json
from edgecache.config.model import Config
from edgecache import errors, open
def late():
    from edgecache._core import Core
    importlib.import_module("edgecache.aio")
    __import__("edgecache.metrics")
'''
    found = python_imports(source, {"errors"})
    assert found == {"storage", "config", "errors", "__init__", "_core", "aio", "metrics"}
    assert python_imports("from .x import y\n", set()) == {"."}
