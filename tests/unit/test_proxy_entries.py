"""Stored responses as entries."""

from __future__ import annotations

import pytest

from edgecache.proxy.entries import without_length
from edgecache.rfc9111.stored import StoredPolicy, StoredResponse

POLICY = StoredPolicy(200, 0, 1, 1, 0, 1)


@pytest.mark.parametrize(
    ("wire", "left"),
    [
        (b"", b""),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"Content-Length: 5\r\n", b""),
        (b"Content-Length: 5\r\nA: b\r\n", b"A: b\r\n"),
        (b"A: b\r\nContent-Length: 5\r\n", b"A: b\r\n"),
        (b"A: b\r\nContent-Length: 5\r\nC: d\r\nContent-Length: 5\r\n", b"A: b\r\nC: d\r\n"),
        (b"A: Content-Length: 5\r\n", b"A: Content-Length: 5\r\n"),
        (b"X-Content-Length: 5\r\n", b"X-Content-Length: 5\r\n"),
    ],
)
def test_the_length_is_left_out_and_nothing_else(wire: bytes, left: bytes) -> None:
    found = without_length(StoredResponse(POLICY, (), wire))
    assert found == StoredResponse(POLICY, (), left)


def test_nothing_has_no_length() -> None:
    assert without_length(None) is None
