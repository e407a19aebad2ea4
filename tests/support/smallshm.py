"""A /dev/shm of a few MiB, for one child process: in a mount namespace of its own."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable

import pytest

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
NOT_ALLOWED = 77


def with_small_shm(size_bytes: int, work: Callable[[], None]) -> None:
    """Run `work` in a child whose /dev/shm holds that much; it fails as `work` does.

    Skips where the system allows no namespaces. A child that dies by SIGBUS fails, too.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if _mount(size_bytes) else NOT_ALLOWED
            if code == 0:
                code = 1
                work()
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == NOT_ALLOWED:
        pytest.skip("no mount namespaces here")
    assert status == 0


def _mount(size_bytes: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.geteuid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)) != 0:
        return False
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    options = b"size=%d" % size_bytes
    return bool(libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options) == 0)
