"""A device that takes no writes, or gives no reads, for as long as is wanted.

The throttling of the block layer holds requests after they were submitted, as a device does that
does not answer: no signal ends them. Source: Linux Documentation/admin-guide/cgroup-v1/
blkio-controller.rst.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.campaign import CannotRunError

CONTROLLER = Path("/sys/fs/cgroup/blkio")
SLOW_BPS = 512  # a write of a buffer takes minutes
OFF = 0


def can_throttle() -> bool:
    return os.access(CONTROLLER / "blkio.throttle.write_bps_device", os.W_OK)


class Throttle:
    """Holds what processes of one group ask of one device."""

    def __init__(self, group: Path, device: str) -> None:
        self.group, self.device = group, device

    def add(self, pid: int) -> None:
        (self.group / "cgroup.procs").write_text(str(pid))

    def set(self, kind: str, bps: int) -> None:
        """Limit `kind`, "read" or "write"; 0 lets everything go on."""
        (self.group / f"blkio.throttle.{kind}_bps_device").write_text(f"{self.device} {bps}\n")

    def release(self) -> None:
        for kind in ("read", "write"):
            self.set(kind, OFF)


@contextmanager
def throttle(mount_point: Path) -> Iterator[Throttle]:
    """A group whose requests to the device of a mounted file system can be held."""
    if not can_throttle():
        raise CannotRunError("there is no blkio controller (cgroup v1) with throttling")
    number = os.stat(mount_point).st_dev
    group = CONTROLLER / f"edgecache-{os.getpid()}"
    group.mkdir()
    found = Throttle(group, f"{os.major(number)}:{os.minor(number)}")
    # Whatever becomes of this process, what waits for the device must end.
    script = f"timeout 60 cat > /dev/null; cd {group} && for f in read write; do " \
             f"echo '{found.device} 0' > blkio.throttle.${{f}}_bps_device; done"  # fmt: skip
    rescue = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)
    try:
        yield found
    finally:
        found.release()
        rescue.communicate()
        for line in (group / "cgroup.procs").read_text().split():
            (CONTROLLER / "cgroup.procs").write_text(line)
        group.rmdir()
