"""What cannot start says why in one line, with an exit code, and without a traceback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.serving import SMALL, Served, command, environment, exchange

ANY = "127.0.0.1:0"


def write(folder: Path, **sections: object) -> str:
    """Write a configuration that would start, with some sections changed."""
    base: dict[str, object] = {
        "cache": {"root": str(folder / "root"), **SMALL},
        "listen": [ANY],
        "admin": {"listen": ANY},
        "metrics": {"listen": ANY},
    }
    path = folder / "edgecache.json"
    path.write_text(json.dumps({**base, **sections}))
    return str(path)


def refused(code: int, *arguments: str, **variables: str) -> str:
    """Run `edgecache serve`, which must not start; its one line."""
    got, out, err = command("serve", *arguments, **variables)
    assert got == code, err
    assert "Traceback" not in err + out
    [line] = [line for line in err.splitlines() if "INFO" not in line]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("key", ["listen", "admin", "metrics"])
def test_a_port_in_use_names_the_address_and_the_key(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        section: object = [address] if key == "listen" else {"listen": address}
        path = write(tmp_path, **{key: section})
        line = refused(1, "-c", path)
        assert address in line
        assert ("listen: " if key == "listen" else f"{key}.listen: ") in line
        assert "in use" in line
        assert "another address" in line


def test_a_root_that_another_process_has_open_is_refused(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        other = tmp_path / "other"
        other.mkdir()
        path = write(other, cache={"root": str(tmp_path / "root"), **SMALL})
        line = refused(1, "-c", path)
        assert str(tmp_path / "root") in line
        assert served.get("/page").status == 200
        assert served.stop() == 0


def test_settings_that_cannot_be_used_name_key_and_remedy(tmp_path: Path) -> None:
    """One per stage of the start; the table of all is in tests/unit/test_server_settings.py."""
    cases: tuple[tuple[dict[str, object], tuple[str, ...]], ...] = (
        ({"tls": {"cert": "/nowhere.pem"}}, ("certificate", "/nowhere.pem", "PEM")),
        ({"admin": {"listen": ANY, "token_file": "/nowhere"}}, ("admin.token_file",)),
        ({"log": {"access": "/nowhere/x"}}, ("log.access", "/nowhere/x")),
        ({"listen": ["systemd"]}, ("listen", "socket unit")),
        ({"pid_file": "/nowhere/pid"}, ("pid_file", "/nowhere/pid")),
        (
            {"workers": 2, "cache": {"memory": "16MiB", "disk": 0}},
            ("workers", "line=", "use workers: 1", "set root and disk"),
        ),
    )
    for sections, words in cases:
        line = refused(2, "-c", write(tmp_path, **sections))
        assert [word for word in words if word not in line] == [], line


def test_options_that_cannot_be_used_are_called_by_their_names(tmp_path: Path) -> None:
    for arguments, words in (
        (("--upstream", "ftp://example.org"), ("--upstream", "http://host:port")),
        (("--listen", "8080"), ("--listen", "127.0.0.1:8080")),
        (("--profile", "wild"), ("--profile", "safe")),
        (("--workers", "3"), ("--workers", "use workers: 1")),
        (("--memory", "lots"), ("memory", "lots")),
        (("-c", str(tmp_path / "nowhere.yaml")), ("nowhere.yaml", "check the path")),
        (("-c", "/etc/passwd"), (".yaml",)),
    ):
        line = refused(2, *arguments)
        assert [word for word in words if word not in line] == [], line


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edgecache.yaml"
    path.mkdir()
    line = refused(2, "-c", str(path))
    assert "check the path and its permissions" in line
    assert str(path) in line


def test_a_check_prints_the_settings_and_touches_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, admin={"listen": ANY, "token": "a-secret-token"})
    code, out, err = command("serve", "--check-config", "-c", path, "--memory", "32MiB")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["cache"]["memory"] == 32 << 20
    assert shown["admin"]["token"] == "***"
    assert not (tmp_path / "root").exists()
    code, out, err = command("serve", "--check-config", "-c", write(tmp_path, listen=["x"]))
    assert (code, out) == (2, "")
    assert "listen" in err


def test_an_upstream_that_is_down_is_a_502_and_not_the_end(tmp_path: Path) -> None:
    options = ("--upstream", "http://127.0.0.1:9")
    with Served(tmp_path, options=options) as served:
        reply = served.get("/x")
        assert reply.status == 502
        assert exchange(served.url, "/cache/a", "PUT", b"x").status == 201
        assert served.stop() == 0


def test_help_names_every_option_and_every_command() -> None:
    code, out, _ = command("serve", "--help")
    assert code == 0
    options = "config profile root memory disk upstream listen check-config workers"
    assert [name for name in options.split() if f"--{name}" not in out] == []
    code, out, _ = command("--help")
    names = "serve purge stat top bench verify migrate"
    assert [name for name in names.split() if name not in out] == []
    assert command("--version")[1].startswith("edgecache ")


@pytest.mark.parametrize("name", ["typer", "uvloop", "fastapi"])
def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, name: str) -> None:
    program = (
        f"import sys; sys.modules[{name!r}] = None; sys.argv = ['edgecache', *sys.argv[1:]]; "
        "from edgecache.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "-c", write(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"edgecache: the package '{name}' is missing; "
        "install the server's: pip install 'edgecache[serve]'"
    ]
