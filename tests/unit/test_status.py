"""From a status to its exception."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

import edgecache
from edgecache import _testing_formats as hooks
from edgecache import errors

HEADER = (Path(edgecache.__file__).parent / "_status.pxd").read_text("utf-8")
STATUSES = {
    name: int(code) for name, code in re.findall(r"^    STATUS_(\w+) = (\d+)", HEADER, re.M)
}

KINDS = {
    "NOT_FOUND": errors.EntryNotFoundError,
    "EXISTS": errors.EntryExistsError,
    "AGAIN": errors.TooManyWritesError,
    "NO_SPACE": errors.NoSpaceError,
    "NO_MEMORY": errors.EngineMemoryError,
    "CORRUPT": errors.CorruptionError,
    "IO_ERROR": errors.DiskIOError,
    "INVALID": errors.ArgumentError,
    "TOO_LARGE": errors.ValueTooLargeError,
    "TIMEOUT": errors.DeadlineError,
    "CLOSED": errors.StoreClosedError,
    "SHED": errors.TooManyWritesError,
    "UNSUPPORTED": errors.EngineUnavailableError,
    "FORKED": errors.StoreForkedError,
    "VERSION": errors.FormatVersionError,
    "TRUNCATED": errors.CorruptionError,
}
META_KINDS = {
    "TRUNCATED": errors.MetaTruncatedError,
    "VERSION": errors.MetaVersionError,
    "CORRUPT": errors.MetaChecksumError,
    "INVALID": errors.MetaFieldError,
}


def test_ok_raises_nothing() -> None:
    assert hooks.raise_status(STATUSES["OK"]) == 0
    assert hooks.raise_meta_status(STATUSES["OK"]) == 0


@pytest.mark.parametrize("name", sorted(set(STATUSES) - {"OK"}))
def test_every_status_of_the_header_has_its_exception(name: str) -> None:
    with pytest.raises(errors.EdgeCacheError) as caught:
        hooks.raise_status(STATUSES[name])
    assert type(caught.value) is KINDS[name]
    assert caught.value.message


@pytest.mark.parametrize("name", sorted(set(STATUSES) - {"OK"}))
def test_status_of_a_meta_is_a_meta_error_where_it_is_about_the_format(name: str) -> None:
    with pytest.raises(errors.EdgeCacheError) as caught:
        hooks.raise_meta_status(STATUSES[name])
    assert type(caught.value) is META_KINDS.get(name, KINDS[name])


@pytest.mark.parametrize("code", [-1, max(STATUSES.values()) + 1, 10_000])
@pytest.mark.parametrize("raiser", [hooks.raise_status, hooks.raise_meta_status])
def test_status_outside_the_enum_is_our_own_bug(code: int, raiser: object) -> None:
    with pytest.raises(SystemError, match=str(code)):
        raiser(code)


def test_text_detail_and_errno_are_in_the_message_and_the_attribute() -> None:
    with pytest.raises(errors.DiskIOError) as caught:
        hooks.raise_status(STATUSES["IO_ERROR"], "region 7", errno.EIO)
    assert caught.value.errno == errno.EIO
    assert "region 7" in str(caught.value)
    assert "Input/output error" in str(caught.value)


def test_facts_become_attributes_and_message_replaces_the_standard_one() -> None:
    detail = {"path": "/cache/data", "offset_bytes": 4096, "expected": 1, "found": 2}
    with pytest.raises(errors.CorruptionError) as caught:
        hooks.raise_status(STATUSES["CORRUPT"], {**detail, "message": "bad footer", "hint": "h"})
    assert {name: getattr(caught.value, name) for name in detail} == detail
    assert (caught.value.message, caught.value.hint) == ("bad footer", "h")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_reported_as_an_io_error_is_no_space(code: int) -> None:
    with pytest.raises(errors.NoSpaceError) as caught:
        hooks.raise_status(STATUSES["IO_ERROR"], None, code)
    assert caught.value.errno == code


def test_errno_of_a_status_that_is_no_os_error_is_in_the_message_only() -> None:
    with pytest.raises(errors.ArgumentError, match="Invalid argument") as caught:
        hooks.raise_status(STATUSES["INVALID"], None, errno.EINVAL)
    assert not hasattr(caught.value, "errno")
