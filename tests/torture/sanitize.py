"""sanitize: the native suites under ASan + UBSan and under TSan, and one of them under valgrind.

The extensions are built in a scratch copy of the tree (EDGECACHE_SANITIZE, see setup.py) and the
suites of the native parts run in it with the sanitizer's library loaded first. CPython itself is
not instrumented. Short: some modules under ASan + UBSan; long: all of them under both, and valgrind
on the build that is there. There are no suppressions; what the thread sanitizer must not take for
an access (`ec_glance_*`, a prefetch) is marked in `_sync.pxd`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from torture.campaign import CannotRunError, Row, Run

ROOT = Path(__file__).parents[2]
BUILD_S, RUN_S = 900, 1800
REPORT = re.compile(
    r"^.*(?:runtime error:|ERROR: AddressSanitizer|WARNING: ThreadSanitizer|SUMMARY:).*$", re.M
)
# Of valgrind: an error, and where. The interpreter has some of its own, which are none of ours.
VALGRIND_ERROR = re.compile(r"^==\d+== (?!    )(\S.*)\n((?:==\d+==    (?:at|by) .*\n)+)", re.M)
OURS = re.compile(r"/edgecache/_\w+\.cpython")
VALGRIND_FRAMES = 6  # how near an error must be to native code of ours
VALGRIND_SUITE = ("unit/test_index.py",)
# The first counts threads of the process, of which the sanitizer has one of its own. The second is
# the reader without a lock itself: it copies what may change, and asks the version afterwards.
NOT_UNDER_TSAN = "not threads_start_as_needed and not stay_whole_under_native_threads"
NATIVE_SUITES = tuple(f"unit/test_{name}.py" for name in (
    "bytes", "list", "hash", "meta", "index", "memory", "slab", "segment", "evict",
    "evict_policies", "io_memory", "io_threads", "recovery", "recovery_faults",
    "checkpoint", "reclaim", "rot", "timeouts", "io_contract", "faults", "reads",
    "prewrite", "unlogged", "superseded", "front"))  # fmt: skip
SHORT_MODULES = "_meta,_testing_formats,_evict,_testing_evict"
SHORT_SUITE = ("unit/test_bytes.py", "unit/test_meta.py", "unit/test_evict.py")


@dataclass(frozen=True)
class Sanitizer:
    """One build and how it is run."""

    name: str
    flag: str
    library: str
    environment: dict[str, str]
    suite: tuple[str, ...]


SANITIZERS = (
    Sanitizer(
        "ASan + UBSan", "address,undefined", "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
         "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"},
        NATIVE_SUITES,
    ),
    Sanitizer(
        "TSan", "thread", "libtsan.so",
        # Children of fork start threads, which the sanitizer would rather not see.
        {"TSAN_OPTIONS": "exitcode=66 history_size=4 die_after_fork=0"},
        ("crash/test_histories.py", "torture/test_short.py::"
         "test_a_short_run_finds_no_violation[race]", *NATIVE_SUITES, "unit/test_objects.py",
         "unit/test_aio.py", "unit/test_files.py", "unit/test_object_sharing.py"),
    ),
)  # fmt: skip


def library_of(name: str) -> str:
    if shutil.which("gcc") is None:
        raise CannotRunError("gcc is not installed")
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        raise CannotRunError(f"{name} is not installed (Debian: libasan8, libtsan2)")
    return found


def build(directory: Path, sanitizer: Sanitizer, modules: str) -> Path:
    """A copy of the tree with instrumented extensions in place."""
    tree = directory / sanitizer.library
    # A short run instruments some modules and takes the others as they are.
    ignored = shutil.ignore_patterns(*(() if modules else ("*.so",)), "*.c", "__pycache__", "temp*")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree / name)
    for name in modules.split(",") if modules else ():
        for path in (tree / "src" / "edgecache").glob(f"{name}.*.so"):
            path.unlink()
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=tree, capture_output=True, text=True, timeout=BUILD_S,
        env={**os.environ, "EDGECACHE_SANITIZE": sanitizer.flag, "EDGECACHE_ONLY": modules},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the build failed: {done.stderr[-800:]}")
    return tree


def examine(tree: Path, sanitizer: Sanitizer, suite: tuple[str, ...]) -> tuple[str, list[str]]:
    """Run the suite; what pytest says at its end, and the reports."""
    done = subprocess.run(
        # Not -s: a test reads what it prints. Descriptors are left alone, for reports go to one.
        [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider",
         "-k", NOT_UNDER_TSAN if sanitizer.flag == "thread" else "",
         *(f"tests/{name}" for name in suite)],
        cwd=tree, capture_output=True, text=True, timeout=RUN_S,
        env={**os.environ, **sanitizer.environment, "PYTHONMALLOC": "malloc",
             "PYTHONPATH": os.pathsep.join(["src", "."]),
             "LD_PRELOAD": library_of(sanitizer.library)},
    )  # fmt: skip
    text = done.stdout + done.stderr
    reports = sorted(set(REPORT.findall(text)))
    if done.returncode != 0 and not reports:
        reports = [f"pytest ended with {done.returncode}: {text[-600:]}"]
    return next((line for line in reversed(text.splitlines()) if " passed" in line), ""), reports


def valgrind(suite: tuple[str, ...]) -> tuple[str, list[str]]:
    """memcheck on the build that is there: what pytest says at its end, and the errors."""
    if shutil.which("valgrind") is None:
        raise CannotRunError("valgrind is not installed (Debian: valgrind)")
    done = subprocess.run(
        ["valgrind", "--error-limit=no", "--num-callers=20", sys.executable, "-m", "pytest", "-q",
         "-p", "no:cacheprovider", *(f"tests/{name}" for name in suite)],
        cwd=ROOT, capture_output=True, text=True, timeout=RUN_S,
        env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    reports = sorted(
        {
            f"{what}: {OURS.findall(stack)}"
            for what, stack in VALGRIND_ERROR.findall(done.stderr)
            if OURS.search("".join(stack.splitlines(keepends=True)[:VALGRIND_FRAMES]))
        }
    )
    if done.returncode != 0 and not reports:
        reports = [f"pytest ended with {done.returncode}: {done.stdout[-600:]}"]
    return next((line for line in done.stdout.splitlines() if " passed" in line), ""), reports


def sanitize(run: Run) -> str:
    said = []
    for number in run.numbers():
        if number % (len(SANITIZERS) + 1) == len(SANITIZERS):
            with run.judged(number):
                passed, reports = valgrind(VALGRIND_SUITE)
                for report in reports:
                    run.violation(number, f"valgrind: {report[:300]}")
                said.append(f"valgrind: {passed.split(' in ')[0] or 'stopped'}")
            continue
        sanitizer = SANITIZERS[number % (len(SANITIZERS) + 1)]
        modules = "" if run.is_long else SHORT_MODULES
        suite = sanitizer.suite if run.is_long else SHORT_SUITE
        library_of(sanitizer.library)
        with run.judged(number), run.scratch() as directory:
            passed, reports = examine(build(directory, sanitizer, modules), sanitizer, suite)
            for report in reports:
                run.violation(number, f"{sanitizer.name}: {report[:300]}")
            said.append(f"{sanitizer.name}: {passed.split(' in ')[0] or 'stopped'}")
    return ", ".join(said)


ROW = Row(
    "sanitize",
    "address, undefined behaviour and thread sanitizers, valgrind",
    "no report while the native suites run",
    short=1,
    long=3,
    run=sanitize,
)
