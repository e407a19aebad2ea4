"""Plain Python models of the eviction policies: dictionaries in order, no links, no offsets.

A model makes the same decisions as the native policy, victim for victim. Where the native code
keeps a fingerprint instead of a hash, or hashes into a sketch, the model uses the same functions,
so that a collision is no difference. Every queue is an OrderedDict from hash to size, oldest
first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(key: int) -> int:
    """splitmix64's finaliser, as the simulator applies it to object ids."""
    key = (key + GOLDEN) & MASK
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
    return key ^ (key >> 31)


class Queue(OrderedDict[int, int]):
    """Hash to size, oldest first, with the sum of the sizes."""

    @property
    def size(self) -> int:
        return sum(self.values())

    def oldest(self, pinned: set[int]) -> int | None:
        """The oldest unpinned hash; pinned ones before it become the newest."""
        for _ in range(len(self)):
            first = next(iter(self))
            if first not in pinned:
                return first
            self.move_to_end(first)
        return None


class Ghosts:
    """Fingerprints in order of eviction, in a ring of `places`."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.live: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.sequence = 0

    @staticmethod
    def fingerprint(hash_: int) -> int:
        return ((hash_ * GOLDEN) & MASK) >> 32 or 1

    @property
    def size(self) -> int:
        return sum(size for _, size in self.live.values())

    def trim(self, limit: int) -> None:
        while self.live and self.size > limit:
            self.live.popitem(last=False)

    def take(self, hash_: int) -> bool:
        return self.live.pop(self.fingerprint(hash_), None) is not None

    def push(self, hash_: int, size: int, limit: int) -> None:
        if self.places == 0 or size > limit:
            return
        self.take(hash_)
        self.trim(limit - size)
        if self.live:
            oldest_sequence = next(iter(self.live.values()))[0]
            if self.sequence - oldest_sequence == self.places:
                self.live.popitem(last=False)
        self.live[self.fingerprint(hash_)] = (self.sequence, size)
        self.sequence += 1


class Policy(ABC):
    """The part of a cache that all policies share; a policy fills in the four decisions."""

    def __init__(self, capacity: int, area_bytes: int) -> None:
        self.capacity = capacity
        self.area_bytes = area_bytes
        self.sizes: dict[int, int] = {}
        self.pinned: set[int] = set()

    @abstractmethod
    def on_hit(self, hash_: int) -> None: ...

    def on_miss(self, hash_: int) -> None:  # noqa: B027 - most policies do not care
        """Only a frequency sketch cares."""

    @abstractmethod
    def on_insert(self, hash_: int, size: int) -> None: ...

    @abstractmethod
    def on_remove(self, hash_: int) -> None: ...

    def on_capacity(self) -> None:  # noqa: B027 - most structures do not care
        """Only bounded structures care."""

    @abstractmethod
    def choose(self) -> int | None: ...

    def evict(self) -> int | None:
        victim = self.choose()
        if victim is not None:
            del self.sizes[victim]
        return victim

    def access(self, hash_: int, size: int) -> tuple[bool, list[int]]:
        if hash_ in self.sizes:
            self.on_hit(hash_)
            return True, []
        self.on_miss(hash_)
        victims: list[int] = []
        if size > self.capacity:
            return False, victims
        while sum(self.sizes.values()) + size > self.capacity:
            victim = self.evict()
            if victim is None:
                return False, victims
            victims.append(victim)
        self.sizes[hash_] = size
        self.on_insert(hash_, size)
        return False, victims

    def delete(self, hash_: int) -> bool:
        if hash_ not in self.sizes:
            return False
        self.on_remove(hash_)
        del self.sizes[hash_]
        self.pinned.discard(hash_)
        return True

    def set_capacity(self, capacity: int) -> list[int]:
        self.capacity = capacity
        self.on_capacity()
        victims: list[int] = []
        while sum(self.sizes.values()) > capacity and (victim := self.evict()) is not None:
            victims.append(victim)
        return victims


class Lru(Policy):
    def __init__(self, capacity: int, area_bytes: int) -> None:
        super().__init__(capacity, area_bytes)
        self.queue = Queue()

    def on_hit(self, hash_: int) -> None:
        self.queue.move_to_end(hash_)

    def on_insert(self, hash_: int, size: int) -> None:
        self.queue[hash_] = size

    def on_remove(self, hash_: int) -> None:
        del self.queue[hash_]

    def choose(self) -> int | None:
        victim = self.queue.oldest(self.pinned)
        if victim is not None:
            del self.queue[victim]
        return victim


class Sieve(Policy):
    """A list from oldest to newest, a set of visited hashes, and the hand as a hash."""

    def __init__(self, capacity: int, area_bytes: int) -> None:
        super().__init__(capacity, area_bytes)
        self.line: list[int] = []
        self.visited: set[int] = set()
        self.hand: int | None = None

    def on_hit(self, hash_: int) -> None:
        self.visited.add(hash_)

    def on_insert(self, hash_: int, size: int) -> None:
        self.line.append(hash_)

    def on_remove(self, hash_: int) -> None:
        at = self.line.index(hash_)
        if self.hand == hash_:
            self.hand = self.line[at + 1] if at + 1 < len(self.line) else None
        self.line.pop(at)
        self.visited.discard(hash_)

    def choose(self) -> int | None:
        if all(hash_ in self.pinned for hash_ in self.line):
            return None
        at = self.line.index(self.hand) if self.hand is not None else 0
        while self.line[at] in self.pinned or self.line[at] in self.visited:
            if self.line[at] not in self.pinned:
                self.visited.remove(self.line[at])
            at = (at + 1) % len(self.line)
        victim = self.line[at]
        self.hand = victim
        self.on_remove(victim)
        return victim


class S3Fifo(Policy):
    def __init__(self, capacity: int, area_bytes: int) -> None:
        super().__init__(capacity, area_bytes)
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.hits: dict[int, int] = {}
        self.ghosts = Ghosts(area_bytes // 16)
        self.warm = False

    @property
    def main_share(self) -> int:
        return self.capacity - self.capacity // 10

    def held(self, queue: deque[int]) -> int:
        return sum(self.sizes[hash_] for hash_ in queue)

    def on_hit(self, hash_: int) -> None:
        self.hits[hash_] = min(self.hits[hash_] + 1, 3)

    def on_insert(self, hash_: int, size: int) -> None:
        self.hits[hash_] = 0
        full = self.held(self.small) >= self.capacity // 10
        if self.ghosts.take(hash_) or (full and not self.warm):
            self.main.append(hash_)
        else:
            self.small.append(hash_)

    def on_remove(self, hash_: int) -> None:
        (self.small if hash_ in self.small else self.main).remove(hash_)
        del self.hits[hash_]

    def on_capacity(self) -> None:
        self.ghosts.trim(self.main_share)

    def from_small(self) -> int | None:
        for _ in range(len(self.small)):
            hash_ = self.small.popleft()
            if hash_ in self.pinned:
                self.small.append(hash_)
            elif self.hits[hash_] >= 2:
                self.hits[hash_] = 0
                self.main.append(hash_)
            else:
                self.ghosts.push(hash_, self.sizes[hash_], self.main_share)
                del self.hits[hash_]
                return hash_
        return None

    def from_main(self) -> int | None:
        while not all(hash_ in self.pinned for hash_ in self.main):
            hash_ = self.main.popleft()
            if hash_ not in self.pinned:
                if self.hits[hash_] == 0:
                    del self.hits[hash_]
                    return hash_
                self.hits[hash_] -= 1
            self.main.append(hash_)
        return None

    def choose(self) -> int | None:
        self.warm = True
        if self.held(self.main) > self.main_share and (victim := self.from_main()) is not None:
            return victim
        victim = self.from_small()
        return victim if victim is not None else self.from_main()


class Arc(Policy):
    def __init__(self, capacity: int, area_bytes: int) -> None:
        super().__init__(capacity, area_bytes)
        self.t1, self.t2 = Queue(), Queue()
        self.b1, self.b2 = (Ghosts(area_bytes // 16 * 8 // 16) for _ in range(2))
        self.p = 0

    def forget(self) -> None:
        self.b1.trim(max(self.capacity - self.t1.size, 0))
        used = self.t1.size + self.t2.size + self.b1.size
        self.b2.trim(max(2 * self.capacity - used, 0))

    def on_capacity(self) -> None:
        self.p = min(self.p, self.capacity)
        self.forget()

    def on_hit(self, hash_: int) -> None:
        size = self.t1.pop(hash_, None)
        self.t2[hash_] = self.t2.pop(hash_) if size is None else size

    def on_insert(self, hash_: int, size: int) -> None:
        b1, b2 = self.b1.size, self.b2.size
        if self.b1.take(hash_):
            step = min(size * b2 // b1, self.capacity) if 0 < b1 < b2 else size
            self.p = min(self.p + step, self.capacity)
            self.t2[hash_] = size
        elif self.b2.take(hash_):
            step = min(size * b1 // b2, self.capacity) if 0 < b2 < b1 else size
            self.p = max(self.p - step, 0)
            self.t2[hash_] = size
        else:
            self.t1[hash_] = size
        self.forget()

    def on_remove(self, hash_: int) -> None:
        del (self.t1 if hash_ in self.t1 else self.t2)[hash_]

    def choose(self) -> int | None:
        sides = [(self.t1, self.b1, self.capacity), (self.t2, self.b2, 2 * self.capacity)]
        if self.t1.size <= self.p:
            sides.reverse()
        for queue, ghosts, limit in sides:
            victim = queue.oldest(self.pinned)
            if victim is not None:
                ghosts.push(victim, queue.pop(victim), limit)
                self.forget()
                return victim
        return None


class Sketch:
    """The doorkeeper and counters as dictionaries, with the native geometry and hash functions."""

    def __init__(self, area_bytes: int) -> None:
        words = 1
        while words * 2 * 9 + 8 <= area_bytes:
            words *= 2
        self.words = words if area_bytes >= 16 else 0
        self.door_words = max(words // 8, 1)
        self.counters: dict[tuple[int, int], int] = {}
        self.door: dict[int, int] = {}
        self.additions = 0
        self.hand = 0

    @staticmethod
    def mix(hash_: int, row: int) -> int:
        mixed_ = (hash_ + (row + 1) * GOLDEN) & MASK
        mixed_ = ((mixed_ ^ (mixed_ >> 33)) * 0xFF51AFD7ED558CCD) & MASK
        return mixed_ ^ (mixed_ >> 32)

    def places(self, hash_: int) -> list[tuple[int, int]]:
        hashes = [self.mix(hash_, row) for row in range(4)]
        return [(h % self.words, row * 4 + (h >> 62)) for row, h in enumerate(hashes)]

    def door_bits(self, hash_: int) -> tuple[int, int]:
        h = self.mix(hash_, 4)
        bits = 1 << (h >> 58) | 1 << (h >> 52 & 63) | 1 << (h >> 46 & 63)
        return h % self.door_words, bits

    def known(self, hash_: int) -> bool:
        word, bits = self.door_bits(hash_)
        return self.door.get(word, 0) & bits == bits

    def estimate(self, hash_: int) -> int:
        if self.words == 0:
            return 0
        return min(self.counters.get(p, 0) for p in self.places(hash_)) + self.known(hash_)

    def add(self, hash_: int, sample: int) -> None:
        if self.words == 0:
            return
        if self.known(hash_):
            places = self.places(hash_)
            least = min(self.counters.get(p, 0) for p in places)
            for place in places:
                if least < 15 and self.counters.get(place, 0) == least:
                    self.counters[place] = least + 1
        else:
            word, bits = self.door_bits(hash_)
            self.door[word] = self.door.get(word, 0) | bits
        self.additions += 1
        if self.hand != 0 or self.additions >= sample:
            if self.hand == 0:
                self.additions = 0
            self.age()

    def age(self) -> None:
        total = self.words + self.door_words
        end = min(self.hand + 64, total)
        for word in range(self.hand, end):
            if word >= self.words:
                self.door.pop(word - self.words, None)
            for column in range(16):
                if (word, column) in self.counters:
                    self.counters[word, column] >>= 1
        self.hand = end if end < total else 0


class WTinyLfu(Policy):
    def __init__(self, capacity: int, area_bytes: int) -> None:
        super().__init__(capacity, area_bytes)
        self.window, self.probation, self.protected = Queue(), Queue(), Queue()
        self.sketch = Sketch(area_bytes)

    @property
    def main_share(self) -> int:
        return self.capacity - self.capacity // 100

    @property
    def main_size(self) -> int:
        return self.probation.size + self.protected.size

    def count(self, hash_: int) -> None:
        self.sketch.add(hash_, 10 * max(len(self.sizes), 64))

    on_miss = count

    def demote(self) -> None:
        while self.protected.size > self.main_share // 5 * 4 and len(self.protected) > 1:
            hash_, size = self.protected.popitem(last=False)
            self.probation[hash_] = size

    on_capacity = demote

    def on_hit(self, hash_: int) -> None:
        self.count(hash_)
        if hash_ in self.window:
            self.window.move_to_end(hash_)
            return
        self.probation.pop(hash_, None)
        self.protected.pop(hash_, None)
        self.protected[hash_] = self.sizes[hash_]
        self.demote()

    def on_insert(self, hash_: int, size: int) -> None:
        self.window[hash_] = size
        while self.window.size > self.capacity // 100:
            oldest = next(iter(self.window))
            if self.main_size + self.window[oldest] > self.main_share:
                break
            self.probation[oldest] = self.window.pop(oldest)

    def on_remove(self, hash_: int) -> None:
        for queue in (self.window, self.probation, self.protected):
            queue.pop(hash_, None)

    def choose(self) -> int | None:
        victim = self.contest()
        if victim is not None:
            self.on_remove(victim)
        return victim

    def contest(self) -> int | None:
        victim = self.probation.oldest(self.pinned)
        if victim is None:
            victim = self.protected.oldest(self.pinned)
        if victim is not None and self.main_size > self.main_share:
            return victim
        while (candidate := self.window.oldest(self.pinned)) is not None:
            if self.main_size + self.window[candidate] > self.main_share:
                if victim is None:
                    return candidate
                wins = self.sketch.estimate(candidate) > self.sketch.estimate(victim)
                return victim if wins else candidate
            self.probation[candidate] = self.window.pop(candidate)
            victim = candidate if victim is None else victim
        return victim


POLICIES: dict[str, type[Policy]] = {
    "s3fifo": S3Fifo,
    "lru": Lru,
    "arc": Arc,
    "sieve": Sieve,
    "wtinylfu": WTinyLfu,
}
