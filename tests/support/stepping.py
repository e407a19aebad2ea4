"""Ending a child process after a number of its instructions: ptrace(2), by way of ctypes.

The child asks to be traced and stops; whoever forked it lets it go on instruction by instruction
and kills it where it is then: in the middle of a critical section as well as anywhere else. Only
its calling thread is stepped; its others run.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator

PTRACE_TRACEME = 0
PTRACE_CONT = 7
PTRACE_SINGLESTEP = 9
PTRACE_SYSCALL = 24

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class CannotTraceError(Exception):
    """This machine lets nobody trace its children."""


def _ptrace(request: int, process: int, data: int = 0) -> None:
    if _libc.ptrace(request, process, None, data) != 0:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            raise CannotTraceError(os.strerror(code))
        raise OSError(code, os.strerror(code))


def begin_steps() -> None:
    """In the child: the instructions that are counted begin here."""
    _ptrace(PTRACE_TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def begin_steps_later() -> None:
    """In the child: they begin where it is stopped by a SIGSTOP next."""
    _ptrace(PTRACE_TRACEME, 0)


def end_steps() -> None:
    """In the child: what was to be stepped is over."""
    os.kill(os.getpid(), signal.SIGSTOP)


def count_system_calls(work: Callable[[], None]) -> int:
    """Fork `work`, which calls begin_steps and end_steps: the system calls between the two."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    stops = 0
    try:
        status = _first_stop(process)
        # In: the return from the kill that stopped it. Out: the entry of the next kill.
        while os.WIFSTOPPED(status):
            _ptrace(PTRACE_SYSCALL, process)
            _, status = os.waitpid(process, 0)
            if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP:
                return (stops - 2) // 2
            stops += 1
        raise AssertionError(f"the child ended while it was traced: {status}")
    finally:
        if os.WIFSTOPPED(status):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _first_stop(process: int) -> int:
    """Wait until the child has stopped where its steps begin; its status."""
    _, status = os.waitpid(process, 0)
    while os.WIFSTOPPED(status) and os.WSTOPSIG(status) != signal.SIGSTOP:
        _ptrace(PTRACE_CONT, process, os.WSTOPSIG(status))
        _, status = os.waitpid(process, 0)
    return status


def each_step(work: Callable[[], None]) -> Iterator[int]:
    """Fork `work`, which calls begin_steps and end_steps, and stop it after every instruction.

    Yields:
        The number of instructions done; what shares memory with the child finds there what a death
        at that point leaves. The child is killed in the end.
    """
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    status = _first_stop(process)
    number = 0
    try:
        while os.WIFSTOPPED(status):
            yield number
            number += 1
            _ptrace(PTRACE_SINGLESTEP, process)
            _, status = os.waitpid(process, 0)
            if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP:
                return
        raise AssertionError(f"the child ended while it was stepped: {status}")
    finally:
        if os.WIFSTOPPED(status):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def run_and_kill(work: Callable[[], None], steps: int) -> int | None:
    """Fork `work`, which calls begin_steps and end_steps, and kill it `steps` instructions in.

    Returns:
        None; the number of instructions there were when the end came before.
    """
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    done: int | None = None
    is_alive = True
    try:
        status = _first_stop(process)
        if not os.WIFSTOPPED(status):
            is_alive = False
            raise AssertionError(f"the child ended before it was stepped: {status}")
        for number in range(steps):
            _ptrace(PTRACE_SINGLESTEP, process)
            _, status = os.waitpid(process, 0)
            if not os.WIFSTOPPED(status):
                is_alive = False
                raise AssertionError(f"the child ended while it was stepped: {status}")
            if os.WSTOPSIG(status) == signal.SIGSTOP:
                done = number
                break
    finally:
        if is_alive:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return done
