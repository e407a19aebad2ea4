"""`import edgecache` costs next to nothing, and every public name is there when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgecache

IMPORT_US_MAX = 30_000
# Packages of extras, and what is only needed once a store is open or a metric is exported.
NOT_ON_IMPORT = (
    "yaml", "prometheus_client", "numpy", "uvloop", "httptools", "aiohttp", "fastapi", "uvicorn",
    "typer", "rich", "obstore", "redis", "xxhash", "liburing", "asyncio", "edgecache._core",
    "edgecache.storage", "edgecache.config", "edgecache.errors", "typing", "dataclasses",
)  # fmt: skip
# `import edgecache.storage` opens a store: still no extra, and no heavy library.
NOT_ON_STORAGE = (
    "yaml", "prometheus_client", "numpy", "uvloop", "httptools", "aiohttp", "fastapi", "uvicorn",
    "typer", "rich", "obstore", "redis", "liburing", "asyncio",
)  # fmt: skip


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )


def import_us() -> int:
    """What `-X importtime` says for the package, everything below it included."""
    lines = python("-X", "importtime", "-c", "import edgecache").stderr.splitlines()
    (line,) = [line for line in lines if line.endswith("| edgecache")]
    return int(line.split("|")[1])


def test_importing_the_package_stays_in_its_budget() -> None:
    # The least of five: others may use the machine, which can only add to it.
    assert min(import_us() for _ in range(5)) < IMPORT_US_MAX


@pytest.mark.parametrize(
    ("module", "absent"), [("edgecache", NOT_ON_IMPORT), ("edgecache.storage", NOT_ON_STORAGE)]
)
def test_an_import_loads_no_module_of_an_extra(module: str, absent: tuple[str, ...]) -> None:
    # `-S -E`: what site packages load on their own (an editable install) is not ours.
    before = set(python("-c", "import sys; print(*sys.modules)").stdout.split())
    after = set(python("-c", f"import sys, {module}; print(*sys.modules)").stdout.split())
    assert set(absent) & (after - before) == set()


def test_every_public_name_loads_and_is_listed() -> None:
    for name in edgecache.__all__:
        assert getattr(edgecache, name) is not None
    assert set(edgecache.__all__) <= set(dir(edgecache))
    assert set(edgecache._HOMES) | {"__version__"} == set(edgecache.__all__)


def test_type_checkers_see_the_names_that_are_loaded_late() -> None:
    tree = ast.parse(Path(edgecache.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: (node.module.removeprefix("edgecache."), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert seen.keys() == edgecache._HOMES.keys()
    for name, (module, original) in seen.items():
        loaded = getattr(__import__(f"edgecache.{module}", fromlist=[original]), original)
        assert loaded is getattr(edgecache, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="surprise"):
        edgecache.surprise  # noqa: B018
