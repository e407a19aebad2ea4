"""Which keys turned out not to be cacheable, so that the next request does not wait for others.

A key that is predicted uncacheable skips collapsing: its requests go to the origin side by side. It
is still fetched through the storing rules, so the first cacheable answer makes it cacheable again.
"""

from __future__ import annotations

from collections import OrderedDict


class Predictor:
    """A bounded set of keys, least recently used out first.

    Args:
        capacity: Keys remembered; 0: none.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_capacity", "_keys", "predicted_count")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self.predicted_count = 0

    def __len__(self) -> int:
        return len(self._keys)

    def is_uncacheable(self, key: bytes) -> bool:
        """Say whether the last answer for a key was not cacheable."""
        if key not in self._keys:
            return False
        self._keys.move_to_end(key)
        self.predicted_count += 1
        return True

    def mark(self, key: bytes) -> None:
        """Remember that an answer was not cacheable."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def clear(self, key: bytes) -> None:
        """Forget a key: an answer was cacheable, or the key was purged."""
        self._keys.pop(key, None)

    def reset(self) -> None:
        """Forget all keys."""
        self._keys.clear()
