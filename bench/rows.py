"""A row of a report: ours beside a peer, as a ratio with its spread and a verdict.

Invariants:

1. `ours` and `peer` hold one value per round, in the same unit and in the order of the rounds.
2. A ratio is ours / peer. `lower_is_better` says which side of `must` and `aim` is good.
3. Without a peer the value itself is compared with `must` and `aim` (index bytes, seconds).
4. A row whose peer is missing has no verdict, and `note` names the reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.measure import Sample, Spread

AIM, MUST, MISS, NONE = "aim", "must", "miss", "-"


@dataclass(frozen=True)
class Row:
    workload: str
    label: str
    unit: str
    ours: list[float]
    peer_name: str = ""
    peer: list[float] = field(default_factory=list)
    must: float | None = None
    aim: float | None = None
    lower_is_better: bool = True
    cpu_us: float | None = None
    peer_cpu_us: float | None = None
    wall_us: float | None = None
    peer_wall_us: float | None = None
    note: str = ""
    # Where the row stands in a plot: figure, series, and position. Empty: not drawn.
    at: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.peer and len(self.peer) != len(self.ours):
            raise ValueError(f"{self.label}: {len(self.ours)} rounds against {len(self.peer)}")

    @property
    def is_absolute(self) -> bool:
        """Whether the value stands for itself (invariant 3)."""
        return not self.peer_name

    @property
    def judged(self) -> Spread | None:
        """What is held against `must`: the ratios, or the values of an absolute row."""
        if self.is_absolute:
            return Spread.of(self.ours) if self.ours else None
        if not self.ours or not self.peer:
            return None
        return Spread.of([left / right for left, right in zip(self.ours, self.peer, strict=True)])

    @property
    def verdict(self) -> str:
        judged = self.judged
        if judged is None or (self.must is None and self.aim is None):
            return NONE
        if self.aim is not None and self._reaches(judged.median, self.aim):
            return AIM
        if self.must is not None and self._reaches(judged.median, self.must):
            return MUST
        return MISS

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.lower_is_better else value >= bound

    def to_dict(self) -> dict[str, Any]:
        judged = self.judged
        return {
            **asdict(self),
            "judged": asdict(judged) if judged else None,
            "verdict": self.verdict,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        return cls(**{k: v for k, v in data.items() if k not in ("judged", "verdict")})


FIGURES = {
    "wall us": ("us/op", True, lambda sample: sample.wall_us),
    "wall ns": ("ns/op", True, lambda sample: 1000 * sample.wall_us),
    "cpu us": ("us CPU/op", True, lambda sample: sample.cpu_us),
    "rate": ("op/s", False, lambda sample: sample.rate),
}


def compare(
    workload: str,
    label: str,
    figure: str,
    samples: dict[str, list[Sample]],
    peer: str,
    *,
    ours: str = "edgecache",
    must: float | None = None,
    aim: float | None = None,
    note: str = "",
) -> Row:
    """Build the row of two sides of `interleave`; an absent peer gives a row without verdict."""
    unit, lower, take = FIGURES[figure]
    mine, theirs = samples[ours], samples.get(peer, [])
    return Row(
        workload=workload,
        label=label,
        unit=unit,
        ours=[take(sample) for sample in mine],
        peer_name=peer,
        peer=[take(sample) for sample in theirs],
        must=must,
        aim=aim,
        lower_is_better=lower,
        cpu_us=Spread.of([s.cpu_us for s in mine]).median,
        peer_cpu_us=Spread.of([s.cpu_us for s in theirs]).median if theirs else None,
        wall_us=Spread.of([s.wall_us for s in mine]).median,
        peer_wall_us=Spread.of([s.wall_us for s in theirs]).median if theirs else None,
        note=note or ("" if theirs else f"{peer} is not installed"),
    )
