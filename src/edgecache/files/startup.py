"""Opening a root: everything in it is looked at once, and what is no object goes."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator

from edgecache._files import CORRUPT
from edgecache.files import names
from edgecache.files.order import load_order
from edgecache.files.removal import remove_tree
from edgecache.files.state import FLAG_COMPOSITE, TierState

Progress = Callable[[int, int], object]
Found = tuple[int, bytes, int, int, int, int]  # sequence, hash, expiry, space, body size, flags

# What a name that is no whole object answers when it is read.
NOT_AN_OBJECT = frozenset(
    -code
    for code in (
        errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, -CORRUPT,
    )
)  # fmt: skip
KNOWN = frozenset(
    (
        b"lock",
        names.ROOT_FILE,
        names.ROOT_FILE_COPY,
        names.ORDER_FILE,
        names.OPEN_MARK,
        names.TEMPORARY,
    )
)

_log = logging.getLogger("edgecache.files")


def load_tree(state: TierState, progress: Progress | None) -> None:
    """Fill the index from the tree, in the order in which eviction left it.

    Args:
        progress: Called with (done, total) in parts of the tree.

    *Cost*: opens two files of every object; reads its head.
    """
    begin_s = time.monotonic()
    report = state.report
    _remove_orphans(state)
    # After a crash names may be seen that are not durable yet.
    was_open = state.files.save(names.OPEN_MARK, b"") != 0
    found: list[Found] = []
    listed = state.files.list_directory(b"")
    tops = [] if isinstance(listed, int) else sorted(listed)
    report.unreadable += isinstance(listed, int)
    report.foreign = sum(not names.FAN_OUT.match(name) and name not in KNOWN for name in tops)
    tops = [name for name in tops if names.FAN_OUT.match(name)]
    for number, top in enumerate(tops, 1):
        for name in _objects(state, top, was_open):
            _look_at(state, name, found)
        if was_open:
            state.files.sync_directory(top)
        if progress is not None:
            progress(number, len(tops))
    if was_open:
        state.files.sync_directory(names.TEMPORARY)
        state.files.sync_directory(b"")
    _enter(state, found)
    report.duration_us = int((time.monotonic() - begin_s) * 1e6)
    _log.info(
        "%d objects in %d directories, %d orphans and %d damaged removed, %.3f s",
        report.objects, report.directories, report.orphans, report.garbage,
        report.duration_us / 1e6,
    )  # fmt: skip


def _remove_orphans(state: TierState) -> None:
    files = state.files
    files.make_directory(names.TEMPORARY)
    listed = files.list_directory(names.TEMPORARY)
    for leaf in [] if isinstance(listed, int) else listed:
        remove_tree(files, b"%b/%b" % (names.TEMPORARY, leaf))
        state.report.orphans += 1


def _objects(state: TierState, top: bytes, was_open: bool) -> Iterator[bytes]:
    """The names of objects below one directory of the root; what cannot be one is removed."""
    for middle in _listed(state, top):
        inner = b"%b/%b" % (top, middle)
        if not names.FAN_OUT.match(middle):
            _discard(state, inner)
            continue
        for leaf in _listed(state, inner):
            name = b"%b/%b" % (inner, leaf)
            if names.OBJECT.match(leaf) and leaf[:4] == top + middle:
                yield name
            else:
                _discard(state, name)
        if was_open:
            state.files.sync_directory(inner)


def _listed(state: TierState, name: bytes) -> list[bytes]:
    found = state.files.list_directory(name)
    if isinstance(found, int):
        if found in NOT_AN_OBJECT:
            _discard(state, name)
        else:
            state.report.unreadable += 1
        return []
    state.report.directories += 1
    state.fan_out += 1
    return sorted(found)


def _discard(state: TierState, name: bytes) -> None:
    remove_tree(state.files, name)
    state.report.garbage += 1


def _look_at(state: TierState, name: bytes, found: list[Found]) -> None:
    head = state.files.read_head(name)
    if isinstance(head, int):
        if head in NOT_AN_OBJECT:
            _discard(state, name)
        else:
            state.report.unreadable += 1
        return
    hash16, key, sequence, expiry_us, _, body_len, flags, _ = head
    is_composite = bool(flags & FLAG_COMPOSITE)
    if name[6:] != hash16.hex().encode() or state.files.hash_of(key, is_composite) != hash16:
        _discard(state, name)
        return
    if expiry_us and expiry_us <= time.time_ns() // 1000:
        remove_tree(state.files, name)
        state.report.expired += 1
        return
    found.append((sequence, hash16, expiry_us, space_of(state, name), body_len, flags))


def space_of(state: TierState, name: bytes) -> int:
    """Return what an object takes on the device."""
    total = 0
    has_meta = has_sums = False
    listed = state.files.list_directory(name)
    for leaf in [] if isinstance(listed, int) else listed:
        space = state.files.space_of(b"%b/%b" % (name, leaf))
        total += max(space, 0)
        has_meta = has_meta or leaf == names.META
        has_sums = has_sums or leaf == names.SUMS
    return total + names.overhead_bytes(has_meta, has_sums)


def _enter(state: TierState, found: list[Found]) -> None:
    """Enter what was found: old ones by their number, then the order file, then newer ones."""
    index = state.index
    mark, order = load_order(state.files)
    index.see_sequence(mark)
    found.sort()
    for sequence, hash16, expiry_us, space, body_len, flags in found:
        if sequence < mark:
            index.put(hash16, sequence, expiry_us, space, body_len, 0, flags)
    for hash16, rank in order:
        index.restore(hash16, rank)
    for sequence, hash16, expiry_us, space, body_len, flags in found:
        if sequence >= mark:
            index.put(hash16, sequence, expiry_us, space, body_len, 0, flags)
        index.see_sequence(sequence)
    state.report.objects = len(found)
