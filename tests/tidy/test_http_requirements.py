"""docs/http-requirements.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "http-requirements.md"
TESTS = ROOT / "tests" / "integration"
_TEST = re.compile(r"(?P<file>[a-z_]+)::(?P<name>test_\w+)(?:/(?P<case>.+))?")
# Cases of a table that a loop makes have no line of their own.
_MADE = {"no validator, must-revalidate, closed"}


def test_every_requirement_names_a_test_that_exists() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ")[-1] for line in lines[1:]]
    assert len(rows) >= 70
    missing = [row for row in rows if not _exists(row)]
    assert missing == []


def _exists(row: str) -> bool:
    found = _TEST.fullmatch(row)
    if found is None:
        return False
    path = TESTS / f"test_{found['file']}.py"
    text = path.read_text() if path.exists() else ""
    case = found["case"]
    has_case = not case or case in _MADE or f'"{case}":' in text
    return f"def {found['name']}(" in text and has_case
