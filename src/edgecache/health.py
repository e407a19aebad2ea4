"""The health of a store, judged from its statistics.

    ok        everything works as configured; notes tell what else is worth knowing
    degraded  it serves, but slower, smaller or with losses behind it: the reasons say what
    failing   the disk tier takes no writes; what is in RAM is served all the same

A cache never raises for a sick disk (DESIGN: it sheds, counts and goes on), so this is where an
operator sees it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgecache.metrics.schema import StatsSnapshot

HealthStatus = Literal["ok", "degraded", "failing"]


@dataclass(frozen=True, slots=True)
class HealthReason:
    """Why a store is not ok.

    Args:
        name: A fixed word, for alerts.
        detail: A sentence with the numbers.
        is_fatal: It alone makes the store failing.
    """

    name: str
    detail: str
    is_fatal: bool = False


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What `Storage.health()` returns.

    Args:
        status: The worst of the reasons.
        reasons: Empty when all is well.
        notes: What is no fault, but explains figures: which engine "auto" chose, and why.
        last_errno: Name of the last error of the device ("EIO"), or "".
        recovery: What opening found, in numbers.
    """

    status: HealthStatus
    reasons: tuple[HealthReason, ...]
    last_errno: str
    recovery: Mapping[str, float]
    notes: tuple[HealthReason, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "status": self.status,
            "reasons": [{"name": each.name, "detail": each.detail} for each in self.reasons],
            "notes": [{"name": each.name, "detail": each.detail} for each in self.notes],
            "last_errno": self.last_errno,
            "recovery": dict(self.recovery),
        }


def assess(snapshot: StatsSnapshot, last_errno: int) -> HealthReport:
    """Judge a snapshot.

    Args:
        snapshot: `Storage.stats()`.
        last_errno: What the device answered last when it failed; 0 if it never did.
    """
    name = errno.errorcode.get(last_errno, str(last_errno)) if last_errno else ""
    reasons = (
        *_of_the_disk(snapshot, name),
        *_of_the_engine(snapshot),
        *_of_the_recovery(snapshot),
    )
    status: HealthStatus = "ok"
    if reasons:
        status = "failing" if any(reason.is_fatal for reason in reasons) else "degraded"
    recovery = snapshot["recovery"]
    return HealthReport(
        status,
        reasons,
        name,
        {
            "seconds": recovery["seconds"],
            "records": recovery["records"],
            "regions_read": recovery["regions_read"],
            "regions_skipped": recovery["regions_skipped"],
        },
        tuple(_notes(snapshot)),
    )


def _of_the_disk(snapshot: StatsSnapshot, last_errno: str) -> list[HealthReason]:
    disk, log, errors = snapshot["disk"], snapshot["log"], snapshot["errors"]
    found = []
    if disk["is_read_only"]:
        found.append(
            HealthReason(
                "read_only",
                f"the disk tier takes no writes since {last_errno or 'an error'}; it is tried "
                "again now and then",
                is_fatal=True,
            )
        )
    if disk["regions"]["retired"]:
        found.append(
            HealthReason(
                "regions_retired",
                f"{disk['regions']['retired']} regions were given up after failed writes"
                + (f", the last with {last_errno}" if last_errno else ""),
            )
        )
    elif last_errno and not disk["is_read_only"]:
        found.append(HealthReason("disk_error", f"the device answered {last_errno}"))
    if log["checkpoint_failures"]:
        found.append(HealthReason("checkpoint", f"{log['checkpoint_failures']} checkpoints failed"))
    if errors["open"]:
        found.append(
            HealthReason("allocation", f"{errors['open']} times the disk gave no space or file")
        )
    return found


def _of_the_engine(snapshot: StatsSnapshot) -> list[HealthReason]:
    engine = snapshot["engine"]
    found = []
    if engine["hash"] != "native":
        found.append(
            HealthReason("hash_fallback", "the hash functions of the xxhash wheel are hidden")
        )
    refusal = engine["warm_refusal"]
    if refusal:
        found.append(
            HealthReason("keep_warm", f"nothing will be left for the next opening: {refusal}")
        )
    if snapshot["io"]["direct_refused"]:
        found.append(
            HealthReason(
                "direct_refused", "the file system refuses O_DIRECT; the page cache is used"
            )
        )
    return found


def _notes(snapshot: StatsSnapshot) -> list[HealthReason]:
    """Where io_uring is asked for by name and cannot run, opening fails; "auto" has a choice."""
    engine = snapshot["engine"]
    found = []
    if engine["io_fallback_reason"]:
        found.append(
            HealthReason(
                "io_fallback",
                f"the {engine['io']} engine runs instead of io_uring: "
                f"{engine['io_fallback_reason']}",
            )
        )
    if engine["cold_reason"]:
        found.append(
            HealthReason("cold_start", f"what was kept in memory: {engine['cold_reason']}")
        )
    return found


def _of_the_recovery(snapshot: StatsSnapshot) -> list[HealthReason]:
    found = []
    if snapshot["errors"]["corruption"].get("superblock"):
        found.append(
            HealthReason("reformatted", "the superblock was damaged: the cache was opened empty")
        )
    skipped = snapshot["recovery"]["regions_skipped"]
    if skipped:
        found.append(
            HealthReason("recovery", f"{skipped} regions were damaged or unreadable when opening")
        )
    return found
