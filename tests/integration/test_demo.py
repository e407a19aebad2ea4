"""`make demo`, short, on a small directory: its verdict, its files, its cleaning up."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import demo, demo_steps
from bench.measure import child_environment


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of 0 bytes to 200 KiB, 9 MiB together: more than the RAM of the demo."""
    generator = random.Random(5)
    root = tmp_path / "tree"
    for number in range(300):
        path = root / f"d{number % 7}" / f"file {number} é"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(generator.choice((0, 10, 4000, 30_000, 200_000))))
    return root


def arguments(tree: Path, tmp_path: Path) -> list[str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return ["--from", str(tree), "--scratch", str(scratch), "--out", str(tmp_path / "out"),
            "--seconds-max", "5"]  # fmt: skip


def test_the_demo_verifies_real_files_and_leaves_only_its_report(
    tree: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo", *arguments(tree, tmp_path)],
        capture_output=True, text=True, check=False, env=child_environment(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every byte was right" in done.stdout
    found = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert found["setup"]["files"] == 300
    assert found["reads"]["gets"] == 6000
    assert sum(found["reads"]["shares"].values()) == pytest.approx(1)
    assert found["reads"]["shares"]["disk"] > 0
    assert found["reads"]["shares"]["miss"] == 0
    assert found["crash"]["synced"] >= 3 * 3 * demo_steps.SYNC_EVERY
    assert (found["crash"]["lost"], found["wrong"]) == ([], [])
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
    assert list((tmp_path / "scratch").iterdir()) == []


class Liar:
    """A store that changes one byte of some values."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self.store.get(key)
        if value and key.startswith(b"d1"):
            return value[:-1] + bytes([value[-1] ^ 1])
        return value


def test_one_wrong_byte_gives_status_1(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    opened = demo_steps.Setup.open
    monkeypatch.setattr(demo_steps.Setup, "open", lambda *a, **k: Liar(opened(*a, **k)))
    monkeypatch.setattr(demo_steps, "crash", lambda *a: demo_steps.Crash())
    assert demo.main(arguments(tree, tmp_path)) == 1
    assert "wrong bytes: d1/" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["is_right"] is False
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("step", "number", "status"),
    [
        ("put every file", signal.SIGINT, 130),
        ("get in Zipf order", signal.SIGTERM, 143),
        ("kill -9 a writing process", signal.SIGINT, 130),
    ],
    ids=["put", "get", "kill"],
)
def test_an_interrupted_demo_removes_what_it_wrote(
    tree: Path, tmp_path: Path, step: str, number: signal.Signals, status: int
) -> None:
    demo_process = subprocess.Popen(
        [sys.executable, "-u", "-m", "bench.demo", *arguments(tree, tmp_path)],
        stdout=subprocess.PIPE, text=True, env=child_environment(),
        # Where the suite runs in the background of a shell, children inherit that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert demo_process.stdout is not None
    for line in demo_process.stdout:
        if line.startswith(f"... {step}"):
            demo_process.send_signal(number)
            break
    demo_process.stdout.read()
    assert demo_process.wait(60) == status
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert demo.main(arguments(tmp_path / "empty", tmp_path)) == 2
