"""All rows, in the order in which they run."""

from __future__ import annotations

from torture import cuts, faults, kill, power, rot
from torture.campaign import Row

ROWS: dict[str, Row] = {module.ROW.name: module.ROW for module in (kill, power, cuts, rot, faults)}
