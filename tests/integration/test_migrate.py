"""Converting a root between the layouts: everything arrives, also after a kill in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgecache import Config, Meta, Storage, errors
from edgecache.migrate import detect_config, main, migrate, target_config
from edgecache.objects.head import decode_head

TESTS = Path(__file__).parents[1]
LAYOUTS = [("log", "files"), ("files", "log")]


def config_of(root: Path, layout: str, **changes: object) -> Config:
    options = {
        "root": str(root), "layout": layout, "memory": "1MiB", "disk": "256MiB", "shards": 1,
    }  # fmt: skip
    return Config.from_dict({**options, **changes})


def fill(root: Path, layout: str, count: int = 200, **changes: object) -> dict[str, bytes]:
    values = {
        f"key-{number}": os.urandom(number % 40) * (number % 90 + 1) for number in range(count)
    }
    values["large"] = os.urandom(700_000)
    with Storage(config_of(root, layout, **changes)) as store:
        for number, (key, value) in enumerate(values.items()):
            assert store.put(
                key, value, tags=["even"] * (number % 2 == 0), ttl=3600 if number % 3 else None
            )
        assert store.put("stale", b"old", meta=Meta(created=1, updated=1, fresh_until=2))
        assert store.put("over", b"gone", ttl=0)
    return values


def read_all(config: Config, keys: list[str]) -> dict[str, object]:
    with Storage(config) as store:
        found = {key: store.read_entry(key) for key in keys}
    return {key: entry and entry[:3] for key, entry in found.items()}


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
def test_every_entry_arrives_with_meta_and_expiry(tmp_path: Path, source: str, target: str) -> None:
    values = fill(tmp_path / "old", source)
    old = detect_config(tmp_path / "old")
    assert old.layout == source
    new = target_config(old, str(tmp_path / "new"), target)
    seen: list[tuple[str, int, int]] = []
    report = migrate(old, new, progress=lambda *step: seen.append(step))
    assert report.exit_code == 0
    assert (report.copied, report.verified, report.failed) == (202, 202, 0)
    assert {step[0] for step in seen} == {"copy", "verify"}
    assert seen[-1][1] == seen[-1][2] == report.entries
    keys = [*values, "stale", "over", "absent"]
    expected = read_all(config_of(tmp_path / "old", source), keys)
    assert read_all(detect_config(tmp_path / "new"), keys) == expected
    assert expected["stale"] is not None
    assert expected["over"] is None
    with Storage(detect_config(tmp_path / "new")) as store:
        assert store.get("large") == values["large"]
        assert store.get("stale") is None
        assert store.purge_tag("even") == 101


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
def test_a_second_run_writes_nothing(tmp_path: Path, source: str, target: str) -> None:
    fill(tmp_path / "old", source)
    old = detect_config(tmp_path / "old")
    new = target_config(old, str(tmp_path / "new"), target)
    assert migrate(old, new).copied == 202
    report = migrate(old, new)
    assert (report.copied, report.present, report.verified) == (0, 202, 202)


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
def test_a_killed_migration_is_finished_by_another_run(
    tmp_path: Path, source: str, target: str
) -> None:
    values = fill(tmp_path / "old", source, 600)
    old = detect_config(tmp_path / "old")
    new = target_config(old, str(tmp_path / "new"), target)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [
        sys.executable, "-m", "edgecache.migrate", str(tmp_path / "old"), str(tmp_path / "new"),
        "--to", target,
    ]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    assert child.stderr is not None
    said = b""
    while b"copy: 3" not in said and b"copy: 4" not in said:
        piece = os.read(child.stderr.fileno(), 4096)
        assert piece, said
        said += piece
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stderr.close()
    report = migrate(old, new)
    assert report.exit_code == 0
    assert report.verified == len(values) + 1
    with Storage(new) as store:
        assert {key: store.get(key) for key in values} == values


def test_an_interrupted_migration_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "old", "log")
    old = detect_config(tmp_path / "old")
    new = target_config(old, str(tmp_path / "new"), "files")

    def stop(phase: str, done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    report = migrate(old, new, progress=stop)
    assert report.is_interrupted
    assert report.exit_code == 130
    assert report.copied == 50
    assert migrate(old, new).present == 50


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path / "old", "log")
    old = detect_config(tmp_path / "old")
    report = migrate(old, config_of(tmp_path / "new", "files", max_object_size=500_000))
    assert report.exit_code == 1
    assert [key for key, _ in report.failures] == [b"large"]
    assert report.verified == 201


def test_damage_in_the_source_is_no_failure_of_the_target(tmp_path: Path) -> None:
    fill(tmp_path / "old", "files")
    body = max((tmp_path / "old").glob("??/??/*/body.bin"), key=lambda path: path.stat().st_size)
    body.write_bytes(b"!" * body.stat().st_size)
    old = detect_config(tmp_path / "old")
    report = migrate(old, target_config(old, str(tmp_path / "new"), "log"))
    assert (report.gone, report.verified, report.exit_code) == (1, 201, 0)


@pytest.mark.parametrize(("source", "target"), LAYOUTS)
def test_a_namespace_is_carried_over(tmp_path: Path, source: str, target: str) -> None:
    values = fill(tmp_path / "old", source, namespace="space")
    arguments = [str(tmp_path / "old"), str(tmp_path / "new"), "--to", target]
    assert main([*arguments, "--namespace", "space"]) == 0
    with Storage(detect_config(tmp_path / "new", namespace="space")) as store:
        assert {key: store.get(key) for key in values} == values


def test_the_command_says_what_it_did_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert main([old, new, "--to", "files"]) == 2
    assert "no cache" in capsys.readouterr().err
    fill(tmp_path / "old", "log")
    assert main([old, old, "--to", "files"]) == 2
    with Storage(detect_config(old)):
        assert main([old, new, "--to", "files"]) == 2
    assert main([old, new, "--to", "files", "--disk", "much"]) == 2
    assert main([old, new, "--to", "files"]) == 0
    assert "202 verified, 0 failed" in capsys.readouterr().out
    assert main([old, new, "--to", "log"]) == 2
    with pytest.raises(SystemExit) as caught:
        main([old, new])
    assert caught.value.code == 2


def test_two_different_directories_and_one_namespace_are_needed(tmp_path: Path) -> None:
    one, two = config_of(tmp_path / "one", "log"), config_of(tmp_path / "two", "files")
    for left, right in (
        (one, config_of(tmp_path / "sub" / ".." / "one", "files")),
        (one, Config(memory="1MiB")),
        (one, two.replace(namespace="space")),
    ):
        with pytest.raises(errors.ArgumentError):
            migrate(left, right)


def write_objects(store: Storage) -> dict[str, bytes]:
    """Large objects of several kinds, in small chunks."""
    values = {"object": os.urandom(3_000_000), "put": os.urandom(store.value_bytes_max + 1000)}
    meta = Meta(created=1, updated=2, status=200, headers=b"h: v")
    with store.get_miss_handler("object", meta, ttl=3600, tags=["t"]) as miss:
        miss.write(values["object"])
        miss.finish()
    assert store.put("put", values["put"], tags=["t"])
    store.create_sparse("sparse", 10**13, meta=meta, ttl=50)
    assert store.write_range("sparse", 5, b"begin")
    assert store.write_range("sparse", 9 * 10**12, b"far away" * 50_000)
    return values


@pytest.mark.parametrize(("source", "target"), [*LAYOUTS, ("log", "log"), ("files", "files")])
def test_objects_of_any_size_arrive(tmp_path: Path, source: str, target: str) -> None:
    small = {"chunk_size": "256KiB", "memory": "2MiB", "disk": "64MiB"}
    with Storage(config_of(tmp_path / "old", source, **small)) as store:
        values = write_objects(store)
        expected = {key: store.read_entry(key) for key in values}
        ranges = store.availability("sparse")
    old = detect_config(tmp_path / "old")
    new = target_config(old, str(tmp_path / "new"), target)
    report = migrate(old, new)
    assert (report.entries, report.copied, report.verified, report.failed) == (3, 3, 3, 0)
    assert report.copied_bytes == sum(map(len, values.values())) + 5 + 400_000
    again = migrate(old, new)
    assert (again.present, again.copied, again.verified, again.exit_code) == (3, 0, 3, 0)
    with Storage(new) as store:
        for key, value in values.items():
            assert store.get(key) == value
            assert store.read_entry(key)[2] == expected[key][2]  # type: ignore[index]
        with store.lookup("object") as hit:  # type: ignore[union-attr]
            assert hit.meta == Meta(created=1, updated=2, status=200, headers=b"h: v", tags=("t",))
        assert store.availability("sparse") == ranges
        assert store.read_range("sparse", 5, 5) == b"begin"
        assert store.read_range("sparse", 9 * 10**12, 400_000) == b"far away" * 50_000
        assert store.write_range("sparse", 10, b"goes on")
        assert store.purge_tag("t") == 2


def test_an_object_with_a_hole_is_gone_and_one_that_does_not_fit_failed(tmp_path: Path) -> None:
    small = {"chunk_size": "256KiB", "memory": "2MiB", "disk": "64MiB"}
    with Storage(config_of(tmp_path / "old", "log", **small)) as store:
        write_objects(store)
        head = decode_head(store.read_entry("object")[0])  # type: ignore[index]
        assert head is not None
        store._objects.backend.delete_parts(head.object_id, [3])
    old = detect_config(tmp_path / "old")
    report = migrate(old, target_config(old, str(tmp_path / "new"), "files"))
    assert (report.gone, report.verified, report.exit_code) == (1, 2, 0)
    limited = target_config(old, str(tmp_path / "other"), "log", max_object_size=500_000)
    report = migrate(old, limited)
    assert report.exit_code == 1
    assert report.verified == 0
