"""Every source file keeps to the rules of the house that a linter does not know."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest
from allowed import PYX_WITHOUT_PXD, SKIPS
from imports import SOURCE, without_text

ROOT = SOURCE.parents[1]
CODE_SUFFIXES = frozenset({".py", ".pyx", ".pxd"})
TEXT_SUFFIXES = CODE_SUFFIXES | {".md", ".toml", ".yml", ".yaml", ".pyi", ".sh", ".txt"}
FOLDERS = ("src", "tests", "bench", "docs", "examples", "changelog.d", ".ci", ".github")
LINE_CHARACTERS_MAX = 100
FILE_LINES_ADVISED = 500
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70

UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~>-])/(?:home|Users|root|work|tmp)/[\w.]|C:\\+Users")
SKIP = re.compile(r"\b(?:pytest\.(?:skip|xfail|importorskip)|mark\.(?:skip|skipif|xfail))\b")
CYTHON_HEADER = re.compile(r"^#\s*(?:cython|distutils)\s*:", re.M)
CYTHON_FORBIDDEN = re.compile(
    r"^\s*(?:include\s+['\"]|DEF\s+\w|IF\s+\w.*:|cpdef\b)|\bcpdef\b", re.M
)
UNSAFE_MODULES = frozenset({"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill"})
UNSAFE_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
UNSAFE_CYTHON = re.compile(r"\b(?:pickle|marshal|shelve|dill)\b|(?<![\w.])(?:eval|exec)\s*\(")


def files(suffixes: frozenset[str] | set[str]) -> list[Path]:
    """All files of the repository with one of the suffixes; build products are not sources."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += (ROOT / folder).rglob("*")
    return sorted(
        path
        for path in found
        if path.suffix in suffixes
        and path.is_file()
        and not any(part.endswith(".egg-info") for part in path.parts)
    )


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text("utf-8")


RULES = Path(__file__)  # names what it forbids, so it is exempt from the rules on words
CODE = files(CODE_SUFFIXES)
TEXT = files(TEXT_SUFFIXES)
PACKAGE = [path for path in CODE if path.is_relative_to(SOURCE)]
TESTS = [path for path in CODE if path.is_relative_to(ROOT / "tests")]


def numbered(path: Path, is_bad: re.Pattern[str], text: str | None = None) -> list[str]:
    """Lines that match, as file:line."""
    lines = (read(path) if text is None else text).splitlines()
    return [f"{name(path)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1)
            if is_bad.search(line)]  # fmt: skip


def test_there_are_sources_to_look_at() -> None:
    assert {"src/edgecache/_sync.pxd", "src/edgecache/__init__.py", "setup.py"} <= set(
        map(name, CODE)
    )


def test_lines_fit_the_width() -> None:
    long = re.compile(f".{{{LINE_CHARACTERS_MAX + 1}}}")
    hits = [hit for path in CODE for hit in numbered(path, long)]
    assert not hits, "\n".join(hits)


def test_files_are_short_enough_to_read() -> None:
    lengths = {name(path): read(path).count("\n") for path in CODE}
    advised = {path: n for path, n in lengths.items() if n > FILE_LINES_ADVISED}
    if advised:
        warnings.warn(f"look for a seam in {advised}", stacklevel=1)
    assert {path: n for path, n in advised.items() if n >= FILE_LINES_MAX} == {}


def test_python_functions_of_the_package_fit_a_screen() -> None:
    long = [
        f"{name(path)}:{node.lineno}: {node.name}"
        for path in PACKAGE
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_no_tabs_no_trailing_blanks_and_one_newline_at_the_end() -> None:
    blank = re.compile(r"\t|[ \r]$")
    hits = [hit for path in CODE for hit in numbered(path, blank)]
    assert not hits, "\n".join(hits)
    ends = [name(path) for path in CODE if read(path) and not re.search(r"[^\n]\n\Z", read(path))]
    assert ends == []


def test_nothing_is_left_unfinished() -> None:
    hits = [hit for path in CODE if path != RULES for hit in numbered(path, UNFINISHED)]
    assert not hits, "\n".join(hits)


def test_no_path_of_a_machine_is_written_down() -> None:
    hits = [hit for path in TEXT if path != RULES for hit in numbered(path, MACHINE_PATH)]
    assert not hits, "\n".join(hits)


def test_only_listed_tests_may_skip_and_every_entry_is_needed() -> None:
    skipping = {name(path) for path in TESTS if path != RULES and SKIP.search(read(path))}
    assert skipping == SKIPS.keys()
    assert all(len(reason) > 10 for reason in SKIPS.values())


def unsafe_python(source: str) -> list[str]:
    """Modules and builtins that turn data into code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in UNSAFE_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in UNSAFE_CALLS else []
    return found


def test_the_package_never_turns_data_into_code() -> None:
    found = {}
    for path in PACKAGE:
        source = read(path)
        if path.suffix == ".py":
            hits = unsafe_python(source)
        else:
            hits = numbered(path, UNSAFE_CYTHON, without_text(source))
        if hits:
            found[name(path)] = hits
    assert found == {}


def test_cython_uses_no_textual_includes_no_cpdef_and_no_compile_time_names() -> None:
    assert files({".pxi"}) == []
    native = [path for path in PACKAGE if path.suffix != ".py"]
    found = [hit for path in native for hit in numbered(path, CYTHON_FORBIDDEN, code_of(path))]
    assert found == []


def code_of(path: Path) -> str:
    return without_text(read(path))


def test_cython_directives_stand_in_setup_py_only() -> None:
    native = [path for path in PACKAGE if path.suffix != ".py"]
    assert [name(path) for path in native if CYTHON_HEADER.search(read(path))] == []


def test_the_repository_has_no_c_source_of_its_own() -> None:
    generated = {path.with_suffix(".c") for path in PACKAGE if path.suffix == ".pyx"}
    own = {path for path in (ROOT / "src").rglob("*.[ch]") if path not in generated}
    assert own == set()


def test_every_component_has_a_header() -> None:
    bare = {
        name(path)
        for path in PACKAGE
        if path.suffix == ".pyx"
        and not path.with_suffix(".pxd").exists()
        and not path.stem.startswith("_testing")
    }
    assert bare == PYX_WITHOUT_PXD.keys()


def test_every_test_file_holds_a_test() -> None:
    for path in TESTS:
        if not path.name.startswith("test_"):
            continue
        tree = ast.parse(read(path))
        names = [node.name for node in ast.walk(tree)
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip
        is_machine = any("TestCase" in line for line in read(path).splitlines())
        assert is_machine or any(n.startswith("test_") for n in names), name(path)


def test_test_files_are_told_apart_by_their_names() -> None:
    """The test directories are no packages, so two files of one name would shadow each other."""
    modules = [path.stem for path in TESTS if path.stem not in ("conftest", "__init__")]
    assert sorted(modules) == sorted(set(modules))


def test_tests_that_pytest_would_not_find_are_none() -> None:
    for path in TESTS:
        if path.name.startswith(("test_", "conftest")):
            continue
        assert not re.search(r"^(?:async )?def test_", read(path), re.M), name(path)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (UNFINISHED, "# TODO: later"),
        (UNFINISHED, "raise NotImplementedError"),
        (MACHINE_PATH, 'open("/home/me/x")'),
        (MACHINE_PATH, "see /Users/me"),
        (MACHINE_PATH, "/tmp/x"),
        (SKIP, "    pytest.skip('no')"),
        (SKIP, "@pytest.mark.skipif(True)"),
        (CYTHON_HEADER, "# cython: language_level=3"),
        (CYTHON_FORBIDDEN, "cpdef int f():"),
        (CYTHON_FORBIDDEN, "    cpdef f(self):"),
        (CYTHON_FORBIDDEN, "DEF SIZE = 3"),
        (CYTHON_FORBIDDEN, "include 'x.pxi'"),
        (UNSAFE_CYTHON, "import pickle"),
        (UNSAFE_CYTHON, "eval(text)"),
    ],
)
def test_a_pattern_finds_what_it_is_for(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "https://example.org/tmp/x and docs/tmp/x, /var/cache/edge"),
        (MACHINE_PATH, "<prefix>/tmp/"),
        (UNSAFE_CYTHON, "re.compile(x); unpickled; self.exec(x)"),
        (CYTHON_FORBIDDEN, "cdef int DEFAULT = 3; #include <x.h>"),
    ],
)
def test_a_pattern_passes_what_it_is_not_for(pattern: re.Pattern[str], text: str) -> None:
    assert not pattern.search(text)


def test_unsafe_python_is_found_in_every_form() -> None:
    source = "import pickle.x, os\nfrom marshal import loads\neval('1')\nre.compile('x')\nexec('')"
    assert unsafe_python(source) == ["pickle.x", "marshal", "eval", "exec"]
