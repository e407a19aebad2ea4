"""The thread that makes writes durable and shows them: many at a time, in this order.

1. The bytes of all new objects are synced, as many at once as the engine takes, then the names in
   their directories.
2. Each directory is moved to its place, under its key's lock: one rename, or one exchange where an
   older version is. So the tree has the old object or the new one at any moment, also after a power
   loss: what a rename shows was durable before it.
3. The parent directories are synced. Only now the older versions are removed: were they removed
   before, a power loss could undo the exchange and keep the removal.

A version that could not be published is gone, and so is the older one on disk: to let that come
back after a restart would undo a put that a later sync() calls durable.
"""

from __future__ import annotations

import errno
import logging
import threading
import time

from edgecache._files import FileSyncer
from edgecache.errors import (
    DeadlineError,
    DiskIOError,
    EdgeCacheError,
    NoSpaceError,
    StoreClosedError,
)
from edgecache.files.names import TEMPORARY, object_name, parent_name
from edgecache.files.order import save_order
from edgecache.files.removal import remove_tree
from edgecache.files.state import Change, TierState

# Changes of one round. More would keep their callers waiting for the slowest.
ROUND_CHANGES = 1024
# From so many files or directories on, one sync of the file system is cheaper than one of each:
# ext4 answers each with a flush of the device.
SYNC_ALL_NAMES = 12
RETRY_S = 1.0
SYNC_S = 60.0
NO_EXCHANGE = (-errno.EOPNOTSUPP, -errno.ENOSYS)

_log = logging.getLogger("edgecache.files")


class Publisher:
    """Publishes and removes objects in the background.

    Args:
        state: The memory of the tier.
        interval_s: How long a change may wait for others.
        order_interval_s: Time between two writes of the order file, if there is something new.

    *Thread-safety*: `kick`, `sync` and `stop` from any thread.
    """

    def __init__(self, state: TierState, interval_s: float, order_interval_s: float) -> None:
        self._state = state
        self._interval_s = interval_s
        self._order_interval_s = order_interval_s
        self._wake = threading.Condition(threading.Lock())
        self._is_stopping = False
        self._has_work = False
        self._is_urgent = False
        self._begun = self._ended = 0
        self._outcome = 0  # errno of the last round
        self._syncer: FileSyncer | None = None
        self._unsynced: set[bytes] = set()
        self._outdated: list[tuple[bytes, int]] = []  # to be removed after a sync of the parents
        self._has_exchange = True
        self._order_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="edgecache-files", daemon=True)
        self._thread.start()

    # From other threads

    def kick(self, urgent: bool = False) -> None:
        """Note that there is something to do; at once, or when the interval is over."""
        with self._wake:
            if not self._has_work or (urgent and not self._is_urgent):
                self._has_work = True
                self._is_urgent = self._is_urgent or urgent
                self._wake.notify_all()

    def sync(self) -> None:
        """Return when everything that was changed before the call is durable.

        Raises:
            DiskIOError, NoSpaceError: It cannot be made durable.
            DeadlineError: It takes longer than a minute.
        """
        deadline_s = time.monotonic() + SYNC_S
        code = 0
        # The oldest changes come first, so these rounds cover all there are now.
        for _ in range(len(self._state.changes) // ROUND_CHANGES + 1):
            code = self._round(deadline_s) or code
        if code:
            kind = NoSpaceError if code in (errno.ENOSPC, errno.EDQUOT) else DiskIOError
            raise kind("what was put or deleted is not durable", errno=code)

    def _round(self, deadline_s: float) -> int:
        """Wait for a whole round that begins after this call; its errno or 0."""
        with self._wake:
            wanted = self._begun + 1
            self._has_work = self._is_urgent = True
            self._wake.notify_all()
            while self._ended < wanted:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise DeadlineError("sync did not finish within a minute")
                if not self._thread.is_alive():
                    raise StoreClosedError("the store was closed during a sync")
                self._wake.wait(left_s)
            return self._outcome

    def stop(self, *, flush: bool) -> bool:
        """End the thread, after a last round or at once; whether everything is durable."""
        is_clean = flush
        if flush and self._thread.is_alive():
            try:
                self.sync()
            except EdgeCacheError:
                is_clean = False
                _log.warning("closing: not everything could be written", exc_info=True)
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        self._thread.join()
        with self._wake:
            self._wake.notify_all()
        return is_clean

    # The thread

    def _run(self) -> None:
        while self._await_work():
            with self._wake:
                self._has_work = self._is_urgent = False
                self._begun += 1
                number = self._begun
            try:
                code = self._do_round()
            except Exception:  # a bug must not leave sync() waiting for ever
                _log.exception("publishing failed")
                code = errno.EIO
            with self._wake:
                self._outcome = code
                self._ended = number
                self._wake.notify_all()
        if self._syncer is not None:
            self._syncer.close()

    def _await_work(self) -> bool:
        """Wait for something to do; False: the tier is being closed."""
        with self._wake:
            while not self._is_stopping:
                state = self._state
                left = bool(state.changes or state.discards or self._outdated or self._unsynced)
                if self._has_work:
                    if not self._is_urgent:
                        self._wake.wait(self._interval_s)
                    return not self._is_stopping
                # What failed is tried again; when nothing is left nobody is woken.
                if not self._wake.wait(RETRY_S if left else None) and left:
                    self._has_work = self._is_urgent = True
            return False

    def _do_round(self) -> int:
        state = self._state
        with state.mutex:
            batch = [
                (hash16, state.changes[hash16])
                for hash16, _ in zip(state.changes, range(ROUND_CHANGES), strict=False)
            ]
            discards, state.discards = state.discards, []
            has_more = len(state.changes) > len(batch)
        code = self._sync_objects(batch)
        for hash16, change in batch:
            code = self._settle(hash16, change) or code
        code = self._sync_parents() or code
        for place, space in discards:
            self._remove(state.places.name(place), space)
        if batch or discards:
            state.counters.cycles += 1
        self._save_order_if_due(bool(batch))
        if has_more:
            self.kick(urgent=True)
        return code

    def _sync_objects(self, batch: list[tuple[bytes, Change]]) -> int:
        """Make new objects durable; those that fail are given up. The errno of one, or 0."""
        state = self._state
        names: list[bytes] = []
        owners: list[int] = []
        for number, (_, change) in enumerate(batch):
            if change.place:
                directory = state.places.name(change.place)
                names += [b"%b/%b" % (directory, leaf) for leaf in change.leaves]
                owners += [number] * len(change.leaves)
        if not names or (len(names) >= SYNC_ALL_NAMES and self._sync_everything()):
            return 0
        outcomes = self._sync_files(names)
        failed: dict[int, int] = {}
        for owner, outcome in zip(owners, outcomes, strict=True):
            if outcome < 0:
                failed[owner] = -outcome
        for number, (_, change) in enumerate(batch):
            if change.place and number not in failed:
                outcome = state.files.sync_directory(state.places.name(change.place))
                if outcome < 0:
                    failed[number] = -outcome
        for number, code in failed.items():
            self._give_up(*batch[number], code)
        real = [code for code in failed.values() if code != errno.ENOENT]
        return real[0] if real else 0

    def _take_syncer(self) -> FileSyncer:
        if self._syncer is None:
            self._syncer = FileSyncer(self._state.files.engine)
        return self._syncer

    def _sync_everything(self) -> bool:
        """Make all there is durable by one call. False: it failed, and who is to blame is open."""
        try:
            return self._take_syncer().sync_all() == 0
        except OSError:
            return False

    def _sync_files(self, names: list[bytes]) -> list[int]:
        try:
            outcomes: list[int] = self._take_syncer().sync(names)
        except OSError as error:
            return [-(error.errno or errno.EIO)] * len(names)
        if outcomes and outcomes[0] == -errno.EIO:
            # Perhaps the channel is broken: the next round takes a new one.
            self._take_syncer().close()
            self._syncer = None
        return outcomes

    def _give_up(self, hash16: bytes, change: Change, code: int) -> None:
        """A version cannot be published: have everything of the key removed from disk."""
        state = self._state
        with state.key_lock(hash16):
            if state.changes.get(hash16) is not change:
                return  # superseded, and perhaps that is why it failed
            state.counters.publish_errors += 1
            state.note_failure(code, time.monotonic())
            entry = state.index.get(hash16)
            if entry is not None and entry[0] == change.sequence:
                state.forget(hash16)

    def _settle(self, hash16: bytes, change: Change) -> int:
        """Carry out one change; 0 or an errno. A change that failed stays, or was given up."""
        state = self._state
        with state.key_lock(hash16):
            if state.changes.get(hash16) is not change:
                return 0
            if change.place == 0:
                code = self._unpublish(hash16, change)
            else:
                code = self._publish(hash16, change)
            if code == 0:
                with state.mutex:
                    del state.changes[hash16]
                    state.publishing -= bool(change.place)
        if code and change.place:
            self._give_up(hash16, change, code)
        return code

    def _unpublish(self, hash16: bytes, change: Change) -> int:
        state = self._state
        with state.mutex:
            place = state.places.take()
        name = state.places.name(place)
        outcome = state.files.rename(object_name(hash16), name)
        if outcome == -errno.ENOENT:
            name = object_name(hash16)  # there is nothing
        elif outcome < 0:
            state.note_failure(-outcome, time.monotonic())
            return -int(outcome)
        self._remove(name, change.published)
        parent = parent_name(hash16)
        # Unless others are in it; the publisher alone moves objects there, so nobody comes now.
        is_gone = state.files.unlink(parent) == 0
        state.fan_out -= is_gone
        # Of a parent that is gone, the move out of it is made durable by where it went.
        self._unsynced.update((TEMPORARY, parent[:2]) if is_gone else (parent,))
        return 0

    def _publish(self, hash16: bytes, change: Change) -> int:
        state = self._state
        source, target = state.places.name(change.place), object_name(hash16)
        outcome, has_old = self._move(source, target, hash16)
        if outcome < 0:
            return -outcome
        self._unsynced.add(parent_name(hash16))
        state.index.settle(hash16, change.sequence)
        state.failures = 0
        state.counters.publishes += 1
        state.counters.published_bytes += change.space
        if has_old:
            self._outdated.append((source, change.published))
        elif change.published:
            self._count_removed(change.published)  # somebody else had removed it
        return 0

    def _move(self, source: bytes, target: bytes, hash16: bytes) -> tuple[int, bool]:
        """Move a directory to its place: (0 or -errno, whether the older one has its name now)."""
        files = self._state.files
        outcome = files.rename(source, target)
        if outcome == -errno.ENOENT:
            parent = parent_name(hash16)
            for name in (parent[:2], parent):
                made = files.make_directory(name)
                if made < 0:
                    return made, False
                self._state.fan_out += made
            self._unsynced.update((b"", parent[:2]))
            outcome = files.rename(source, target)
        if outcome not in (-errno.ENOTEMPTY, -errno.EEXIST, -errno.ENOTDIR):
            return outcome, False
        outcome = files.exchange(source, target) if self._has_exchange else NO_EXCHANGE[0]
        if outcome not in NO_EXCHANGE:
            return outcome, outcome == 0
        return self._move_in_two_steps(source, target)

    def _move_in_two_steps(self, source: bytes, target: bytes) -> tuple[int, bool]:
        """Where the file system cannot exchange names: for a moment there is no object."""
        state = self._state
        if self._has_exchange:
            self._has_exchange = False
            _log.warning(
                "the file system has no RENAME_EXCHANGE: replacing an object takes two renames, "
                "and a crash between them loses it"
            )
        state.counters.exchange_fallbacks += 1
        with state.mutex:
            aside = state.places.name(state.places.take())
        outcome = state.files.rename(target, aside)
        if outcome < 0:
            return outcome, False
        outcome = state.files.rename(source, target)
        if outcome < 0:
            state.files.rename(aside, target)
            return outcome, False
        # The older one gets the name that the newer one had, as after an exchange.
        return 0, state.files.rename(aside, source) == 0

    def _sync_parents(self) -> int:
        """Make moves durable, then remove what they replaced; 0 or an errno."""
        files = self._state.files
        code = 0
        if len(self._unsynced) >= SYNC_ALL_NAMES and self._sync_everything():
            self._unsynced.clear()
        for name in sorted(self._unsynced, key=len, reverse=True):
            outcome = files.sync_directory(name)
            if outcome in (0, -errno.ENOENT):
                self._unsynced.discard(name)
            else:
                code = -outcome
        if code:
            self._state.note_failure(code, time.monotonic())
            return code
        outdated, self._outdated = self._outdated, []
        for name, space in outdated:
            self._remove(name, space)
        return 0

    def _remove(self, name: bytes, space: int) -> None:
        """Remove a directory that nobody looks at any more, or try again later."""
        code = remove_tree(self._state.files, name)
        if code:
            self._state.last_errno = code
            self._outdated.append((name, space))
            self._state.is_stuck = True
            return
        self._count_removed(space)

    def _count_removed(self, space: int) -> None:
        with self._state.room:
            self._state.trash_bytes -= space
            self._state.is_stuck = False
            self._state.room.notify_all()

    def _save_order_if_due(self, has_news: bool) -> None:
        now_s = time.monotonic()
        if has_news and now_s - self._order_s > self._order_interval_s:
            self._order_s = now_s
            self.save_order()

    def save_order(self) -> int:
        """Write the order file; 0 or an errno."""
        state = self._state
        with state.mutex:
            place = state.places.name(state.places.take())
        code = save_order(state.files, state.index, place)
        if code:
            state.counters.order_errors += 1
        else:
            state.counters.orders += 1
        return code
