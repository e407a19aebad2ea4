"""The XXH3 functions reached through dlsym, and those of the Python fallback."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xxhash

import edgecache
from edgecache import _testing_formats as hooks
from edgecache import _xxhash

SEEDS = [0, 1, 0x9E3779B97F4A7C15, 2**64 - 1]
BACKENDS = ["active", "python"]
SOURCE = Path(edgecache.__file__).parent.parent
DATA = random.Random(20_001).randbytes(4096)


def run_python(code: str, **environment: str) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_native_backend_is_found_with_the_installed_wheel() -> None:
    assert _xxhash.xxhash_backend() == "native"
    assert hooks.IS_NATIVE
    assert "_xxhash" in _xxhash.xxhash_library()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_length_to_4096_agrees_with_the_package(backend: str, seed: int) -> None:
    view = memoryview(DATA)
    expected = [
        (
            xxhash.xxh3_64_intdigest(view[:size], seed),
            xxhash.xxh3_128_intdigest(view[:size], seed),
        )
        for size in range(len(DATA) + 1)
    ]
    assert hooks.hash_prefixes(DATA, seed, backend) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_input_agrees_with_the_package(backend: str) -> None:
    data = DATA * 300
    assert hooks.hash64(data, 5, backend) == xxhash.xxh3_64_intdigest(data, 5)
    assert hooks.hash128(data, 5, backend) == xxhash.xxh3_128_intdigest(data, 5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_stream_digest_is_that_of_the_concatenation_after_every_part(
    backend: str, seed: int
) -> None:
    generator = random.Random(20_002)
    parts = [generator.randbytes(size) for size in (0, 1, 63, 64, 65, 239, 241, 1024, 0, 5000)]
    sofar = [b"".join(parts[: count + 1]) for count in range(len(parts))]
    assert hooks.stream64(parts, seed, backend) == [
        xxhash.xxh3_64_intdigest(data, seed) for data in sofar
    ]
    assert hooks.stream128(parts, seed, backend) == [
        xxhash.xxh3_128_intdigest(data, seed) for data in sofar
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_hash_at_the_same_time_and_agree(backend: str) -> None:
    count = 2000
    expected = hooks.hash_in_loop(DATA[:100], 7, count, backend)
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(hooks.hash_in_loop(DATA[:100], 7, count, backend))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_import_does_not_execute_the_python_package() -> None:
    code = "import sys, edgecache._xxhash as x; print(x.xxhash_backend(), 'xxhash' in sys.modules)"
    assert run_python(code) == "native False"


def test_package_imported_before_or_after_shares_the_library() -> None:
    for order in ("import xxhash, edgecache._xxhash", "import edgecache._xxhash, xxhash"):
        code = f"{order}\nimport edgecache._xxhash as x\n" + (
            "print(x.xxhash_backend(), xxhash.xxh3_64_intdigest(b'a'))"
        )
        assert run_python(code) == f"native {xxhash.xxh3_64_intdigest(b'a')}"


FALLBACK = """
import sys
from edgecache import _testing_formats as hooks, _xxhash
print(_xxhash.xxhash_backend(), repr(_xxhash.xxhash_library()), hooks.IS_NATIVE,
      hooks.hash128(b'abc', 9), hooks.sum_pair(b'abc', b'd'))
"""


def test_forced_fallback_hashes_the_same() -> None:
    expected = f"python '' False {hooks.hash128(b'abc', 9)} {hooks.sum_pair(b'abc', b'd')}"
    assert run_python(FALLBACK, EDGECACHE_XXHASH="python") == expected


HIDDEN_SYMBOLS = """
from importlib.machinery import PathFinder
class NoExtension:
    submodule_search_locations = []
finder = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: NoExtension if name == "xxhash" else finder(name, *rest)
from edgecache import _xxhash
PathFinder.find_spec = finder
from edgecache import _testing_formats as hooks
print(_xxhash.xxhash_library() in ("", "libxxhash.so.0"), hooks.hash128(b'abc', 9))
"""


def test_missing_wheel_extension_falls_back_and_hashes_the_same() -> None:
    assert run_python(HIDDEN_SYMBOLS) == f"True {hooks.hash128(b'abc', 9)}"


LIBRARY_WITHOUT_SYMBOLS = """
import sys, types
import xxhash, edgecache._status
sys.modules["xxhash._xxhash"] = types.SimpleNamespace(__file__=edgecache._status.__file__)
from edgecache import _xxhash, _testing_formats as hooks
print(_xxhash.xxhash_library() in ("", "libxxhash.so.0"), hooks.hash128(b'abc', 9))
"""


def test_library_without_the_symbols_is_not_used() -> None:
    assert run_python(LIBRARY_WITHOUT_SYMBOLS) == f"True {hooks.hash128(b'abc', 9)}"
