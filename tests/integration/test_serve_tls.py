"""TLS of a running server: certificates are replaced by SIGHUP and when the files change."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.serving import Served, ask

TIMEOUT_S = 30.0


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """Make a self-signed certificate for localhost; the files appear at once."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", f"{key}.new", "-out", f"{certificate}.new", "-days", "2",
        "-subj", f"/O={name}/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    shutil.move(f"{key}.new", key)
    shutil.move(f"{certificate}.new", certificate)
    return str(certificate), str(key)


def shown(served: Served) -> str:
    """The certificate that a new connection gets."""
    parts = urlsplit(served.url)
    return ssl.get_server_certificate((parts.hostname or "", parts.port or 0), timeout=TIMEOUT_S)


def held(certificate: str) -> str:
    return Path(certificate).read_text()


def tls_link(served: Served, certificate: str) -> http.client.HTTPSConnection:
    parts = urlsplit(served.url)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return http.client.HTTPSConnection(
        parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context
    )


def test_sighup_replaces_certificates_and_open_connections_stay(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    tls = {"cert": certificate, "key": key, "watch_s": 0}
    with Served(tmp_path, {"tls": tls}) as served:
        assert served.url.startswith("https://")
        link = tls_link(served, certificate)
        assert ask(link, "/page").status == 200
        first = held(certificate)
        assert shown(served) == first
        make_certificate(tmp_path, "second")
        served.reload()
        assert shown(served) == held(certificate) != first
        assert ask(link, "/page").fields["x-cache-status"] == "hit"
        # Other files, named by the configuration
        (tmp_path / "other").mkdir()
        other = make_certificate(tmp_path / "other", "third")
        served.configure({"tls": {"cert": other[0], "key": other[1], "watch_s": 0}})
        served.reload()
        assert shown(served) == held(other[0])
        # Files that do not fit each other change nothing
        served.configure({"tls": {"cert": other[0], "key": key, "watch_s": 0}})
        served.reload()
        assert "the configuration stays as it is" in served.log
        assert shown(served) == held(other[0])
        assert ask(link, "/page").status == 200
        assert served.stop() == 0


def test_files_that_change_are_read_without_a_signal(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    tls = {"cert": certificate, "key": key, "watch_s": 0.05}
    with Served(tmp_path, {"tls": tls}) as served:
        make_certificate(tmp_path, "second")
        deadline_s = time.monotonic() + TIMEOUT_S
        while shown(served) != held(certificate):
            assert time.monotonic() < deadline_s, served.log
        assert "certificates read again" in served.log
        assert served.stop() == 0


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_files_that_become_unusable_leave_the_old_certificate(tmp_path: Path, text: str) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    first = held(certificate)
    with Served(tmp_path, {"tls": {"cert": certificate, "key": key, "watch_s": 0.05}}) as served:
        Path(certificate).write_text(text)
        deadline_s = time.monotonic() + TIMEOUT_S
        while "the certificates stay as they are" not in served.log:
            assert time.monotonic() < deadline_s, served.log
            assert shown(served) == first
        assert shown(served) == first
