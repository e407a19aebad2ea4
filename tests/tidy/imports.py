"""Find what a source file imports and cimports of this package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "edgecache"

_TEXT = re.compile(r'(?s)("""|\'\'\').*?\1|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
_FROM = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n;]*)", re.M)
_PLAIN = re.compile(r"^[ \t]*c?import[ \t]+([^\n;(]+)", re.M)


def without_text(source: str) -> str:
    """Blank out strings and comments; lines stay where they are."""

    def blank(match: re.Match[str]) -> str:
        return (
            "\n" * match[0].count("\n")
            if match[0][0] == "#"
            else "''" + "\n" * (match[0].count("\n"))
        )

    return _TEXT.sub(blank, source)


def module_name(path: Path) -> str:
    """Return the top-level name of a file of the package: `_index`, `config`, `__init__`."""
    return path.relative_to(SOURCE).parts[0].partition(".")[0]


def modules() -> set[str]:
    """Return the top-level names of all sources of the package."""
    return {module_name(path) for path in sources()}


def sources() -> list[Path]:
    """Return all sources of the package."""
    return sorted(path for suffix in ("py", "pyx", "pxd") for path in SOURCE.rglob(f"*.{suffix}"))


def _ours(module: str, names: list[str], known: set[str]) -> set[str]:
    """Resolve `from module import names` to top-level names of the package."""
    parts = module.split(".")
    if parts[0] != "edgecache":
        return set()
    if len(parts) > 1:
        return {parts[1]}
    return {name if name in known or name.startswith("_") else "__init__" for name in names}


def cython_imports(source: str, known: set[str]) -> set[str]:
    """Return what a .pyx or .pxd uses; a relative import is returned as "."."""
    code = without_text(source).replace("\\\n", " ")
    found: set[str] = set()
    for module, names in _FROM.findall(code):
        if module.startswith("."):
            found.add(".")
        words = [part.split()[0] for part in names.strip("()").split(",") if part.split()]
        found |= _ours(module, words, known)
    for names in _PLAIN.findall(code):
        for part in names.split(","):
            module = part.split()[0] if part.split() else ""
            found |= _ours(module, ["__init__"], known)
    return found


def python_imports(source: str, known: set[str]) -> set[str]:
    """Return what a .py uses, wherever the import stands; a relative import is ".".

    `import_module("edgecache.x")` and `__import__("edgecache.x")` count as well. Imports for type
    checking only count: they are knowledge, too.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                found.add(".")
            found |= _ours(node.module or "", [alias.name for alias in node.names], known)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found |= _ours(alias.name, ["__init__"], known)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                found |= _ours(str(node.args[0].value), ["__init__"], known)
    return found


def imports_of(path: Path, known: set[str]) -> set[str]:
    """Return the top-level names of the package that a source file uses."""
    source = path.read_text("utf-8")
    return (python_imports if path.suffix == ".py" else cython_imports)(source, known)
