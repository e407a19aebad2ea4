"""Pages, classes and extents under the RAM tier."""

from __future__ import annotations

import pytest

from edgecache._testing_memory import MemoryHarness

MIB = 1 << 20


@pytest.mark.parametrize(
    ("area_bytes", "page_bytes"),
    [(MIB, 4096), (4 * MIB, 4096), (16 * MIB, 16384), (64 * MIB, 65536), (256 * MIB, 65536)],
)
def test_page_size_follows_the_area(area_bytes: int, page_bytes: int) -> None:
    assert MemoryHarness("lru", area_bytes).page_bytes() == page_bytes


@pytest.mark.parametrize("area_bytes", [MIB, 8 * MIB, 16 * MIB, 32 * MIB, 64 * MIB])
def test_rounding_wastes_an_eighth_at_most(area_bytes: int) -> None:
    shard = MemoryHarness("lru", area_bytes)
    sizes = shard.class_sizes()
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 40
    assert sizes[-1] == shard.page_bytes() // 8
    assert all(size % 8 == 0 for size in sizes)
    assert all(size % 64 == 0 for size in sizes if size > 4096)
    for size in range(40, 3 * sizes[-1], 7):
        rounded = shard.rounded_bytes(size)
        assert rounded >= size
        # Rounding classes down to whole granules adds a little to the eighth.
        assert rounded - size <= max(8, size * 0.14), size
    for size in sizes:
        assert shard.rounded_bytes(size) == size
        # The end of a page that no slot covers; worst where 4 KiB pages hold slots of 216 bytes.
        assert shard.page_bytes() % size <= shard.page_bytes() * 0.055, size


def test_sizes_beyond_32_bits_are_refused() -> None:
    shard = MemoryHarness("lru", MIB)
    assert shard.slot_bytes(16, 0, 1 << 32, False) == 0
    assert shard.slot_bytes(16, 0, (1 << 32) - 1, False) == 0
    assert shard.slot_bytes(0, 0, 10, False) == 0
    assert shard.slot_bytes(16384, 0, 10, False) == 0
    assert shard.slot_bytes(16383, 0, 10, False) >= 16383 + 32 + 10


def test_pages_return_when_their_last_slot_is_freed() -> None:
    shard = MemoryHarness("lru", MIB)
    for number in range(500):
        assert shard.put(number, b"x" * 100)
    used_bytes = shard.stats()["used_bytes"]
    assert used_bytes >= 500 * 152
    for number in range(500):
        shard.delete(number)
        assert shard.check() == 0
    assert shard.stats()["used_bytes"] == 0
    assert {kind for kind, *_ in shard.pages()} == {"free"}
    # Another class takes the very pages.
    for number in range(500):
        assert shard.put(number, b"x" * 300)
        assert shard.check() == 0
    assert shard.stats()["eviction_count"] == 0


def test_extents_cross_pages_and_their_holes_are_filled() -> None:
    shard = MemoryHarness("lru", MIB)
    sizes = [5000, 9000, 600, 3000, 20000, 700, 12345]
    for number, size in enumerate(sizes * 8):
        assert shard.put(number, bytes([number]) * size)
        assert shard.check() == 0
    used_bytes = shard.stats()["used_bytes"]
    for number in range(0, 56, 7):
        shard.delete(number)
        assert shard.check() == 0
    for number in range(0, 56, 7):
        assert shard.put(number, bytes([number]) * 5000)
        assert shard.check() == 0
    assert shard.stats()["used_bytes"] == used_bytes
    for number, size in enumerate(sizes * 8):
        assert shard.peek(number) == bytes([number]) * size


def test_an_extent_as_large_as_the_budget_fits_and_a_larger_one_does_not() -> None:
    shard = MemoryHarness("lru", MIB)
    for number in range(1000):
        shard.put(number, b"s" * 200)
    assert shard.put(4000, b"L" * (MIB - 64))
    assert shard.check() == 0
    assert shard.stats()["item_count"] == 1
    assert shard.stats()["used_bytes"] == MIB
    assert not shard.put(4001, b"L" * (MIB + 1))
    # What cannot fit evicts nobody.
    assert shard.peek(4000) == b"L" * (MIB - 64)


@pytest.mark.parametrize("shared", [False, True])
def test_shrinking_gives_memory_back_to_the_operating_system(shared: bool) -> None:
    shard = MemoryHarness("lru", 8 * MIB, shared=shared)
    for number in range(4000):
        shard.put(number, b"x" * 2000)
    assert shard.resident_bytes() >= 7 * MIB
    assert shard.set_budget(MIB) == 0
    assert shard.check() == 0
    assert shard.resident_bytes() <= MIB
    assert shard.set_budget(8 * MIB) == 0
    for number in range(4000):
        assert shard.put(number, b"y" * 2000)
    assert shard.check() == 0


def test_residency_stays_within_the_budget_when_the_area_is_larger() -> None:
    shard = MemoryHarness("lru", MIB, area_bytes=8 * MIB)
    for number in range(4000):
        assert shard.put(number, b"x" * (100 if number % 3 else 20000 + number))
        assert shard.put(number, b"x" * (150000 if number % 50 == 0 else 50))
        if number % 100 == 0:
            assert shard.check() == 0
            assert shard.resident_bytes() <= MIB


@pytest.mark.parametrize("filled_bytes", [MIB // 2, 3 * MIB, 5 * MIB])
def test_huge_pages_never_make_more_resident_than_the_budget(filled_bytes: int) -> None:
    """Also while the budget falls into a span that came whole and is filled only in part."""
    shard = MemoryHarness("lru", 6 * MIB, area_bytes=8 * MIB)
    for number in range(filled_bytes // 2112):
        assert shard.put(number, b"x" * 2000)
    assert shard.resident_bytes() <= 6 * MIB
    for budget_bytes in (5 * MIB, 3 * MIB + 65536, 2 * MIB - 65536, MIB):
        assert shard.set_budget(budget_bytes) == 0
        assert shard.check() == 0
        assert shard.resident_bytes() <= budget_bytes
    assert shard.set_budget(8 * MIB) == 0
    for number in range(4000):
        assert shard.put(number, b"y" * 2000)
    assert shard.check() == 0
    assert shard.resident_bytes() <= 8 * MIB
