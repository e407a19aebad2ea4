"""The model of `support.model`, and one that also counts what is missing.

A cache may forget, so a miss is allowed, but where nothing was shed and nothing had to make room it
forgets nothing that a sync covered: `StrictModel` holds a store to that.
"""

from __future__ import annotations

from typing import Any

from support.model import Model, Tortured, make_value, options


class LostError(AssertionError):
    """A value that a sync covered is not there."""


class StrictModel(Model):
    """A model whose store is large enough for everything that is put."""

    def __init__(self) -> None:
        super().__init__()
        self.loose: set[bytes] = set()  # a put was shed once: it may have taken the key along

    def add_shed(self, key: bytes, value: bytes) -> None:
        super().add_shed(key, value)
        self.loose.add(key)

    def check(self, key: bytes, found: bytes | None) -> None:
        super().check(key, found)
        if found is None and key in self.versions and key not in self.loose:
            history, floor = self.versions[key], self.floor[key]
            if all(version.seen is not None for version in history[floor:]):
                raise LostError(
                    f"{key!r} is gone: versions {floor} to {len(history) - 1} were possible, "
                    f"synced {self.synced.get(key)}"
                )


class StrictTortured(Tortured):
    """A store that never has to make room, held to forgetting nothing."""

    def __init__(self, seed: int, **arguments: Any) -> None:
        super().__init__(seed, **arguments)
        self.model = StrictModel()

    def churn(self, count: int) -> None:
        """Nothing that would make reclaim run."""


def spacious(**changes: Any) -> dict[str, Any]:
    """Options of a store that is never full in a short life."""
    return options(disk_bytes=256 << 20, region_bytes=1 << 20, **changes)


def pending_change(model: Model, key: bytes, value: bytes | None) -> None:
    """After a crash: a change that was under way, which may have happened or not."""
    floor = model.floor.get(key, 0)
    model.add(key, value)
    model.floor[key] = floor
    model.crashed.add(key)


class Replay:
    """What a process said that it did, into a model.

    Lines: `p key number size`, `d key`, `x prefix` (all keys that begin so are deleted), `s`
    (sync); each is followed by `=` once it was done, `!` when it was shed.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.pending: list[str] = []
        self.last_number = 0
        self.syncs = 0
        self.is_deaf = False  # syncs do not count any more

    def line(self, line: str) -> None:
        if line not in ("=", "!"):
            self.pending = line.split()
            if self.pending[0] == "p":
                self.last_number = int(self.pending[2])
            return
        done, self.pending = self.pending, []
        if done[0] == "s":
            if line == "=" and not self.is_deaf:
                self.model.sync()
                self.syncs += 1
        elif done[0] == "p":
            key = done[1].encode()
            value = make_value(key, int(done[2]), int(done[3]))
            if line == "=":
                self.model.add(key, value)
            else:
                self.model.add_shed(key, value)
        else:
            for key in self.touched(done):
                self.model.add(key, None)

    def touched(self, words: list[str]) -> list[bytes]:
        name = words[1].encode()
        if words[0] == "x":
            return [key for key in self.model.versions if key.startswith(name)]
        return [name]

    def crash(self) -> None:
        self.model.crash()
        if self.pending and self.pending[0] != "s":
            words = self.pending
            value = None
            if words[0] == "p":
                value = make_value(words[1].encode(), int(words[2]), int(words[3]))
            for key in self.touched(words):
                pending_change(self.model, key, value)
        self.pending = []
