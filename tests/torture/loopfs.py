"""File systems of our own, in files: mounted for one row, and gone after it."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.campaign import CannotRunError

# EXT4_IOC_SHUTDOWN is _IOR('X', 125, __u32), the number that XFS calls XFS_IOC_GOINGDOWN; the
# argument asks for no flush of data or log. Source: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h.
SHUTDOWN = 0x8004587D
NO_FLUSH = 2
BUSY_S = 20.0
SIZES_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
TOOLS = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}


def call(*words: str | Path) -> None:
    """Run a tool; what it says is in the error."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:120]
        raise CannotRunError(f"{words[0]}: {said or done.returncode}")


def require(*tools: str, package: str) -> None:
    if os.geteuid() != 0:
        raise CannotRunError("mounting file systems needs root")
    for tool in tools:
        if shutil.which(tool) is None:
            raise CannotRunError(f"{tool} is not installed (Debian: {package})")


def unmount(point: Path) -> None:
    """Unmount; a ring of a killed process lets go of its files a moment after its end."""
    end_s = time.monotonic() + BUSY_S
    while True:
        done = subprocess.run(["umount", str(point)], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if time.monotonic() > end_s:
            raise OSError(done.stderr.strip())
        threading.Event().wait(0.005)


class Mount:
    """A file system in a file."""

    def __init__(self, kind: str, image: Path, point: Path) -> None:
        self.kind, self.image, self.point = kind, image, point

    def mount(self) -> None:
        call("mount", "-o", "loop", "-t", self.kind, self.image, self.point)

    def unmount(self) -> None:
        unmount(self.point)

    def cut_power(self) -> None:
        """Nothing reaches the device from now on; what it does not have is gone."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)


@contextmanager
def file_system(
    kind: str, directory: Path, *, size_bytes: int = 0, options: tuple[str, ...] = ()
) -> Iterator[Mount]:
    """A fresh file system, mounted."""
    require("mount", "losetup", MAKE[kind][0], package=TOOLS[kind])
    image, point = directory / f"{kind}.image", directory / kind
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes or SIZES_BYTES[kind])
    call(*MAKE[kind], *options, image)
    found = Mount(kind, image, point)
    found.mount()
    try:
        yield found
    finally:
        unmount(point)
        image.unlink()


@contextmanager
def memory_file_system(directory: Path, *options: str) -> Iterator[Path]:
    """A tmpfs with these mount options."""
    require("mount", package="mount")
    point = directory / "tmpfs"
    point.mkdir()
    call("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", point)
    try:
        yield point
    finally:
        unmount(point)
