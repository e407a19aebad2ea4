"""Health: each reason from its cause, the worst decides, and a sick disk recovers."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecache import Config, Storage
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import fail
from edgecache.health import assess
from edgecache.metrics import StatsSnapshot, empty_snapshot


def well() -> StatsSnapshot:
    snapshot = empty_snapshot()
    snapshot["engine"]["hash"] = "native"
    return snapshot


def read_only(found: StatsSnapshot) -> None:
    found["disk"]["is_read_only"] = True


def retired(found: StatsSnapshot) -> None:
    found["disk"]["regions"]["retired"] = 2


def checkpoint(found: StatsSnapshot) -> None:
    found["log"]["checkpoint_failures"] = 1


def allocation(found: StatsSnapshot) -> None:
    found["errors"]["open"] = 1


def fallback(found: StatsSnapshot) -> None:
    found["engine"]["io_fallback_reason"] = "seccomp"


def hashes(found: StatsSnapshot) -> None:
    found["engine"]["hash"] = "python"


def direct(found: StatsSnapshot) -> None:
    found["io"]["direct_refused"] = 1


def reformatted(found: StatsSnapshot) -> None:
    found["errors"]["corruption"] = {"superblock": 1}


def skipped(found: StatsSnapshot) -> None:
    found["recovery"]["regions_skipped"] = 4


def reset(found: StatsSnapshot) -> None:
    found["sharing"]["index_resets"] = 1


CAUSES: list[tuple[Callable[[StatsSnapshot], None], str, str]] = [
    (read_only, "read_only", "failing"),
    (retired, "regions_retired", "degraded"),
    (checkpoint, "checkpoint", "degraded"),
    (allocation, "allocation", "degraded"),
    (hashes, "hash_fallback", "degraded"),
    (direct, "direct_refused", "degraded"),
    (reformatted, "reformatted", "degraded"),
    (skipped, "recovery", "degraded"),
    (reset, "index_reset", "degraded"),
]


def test_a_well_store_has_no_reasons() -> None:
    report = assess(well(), 0)
    assert (report.status, report.reasons, report.last_errno) == ("ok", (), "")


@pytest.mark.parametrize(("cause", "name", "status"), CAUSES, ids=[name for _, name, _ in CAUSES])
def test_each_cause_has_its_reason(
    cause: Callable[[StatsSnapshot], None], name: str, status: str
) -> None:
    snapshot = well()
    cause(snapshot)
    report = assess(snapshot, 0)
    assert report.status == status
    assert [reason.name for reason in report.reasons] == [name]
    assert report.reasons[0].detail


def test_the_engine_that_auto_chose_is_a_note_and_no_fault() -> None:
    snapshot = well()
    fallback(snapshot)
    report = assess(snapshot, 0)
    assert (report.status, report.reasons) == ("ok", ())
    assert [note.name for note in report.notes] == ["io_fallback"]
    assert "seccomp" in report.notes[0].detail
    assert report.to_dict()["notes"][0]["name"] == "io_fallback"
    assert assess(well(), 0).notes == ()


def test_who_shares_the_cache_and_what_deaths_cost_are_notes_and_no_fault() -> None:
    snapshot = well()
    snapshot["sharing"].update(processes=3, writer_pid=77)
    report = assess(snapshot, 0)
    assert [(note.name, note.detail) for note in report.notes] == [
        ("processes", "3 have the cache open; process 77 writes")
    ]
    snapshot["sharing"].update(writer_pid=0, deaths=2, lock_repairs=1, shard_resets=1)
    report = assess(snapshot, 0)
    assert (report.status, report.reasons) == ("ok", ())
    assert [note.name for note in report.notes] == ["processes", "repairs"]
    assert "none has the role" in report.notes[0].detail
    assert report.notes[1].detail.startswith("2 processes died")


def test_the_worst_reason_decides_and_all_are_told() -> None:
    snapshot = well()
    for cause, _, _ in CAUSES:
        cause(snapshot)
    report = assess(snapshot, errno.EIO)
    assert report.status == "failing"
    assert {reason.name for reason in report.reasons} == {name for _, name, _ in CAUSES}
    assert report.last_errno == "EIO"


def test_an_error_of_the_device_is_named_and_degrades() -> None:
    report = assess(well(), errno.EIO)
    assert (report.status, report.last_errno) == ("degraded", "EIO")
    assert [reason.name for reason in report.reasons] == ["disk_error"]
    assert assess(well(), 9999).last_errno == "9999"


def test_a_report_is_plain_data() -> None:
    report = assess(well(), errno.ENOSPC).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["recovery"]["records"] == 0


def test_a_new_store_is_well(tmp_path: Path) -> None:
    for config in (Config(memory="2MiB"), Config(io="memory", memory="2MiB", disk="64MiB")):
        with Storage(config) as store:
            assert store.health().status == "ok"


def test_a_fallback_of_the_engine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_IO_FAIL", "setup:EPERM")
    with Storage(Config(root=str(tmp_path / "r"), memory="2MiB", disk="64MiB")) as store:
        report = store.health()
        assert (report.status, report.reasons) == ("ok", ())
        assert report.notes[0].name == "io_fallback"
        assert store.stats()["engine"]["io"] == "threads"


def test_a_sick_disk_makes_the_store_failing_and_nothing_raises() -> None:
    disk = MemoryDisk()
    with Storage(Config(io="memory", memory="2MiB", disk="64MiB"), disk=disk) as store:
        store.put("before", b"value")
        store.sync()
        fail(disk, "write", errno.EIO, count=-1)
        for number in range(2000):
            store.put(f"k{number}", bytes(10_000))
            if store.stats()["disk"]["is_read_only"]:
                break
        report = store.health()
        assert report.status == "failing"
        assert report.last_errno == "EIO"
        assert "read_only" in {reason.name for reason in report.reasons}
        assert store.get("before") in (b"value", None)
