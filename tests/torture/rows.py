"""All rows, in the order in which they run."""

from __future__ import annotations

from torture import (
    clock,
    cuts,
    faults,
    full,
    fuzzing,
    hung,
    kill,
    memory,
    power,
    race,
    refused,
    rot,
    sanitize,
    shared,
    soak,
)
from torture.campaign import Row

MODULES = (kill, shared, power, cuts, rot, full, faults, race, hung, refused, memory, clock,
           sanitize, fuzzing, soak)  # fmt: skip
ROWS: dict[str, Row] = {module.ROW.name: module.ROW for module in MODULES}
