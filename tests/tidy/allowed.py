"""Exceptions to the rules of `test_sources.py`, each with its reason.

A path that is listed and does not need it fails as well, so the lists cannot grow stale.
"""

from __future__ import annotations

# Components without a header: nothing cimports them.
PYX_WITHOUT_PXD: dict[str, str] = {}

# Tests that may skip, by file: what the machine may lack.
SKIPS: dict[str, str] = {}
