"""Removing what is no object: whole trees, without ever following a link.

An engine refuses to go through symbolic links, so a planted one is removed itself.
"""

from __future__ import annotations

import errno

from edgecache._files import ObjectFiles

# Source: IO_NAME_DEPTH_MAX in `_io.pxd`; what lies deeper has no name here.
DEPTH_MAX = 5


def remove_tree(files: ObjectFiles, name: bytes) -> int:
    """Remove an object, or whatever has its name; 0 or an errno."""
    outcome = files.unlink_object(name)
    if outcome in (-errno.ENOTEMPTY, -errno.EEXIST, -errno.EISDIR):
        for inner in _inside(files, name):
            remove_tree(files, inner)
        outcome = files.unlink(name)
    elif outcome in (-errno.ENOTDIR, -errno.ELOOP):
        outcome = files.unlink(name)
    return 0 if outcome == -errno.ENOENT else -outcome


def _inside(files: ObjectFiles, name: bytes) -> list[bytes]:
    listed = files.list_directory(name) if name.count(b"/") < DEPTH_MAX - 1 else []
    return [] if isinstance(listed, int) else [b"%b/%b" % (name, leaf) for leaf in listed]
