"""The bench of objects runs, and its rows say what was measured."""

from __future__ import annotations

from bench.objects import PIECE_BYTES, READERS, run


def test_a_row_holds_both_sides_and_their_ratio() -> None:
    row = run("tail", PIECE_BYTES, 2)
    assert READERS == 100
    assert (row["name"], row["bytes"], row["rounds"]) == ("tail", PIECE_BYTES, 2)
    assert row["ours_wall_s"] > 0
    assert row["file_wall_s"] > 0
    assert row["wall_ratio_least"] <= row["wall_ratio"] <= row["wall_ratio_greatest"]
