"""The RAM tier: items, pins, zombies, the budget and its evictions."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgecache._testing_memory import MemoryHarness

MIB = 1 << 20
POLICIES = ["s3fifo", "lru", "arc", "sieve", "wtinylfu"]


@pytest.fixture
def shard() -> MemoryHarness:
    return MemoryHarness("lru", MIB)


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="refused"):
        MemoryHarness("lru", 262143)
    assert MemoryHarness("lru", 262144).put(1, b"x" * 200_000)


@pytest.mark.parametrize("expiry_us", [0, 1_700_000_000_000_000])
@pytest.mark.parametrize("meta", [b"", b"m" * 77])
@pytest.mark.parametrize("size", [0, 1, 107, 4095, 4096, 70_000])
def test_an_item_keeps_what_was_put(
    shard: MemoryHarness, size: int, meta: bytes, expiry_us: int
) -> None:
    value = random.Random(size).randbytes(size)
    assert shard.put(7, value, meta=meta, key_len=31, expiry_us=expiry_us)
    facts = shard.describe(shard.reference(7))
    assert (facts["number"], facts["key_len"]) == (7, 31)
    assert (facts["meta"], facts["expiry_us"], facts["value_len"]) == (meta, expiry_us, size)
    assert facts["version"] % 2 == 0
    assert facts["version"] > 0
    assert shard.get(7) == value
    assert shard.view(shard.reference(7)) == (7, meta, value)
    if size >= 4096:
        assert facts["value_address"] % 64 == 0


def test_the_disk_location_does_not_touch_the_other_fields(shard: MemoryHarness) -> None:
    assert shard.put(7, b"value", meta=b"meta", key_len=255, expiry_us=9)
    reference = shard.reference(7)
    shard.set_disk(reference, (1 << 40) - 1, 127)
    facts = shard.describe(reference)
    assert (facts["disk"], facts["disk_size_class"]) == ((1 << 40) - 1, 127)
    assert (facts["key_len"], facts["meta"], facts["expiry_us"]) == (255, b"meta", 9)
    shard.set_disk(reference, 5, 0)
    facts = shard.describe(reference)
    assert (facts["disk"], facts["disk_size_class"]) == (5, 0)


def test_a_123_byte_entry_costs_at_most_40_bytes_more(shard: MemoryHarness) -> None:
    assert shard.slot_bytes(16, 0, 107, False) <= 123 + 40


def test_an_item_being_filled_is_invisible_and_stays(shard: MemoryHarness) -> None:
    reference = shard.allocate(1, 100)
    assert shard.describe(reference)["version"] % 2 == 1
    assert shard.view(reference) is None
    assert shard.scan() == []
    for number in range(2, 4000):
        assert shard.put(number, b"x" * 1000)
    assert shard.describe(reference)["number"] == 1
    assert shard.stats()["filling_count"] == 1
    shard.publish(reference)
    assert 1 in shard.scan()
    assert shard.check() == 0


def test_an_item_being_filled_can_be_given_up(shard: MemoryHarness) -> None:
    reference = shard.allocate(1, 100_000)
    shard.free_reference(reference)
    assert shard.stats()["used_bytes"] == 0
    assert shard.check() == 0


def test_a_pinned_item_survives_its_deletion_until_the_last_unpin(shard: MemoryHarness) -> None:
    assert shard.put(1, b"keep" * 30)
    reference = shard.reference(1)
    assert shard.pin(reference)
    assert shard.pin(reference)
    slot_bytes = shard.describe(reference)["slot_bytes"]
    assert shard.stats()["pinned_bytes"] == slot_bytes
    shard.delete(1)
    assert shard.stats()["zombie_count"] == 1
    assert shard.scan() == []
    assert shard.view(reference) is None
    for number in range(2, 3000):
        shard.put(number, b"x" * 500)
    shard.unpin(reference)
    assert shard.value_at(reference) == b"keep" * 30
    assert shard.check() == 0
    shard.unpin(reference)
    assert shard.stats()["pinned_bytes"] == 0
    assert shard.stats()["zombie_count"] == 0
    assert shard.check() == 0


def test_pins_are_refused_at_their_limit(shard: MemoryHarness) -> None:
    assert shard.put(1, b"x")
    reference = shard.reference(1)
    assert all(shard.pin(reference) for _ in range(65535))
    assert not shard.pin(reference)
    assert shard.describe(reference)["pins"] == 65535
    for _ in range(65535):
        shard.unpin(reference)
    assert shard.stats()["pinned_bytes"] == 0


def test_a_freed_or_moved_item_changes_its_version(shard: MemoryHarness) -> None:
    assert shard.put(1, b"x" * 100)
    reference = shard.reference(1)
    version = shard.describe(reference)["version"]
    assert shard.version_unchanged(reference, version)
    assert shard.put(1, b"y" * 100)
    assert shard.reference(1) == reference
    assert not shard.version_unchanged(reference, version)


def test_what_left_is_not_live_at_its_old_place() -> None:
    """Deleted, evicted and moved: the old slot, on a page still in use, refuses readers."""
    shard = MemoryHarness("lru", 4 * MIB, key_count=40_000)
    for number in range(20_000):
        assert shard.put(number, b"x" * 48)
    deleted = shard.reference(100)
    shard.delete(100)
    assert shard.view(deleted) is None
    evicted = shard.evict_one()
    assert shard.view(evicted) is None
    for number in range(20_000):
        if number % 5:
            shard.delete(number)
    before = {number: shard.reference(number) for number in shard.keys()}  # noqa: SIM118
    assert shard.set_budget(MIB // 2) == 0
    moved = [old for number, old in before.items() if shard.reference(number) not in (0, old)]
    assert moved
    live = {shard.reference(number) for number in before}
    assert all(shard.view(old) is None for old in set(moved) - live)


def test_a_view_never_points_outside_the_area(shard: MemoryHarness) -> None:
    assert shard.put(1, b"x" * 100)
    reference = shard.reference(1)
    original = struct.pack("<IIQ", shard.describe(reference)["version"], 100, 16 << 50)
    for version, value_len, disk in [
        (2, 0xFFFFFFFF, 16 << 50),
        (2, 2 * MIB, 16 << 50),
        (2, 10, (1 << 64) - 1),
        (1, 100, 16 << 50),
        (0, 100, 16 << 50),
    ]:
        # All flags set: expiry and meta_len are then read from the key's bytes.
        shard.overwrite(reference, struct.pack("<IIQ", version, value_len, disk))
        assert shard.view(reference) is None
    shard.overwrite(reference, original)
    assert shard.peek(1) == b"x" * 100


def test_least_recently_used_goes_first_and_hits_protect(shard: MemoryHarness) -> None:
    for number in range(100):
        assert shard.put(number, b"x" * 1000)
    assert shard.get(0) is not None
    for number in range(1, 50):
        assert shard.evict_one()
        assert shard.peek(number) is None
    assert shard.peek(0) is not None
    assert shard.check() == 0


def test_the_budget_holds_when_everything_is_pinned(shard: MemoryHarness) -> None:
    number = 0
    while shard.put(number, b"x" * 3000):
        assert shard.pin(shard.reference(number))
        number += 1
        assert shard.stats()["used_bytes"] <= MIB
    assert number >= MIB * 0.95 // 3064
    assert shard.stats()["refuse_count"] == 1
    assert not shard.put(4000, b"x" * 60_000)
    assert shard.evict_one() == 0
    assert shard.set_budget(MIB // 2) >= MIB // 2 - 8192
    assert shard.check() == 0
    for pinned in range(number):
        shard.unpin(shard.reference(pinned))
    assert shard.set_budget(MIB // 2) == 0
    assert shard.stats()["used_bytes"] <= MIB // 2
    assert shard.check() == 0


def test_a_lower_budget_follows_zombies_as_they_are_unpinned(shard: MemoryHarness) -> None:
    references = []
    for number in range(10):
        assert shard.put(number, b"z" * 90_000)
        references.append(shard.reference(number))
        assert shard.pin(references[-1])
    shard.clear()
    assert shard.stats()["zombie_count"] == 10
    assert shard.set_budget(262144) > 0
    for reference in references:
        before = shard.stats()
        assert before["used_bytes"] <= before["budget_bytes"]
        shard.unpin(reference)
        assert shard.check() == 0
    assert shard.stats()["budget_bytes"] == 262144
    assert shard.stats()["used_bytes"] == 0


@pytest.mark.parametrize("size", [100, 9000])
def test_scattered_pins_do_not_stop_an_allocation(shard: MemoryHarness, size: int) -> None:
    """Every page carries something pinned, and most bytes are free to be evicted."""
    for number in range(4000):
        assert shard.put(number, b"x" * (size // 4))
    pinned = {}
    for number in shard.scan():
        page = shard.reference(number) * 8 // shard.page_bytes()
        if page not in pinned:
            pinned[page] = shard.reference(number)
            assert shard.pin(pinned[page])
    assert shard.put(1, b"y" * (size // 4))
    assert shard.check() == 0
    for reference in pinned.values():
        shard.unpin(reference)


def test_an_extent_finds_a_row_between_pins(shard: MemoryHarness) -> None:
    for number in range(600):
        assert shard.put(number, b"x" * 2300)
    # Each third item pinned: every page is touched by one, and 4600 bytes lie between two.
    references = [shard.reference(number) for number in shard.scan()[::3]]
    assert all(shard.pin(reference) for reference in references)
    assert shard.put(1000, b"y" * 4500)
    assert shard.check() == 0
    assert not shard.put(1001, b"y" * 9000)
    assert all(shard.value_at(reference) == b"x" * 2300 for reference in references)


def test_scan_sees_exactly_the_live_items(shard: MemoryHarness) -> None:
    for number in range(600):
        assert shard.put(number, b"x" * (number * 3))
    filling = shard.allocate(4000, 50)
    assert shard.scan()
    assert sorted(shard.scan()) == shard.keys()
    shard.free_reference(filling)
    shard.clear()
    assert shard.scan() == []
    assert shard.stats()["used_bytes"] == 0


def test_moves_keep_items_readable() -> None:
    shard = MemoryHarness("lru", 4 * MIB, key_count=40_000)
    for number in range(30_000):
        assert shard.put(number, struct.pack("<Q", number) * 6)
    survivors = shard.keys()[::5]
    keep = set(survivors)
    for number in sorted(set(shard.keys()) - keep):
        shard.delete(number)
    # One slot in five is live: shrinking to a quarter must move, and needs no eviction.
    assert shard.set_budget(MIB) == 0
    stats = shard.stats()
    assert stats["move_count"] > 1000
    assert shard.check() == 0
    for number in survivors:
        assert shard.peek(number) == struct.pack("<Q", number) * 6


@pytest.mark.parametrize("policy", POLICIES)
def test_changing_sizes_do_not_calcify(policy: str) -> None:
    """100 B, then 60 KiB, then 1 MiB, then 100 B again: each takes over nearly the whole budget."""
    budget_bytes = 16 * MIB
    shard = MemoryHarness(policy, budget_bytes, key_count=1 << 20)
    first = 0
    shares = []
    for value_len, least_share in [(100, 0.9), (60 * 1024, 0.85), (MIB, 0.85), (100, 0.9)]:
        count = 3 * budget_bytes // (value_len + 50)
        shard.time_puts(first, count, value_len)
        assert shard.check() == 0
        live = sum(1 for number in range(first, first + count) if shard.reference(number))
        shares.append(live * (value_len + 16 + 32) / budget_bytes)
        if policy == "lru":  # the others may rightly keep older objects
            assert shares[-1] >= least_share, shares
        assert shard.content_bytes() / budget_bytes >= least_share, shares
        first += count
    assert shard.stats()["refuse_count"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_values_stay_whole_under_native_threads(policy: str) -> None:
    """Six writers under the lock, two readers without it; values tell their key and place."""
    shard = MemoryHarness(policy, MIB, key_count=700)
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(shard.hammer, seed, 6000, 200_000) for seed in range(1, 7)]
        readers = [pool.submit(shard.read_unlocked, seed, 60_000) for seed in range(2)]
        assert [writer.result() for writer in writers] == [0] * 6
        results = [reader.result() for reader in readers]
    assert [wrong for _, wrong in results] == [0, 0]
    assert shard.check() == 0
    stats = shard.stats()
    assert (stats["pinned_bytes"], stats["zombie_count"], stats["filling_count"]) == (0, 0, 0)
    seen, wrong = shard.read_unlocked(9, 5000)
    assert wrong == 0
    assert seen > 0
