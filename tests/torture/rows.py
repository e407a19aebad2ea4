"""All rows, in the order in which they run."""

from __future__ import annotations

from torture import cuts, faults, full, kill, power, race, rot, soak
from torture.campaign import Row

MODULES = (kill, power, cuts, rot, full, faults, race, soak)
ROWS: dict[str, Row] = {module.ROW.name: module.ROW for module in MODULES}
