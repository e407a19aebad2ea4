"""`edgecache verify` and `edgecache migrate` on directories of both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.serving import Served, command

import edgecache

LAYOUTS = ("log", "files")


def make_cache(root: Path, layout: str) -> dict[bytes, bytes]:
    """A cache with small and large entries; what it holds."""
    held = {b"key%d" % n: b"%d" % n * (1 + n * 500) for n in range(40)}
    options = {"memory": "16MiB", "disk": "256MiB", "layout": layout}
    with edgecache.open(root, **options) as store:
        for key, value in held.items():
            assert store.put(key, value, tags=("all",))
        store.sync()
    return held


def rot(root: Path) -> None:
    """Flip bytes of every file that holds values."""
    flipped = 0
    for path in root.rglob("*"):
        if path.is_file() and (path.suffix == ".edge" or path.name.startswith("body")):
            data = path.read_bytes()
            place = data.find(b"39" * 1000)
            if place >= 0:
                with path.open("r+b") as file:
                    file.seek(place + 500)
                    file.write(b"rot")
                flipped += 1
    assert flipped


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_counts_what_is_there_and_loses_nothing(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "root"
    held = make_cache(root, layout)
    code, out, err = command("verify", str(root))
    assert code == 0, err
    assert out.startswith("40 entries, ")
    assert "0 damaged and dropped" in out
    with edgecache.open(root, memory="16MiB", disk="256MiB", layout=layout) as store:
        assert {key: store.get(key) for key in held} == held


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_finds_rot_drops_it_and_says_so_in_its_exit_code(
    tmp_path: Path, layout: str
) -> None:
    root = tmp_path / "root"
    held = make_cache(root, layout)
    rot(root)
    code, out, err = command("verify", str(root))
    assert code == 3, (out, err)
    assert "1 damaged and dropped" in out
    code, out, _ = command("verify", str(root))
    assert (code, "39 entries" in out) == (0, True), out
    with edgecache.open(root, memory="16MiB", disk="256MiB", layout=layout) as store:
        lost = [key for key, value in held.items() if store.get(key) != value]
    assert lost == [b"key39"]


@pytest.mark.parametrize("name", ["verify", "migrate"])
def test_a_directory_without_a_cache_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    rest = (str(tmp_path / "new"), "--to", "log") if name == "migrate" else ()
    for place in ("mine", "nowhere"):
        code, _, err = command(name, str(tmp_path / place), *rest)
        assert code == 1
        assert "no cache" in err
        assert "Traceback" not in err
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["letter"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine"]


def test_a_cache_that_is_open_is_not_verified(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        code, _, err = command("verify", str(tmp_path / "root"))
        assert (code, "Traceback" in err) == (1, False)
        assert "another" in err or "locked" in err or "in use" in err
        assert served.stop() == 0


@pytest.mark.parametrize(("layout", "other"), [LAYOUTS, LAYOUTS[::-1]])
def test_migrate_copies_every_entry_and_can_be_run_again(
    tmp_path: Path, layout: str, other: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    held = make_cache(source, layout)
    code, out, err = command("migrate", str(source), str(target), "--to", other)
    assert code == 0, err
    assert "40 entries: 40 copied" in out
    assert "40 verified, 0 failed" in out
    code, out, _ = command("migrate", str(source), str(target), "--to", other)
    assert (code, "0 copied (0 B), 40 there already" in out) == (0, True)
    with edgecache.open(target, memory="16MiB", disk="2GiB", layout=other) as store:
        assert {key: store.get(key) for key in held} == held
        assert store.purge_tag("all") == 40


def test_migrate_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    make_cache(tmp_path / "a", "log")
    for arguments, code, said in (
        ((str(tmp_path / "a"), str(tmp_path / "b"), "--to", "tape"), 2, "log or files"),
        ((str(tmp_path / "a"), str(tmp_path / "a"), "--to", "files"), 1, "same directory"),
        ((str(tmp_path / "a"), str(tmp_path / "b")), 2, "--to"),
    ):
        got, _, err = command("migrate", *arguments)
        assert (got, said in err, "Traceback" in err) == (code, True, False), err
