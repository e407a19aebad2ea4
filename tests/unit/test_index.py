"""The metadata map: fields, growth, overflow, scan, refusal, copies and the checker itself."""

from __future__ import annotations

import random
import struct

import pytest

from edgecache import _testing_index as testing
from edgecache._testing_index import IndexHarness

OK, NO_MEMORY, INVALID = 0, 5, 8
PAGE_BYTES = 4096
NONE = 0xFFFFFFFF
HEADER_FORMAT = "<7Q14I9Q"
HEADER_NAMES = list(IndexHarness().state())


def hashes(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) for _ in range(count)]


def filled(count: int, seed: int = 1, **options: int) -> tuple[IndexHarness, list[int]]:
    """Return a shard with entry i of the hashes at location i + 1."""
    harness = IndexHarness(**options)
    keys = hashes(count, seed)
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
    return harness, keys


def assert_all_found(harness: IndexHarness, keys: list[int]) -> None:
    missing = [n for n, key in enumerate(keys, 1) if not harness.find(key, n)]
    assert missing == []


def same_place(count: int, value: int = 0x9ABCDEF012345678) -> list[int]:
    """Return hashes with equal tag and bucket: only bits the map does not read differ."""
    return [(value >> 36 << 36) | n for n in range(count)]


# ---- fields and single operations ----


def test_size_class_covers_the_size_with_at_most_a_quarter_more() -> None:
    sizes = [1, 63, 64, 65, 256, 257, 4096, 4097, 7 << 36]
    sizes += [random.Random(2).randrange(1, 7 << 36) >> shift for shift in range(36)]
    for size in filter(None, sizes):
        number = testing.size_class(size)
        limit = testing.size_class_limit_bytes(number)
        assert 1 <= number <= 127
        assert size <= limit
        assert limit <= max(-(-size // 64) * 64 * 1.25, 64)
        assert testing.size_class_limit_bytes(number - 1) < size


def test_size_class_stays_in_its_seven_bits_for_any_size() -> None:
    assert testing.size_class(0) == 1
    assert {testing.size_class(size) for size in ((7 << 36) + 1, 1 << 45, (1 << 64) - 1)} == {127}


def test_step_between_the_two_buckets_is_never_zero_and_uses_all_values() -> None:
    steps = {testing.tag_step(tag) for tag in range(1 << 14)}
    assert steps == set(range(1, 64))
    assert min(testing.tag_step((1 << 22) - 1 - tag) for tag in range(1 << 14)) >= 1


def test_fields_come_back_as_they_were_inserted() -> None:
    harness = IndexHarness()
    for tag in (0, 1, (1 << 22) - 1):
        key = tag << 42 | 12345
        assert harness.insert(key, (1 << 40) - 1, 127, True, 3) == OK
        assert harness.insert(key, 1, 0, False, 0) == OK
        assert sorted(harness.entries(key)) == [
            (1, 0, False, 0),
            ((1 << 40) - 1, 127, True, 3),
        ]
    assert harness.check() == 0


@pytest.mark.parametrize(
    ("location", "size_class", "frequency"),
    [(0, 1, 0), (1 << 40, 1, 0), (1, 128, 0), (1, 1, 4)],
)
def test_values_that_do_not_fit_their_field_are_refused(
    location: int, size_class: int, frequency: int
) -> None:
    harness = IndexHarness()
    assert harness.insert(7 << 50, location, size_class, False, frequency) == INVALID
    assert harness.state()["object_count"] == 0
    assert harness.check() == 0


@pytest.mark.parametrize("count", [1, 40], ids=["bucket", "overflow"])
def test_replace_keeps_frequency_and_set_frequency_keeps_the_rest(count: int) -> None:
    harness = IndexHarness()
    keys = same_place(count)
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location, 5, False, 2) == OK
    for location, key in enumerate(keys, 1):
        assert harness.replace(key, location, False, location + 1000, 9, True) == (
            (location + 1000, 9, True, 2)
        )
        assert harness.set_frequency(key, location + 1000, True, 1)
        assert (location + 1000, 9, True, 1) in harness.entries(key)
        assert not harness.find(key, location)
        assert not harness.find(key, location + 1000, ram=False)
    assert harness.check() == 0


def test_hash_of_tag_zero_does_not_match_free_slots() -> None:
    harness = IndexHarness()
    assert harness.entries(0) == []
    assert harness.insert(5, 77) == OK
    assert harness.entries(0) == [(77, 1, False, 0)]
    assert harness.erase(5, 77)
    assert harness.entries(0) == []


def test_erase_of_an_absent_entry_changes_nothing() -> None:
    harness, keys = filled(100)
    assert not harness.erase(keys[0], 9999)
    assert not harness.erase(keys[0] ^ (1 << 60), 1)
    assert harness.state()["object_count"] == 100
    assert_all_found(harness, keys)


# ---- growth ----


def test_every_load_keeps_all_entries_within_fourteen_bytes_per_object() -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(60_000))
    keys = hashes(60_000)
    worst = 0.0
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
        if location % 397 == 0:
            state = harness.state()
            assert state["object_count"] == location
            if location >= 5_000:
                worst = max(worst, state["area_used_bytes"] / location)
            if location % (397 * 8) == 0:
                assert harness.check() == 0
    assert_all_found(harness, keys)
    assert 9.1 < worst <= 14.0
    assert harness.state()["grow_count"] > 100


def test_expected_objects_fit_without_growth() -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(20_000), expected_count=20_000)
    used_bytes = harness.state()["area_used_bytes"]
    for location, key in enumerate(hashes(16_000), 1):
        assert harness.insert(key, location) == OK
    assert harness.state()["grow_count"] == 0
    assert harness.state()["area_used_bytes"] == used_bytes
    assert harness.check() == 0


def test_directory_larger_than_a_page_moves_and_leaves_its_page_to_segments() -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(600_000))
    assert harness.bench_insert(0, 600_000)[1] == 0
    state = harness.state()
    assert state["directory_page_count"] >= 2
    assert state["directory_page"] != 0
    assert state["free_page_count"] <= 1
    assert harness.check() == 0
    assert harness.bench_lookup(0, 600_000, 600_000)[1] == 600_000
    assert harness.bench_lookup_batch(0, 600_000, 64 * 1000)[1] == 64_000
    assert harness.bench_lookup(10_000_000, 600_000, 100_000)[1] == 0


def test_reserved_address_space_suffices_for_the_stated_objects() -> None:
    for count in (1, 100, 5_000, 100_000):
        harness = IndexHarness(area_bytes=testing.area_bytes(count))
        assert harness.bench_insert(0, count)[1] == 0
        assert harness.state()["object_count"] == count


# ---- what does not fit ----


def test_equal_tags_and_buckets_go_to_overflow_and_nothing_is_dropped() -> None:
    harness, others = filled(2_000)
    used_bytes = harness.state()["area_used_bytes"]
    keys = same_place(3_000)
    for location, key in enumerate(keys, 10_000):
        assert harness.insert(key, location) == OK
    state = harness.state()
    assert state["overflow_count"] >= 3_000 - 14
    assert sorted(entry[0] for entry in harness.entries(keys[0])) == list(range(10_000, 13_000))
    assert harness.check() == 0
    # 20 bytes per entry, half as much again free, and the old copy: no segment was spent on them.
    assert state["area_used_bytes"] - used_bytes < 3_000 * 60
    assert_all_found(harness, others)


def test_overflow_that_empties_gives_its_pages_back() -> None:
    harness = IndexHarness()
    keys = same_place(2_000)
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
    grown = harness.state()
    assert grown["overflow_page_count"] > 1
    # Oldest first: the overflow empties while the buckets may still be full, and in any order.
    order = list(enumerate(keys, 1))
    random.Random(5).shuffle(order)
    for location, key in order:
        assert harness.erase(key, location)
    state = harness.state()
    assert (state["object_count"], state["overflow_count"]) == (0, 0)
    assert state["overflow_page_count"] == 1
    assert harness.check() == 0
    others = hashes(10_000)
    for location, key in enumerate(others, 1):
        assert harness.insert(key, location) == OK
    # What it left behind became segments.
    assert harness.state()["free_page_count"] < grown["free_page_count"] + 10
    assert harness.state()["area_used_bytes"] < grown["area_used_bytes"] + 10_000 * 14
    assert_all_found(harness, others)
    assert harness.check() == 0


def test_sticky_overflow_counter_hides_nothing() -> None:
    harness = IndexHarness()
    keys = same_place(600)
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
    for location in range(1, 590):
        assert harness.erase(keys[location - 1], location)
        assert harness.check() == 0
    assert sorted(e[0] for e in harness.entries(keys[0])) == list(range(590, 601))


def test_overflow_entries_return_to_segments_when_their_group_grows() -> None:
    harness = IndexHarness()
    first_page = IndexHarness().state()["area_used_bytes"]
    harness.set_limit(first_page)
    keys = hashes(1_900)
    refused = [n for n, key in enumerate(keys, 1) if harness.insert(key, n) != OK]
    before = harness.state()
    assert before["overflow_count"] > 0
    harness.set_limit(0)
    for location, key in enumerate(hashes(3_000, seed=9), 5_000):
        assert harness.insert(key, location) == OK
    assert harness.state()["overflow_count"] < before["overflow_count"]
    assert harness.check() == 0
    for location, key in enumerate(keys, 1):
        assert harness.find(key, location) == (location not in refused)


@pytest.mark.parametrize("prefix_bits", [12, 16, 19, 22])
def test_hashes_that_share_tag_bits_are_kept_and_cost_little_memory(prefix_bits: int) -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(200_000))
    low_mask = (1 << (64 - prefix_bits)) - 1
    keys = [key & low_mask | 0x5A5A5A5A5A5A5A5A & ~low_mask for key in hashes(20_000)]
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
    assert_all_found(harness, keys)
    assert harness.check() == 0
    assert harness.state()["depth"] <= 16
    # Colliding keys may not be used to blow up the memory.
    assert harness.state()["area_used_bytes"] < 20_000 * 64


# ---- scan and erase under way ----


def test_scan_visits_every_entry_once_with_its_fields() -> None:
    harness, keys = filled(5_000)
    crowd = same_place(50)
    for location, key in enumerate(crowd, 6_001):
        assert harness.insert(key, location, 3, True, 2) == OK
    visited = harness.scan()
    expected = [(key >> 42, n, 1, False, 0) for n, key in enumerate(keys, 1)]
    expected += [(key >> 42, n, 3, True, 2) for n, key in enumerate(crowd, 6_001)]
    assert sorted(visited) == sorted(expected)


@pytest.mark.parametrize("modulus", [1, 2, 7])
def test_erase_and_replace_during_a_scan_miss_and_repeat_nothing(modulus: int) -> None:
    harness, keys = filled(3_000)
    crowd = same_place(700)
    for location, key in enumerate(crowd, 4_001):
        assert harness.insert(key, location) == OK
    everything = list(range(1, 3_001)) + list(range(4_001, 4_701))
    visited = harness.scan(erase_modulus=modulus, replace_location_bit=1 << 30)
    assert sorted(entry[1] for entry in visited) == everything
    assert harness.check() == 0
    left = [n | 1 << 30 for n in everything if n % modulus]
    assert sorted(entry[1] for entry in harness.scan()) == left
    assert harness.state()["object_count"] == len(left)
    for location, key in enumerate(keys, 1):
        assert harness.find(key, location | 1 << 30) == (location % modulus != 0)


def test_scan_during_growth_ends_and_reports_only_entries_that_exist() -> None:
    harness, _ = filled(2_000)
    more = [(key, n) for n, key in enumerate(hashes(20_000, seed=3), 3_000)]
    visited = harness.scan_and_insert(more)
    assert set(visited) <= set(range(1, 2_001)) | set(range(3_000, 23_000))
    assert len(visited) >= 1_000
    assert harness.check() == 0


@pytest.mark.parametrize("count", [10, 300, 1_000])
def test_walk_goes_on_after_an_erase_through_its_cursor(count: int) -> None:
    harness = IndexHarness()
    keys = same_place(count)
    for location, key in enumerate(keys, 1):
        assert harness.insert(key, location) == OK
    assert harness.erase_walk(keys[0], 5) == count
    assert len(harness.entries(keys[0])) == count // 5
    assert harness.check() == 0
    assert harness.erase_walk(keys[0], 1 << 40) == count // 5
    assert harness.entries(keys[0]) == []
    assert harness.check() == 0


# ---- limits ----


def test_limit_refuses_and_leaves_everything_in_place() -> None:
    limit_bytes = 60 * PAGE_BYTES
    harness = IndexHarness(area_bytes=testing.area_bytes(100_000))
    harness.set_limit(limit_bytes)
    kept, refused_count = {}, 0
    for location, key in enumerate(hashes(40_000), 1):
        status = harness.insert(key, location)
        assert status in (OK, NO_MEMORY)
        if status == OK:
            kept[location] = key
        else:
            refused_count += 1
            if refused_count % 997 == 0:
                assert harness.check() == 0
    state = harness.state()
    assert refused_count > 10_000
    assert state["area_used_bytes"] <= limit_bytes
    assert state["object_count"] == len(kept)
    # Nearly every slot was used before the first refusal counts: 57 segments of 448.
    assert len(kept) > 57 * 448 * 0.8
    assert all(harness.find(key, location) for location, key in kept.items())
    assert sorted(entry[1] for entry in harness.scan()) == sorted(kept)
    location, key = kept.popitem()
    assert harness.erase(key, location)
    assert harness.insert(key, location) == OK
    harness.set_limit(0)
    assert harness.insert(key, location + 1) == OK
    assert harness.check() == 0


def test_full_area_refuses_like_a_limit() -> None:
    harness = IndexHarness(area_bytes=32 * PAGE_BYTES)
    statuses = [harness.insert(key, n) for n, key in enumerate(hashes(20_000), 1)]
    assert statuses.count(OK) == harness.state()["object_count"]
    assert statuses.count(NO_MEMORY) == 20_000 - statuses.count(OK) > 0
    assert harness.state()["area_used_bytes"] <= 32 * PAGE_BYTES
    assert harness.check() == 0


def test_layout_that_does_not_fit_or_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match=f"status {INVALID}"):
        IndexHarness(area_bytes=5 * PAGE_BYTES)
    with pytest.raises(ValueError, match=f"status {INVALID}"):
        IndexHarness(area_bytes=1 << 20, expected_count=1_000_000)
    with pytest.raises(ValueError, match=f"status {INVALID}"):
        IndexHarness(offset_bytes=100)
    assert IndexHarness(area_bytes=6 * PAGE_BYTES).check() == 0


def test_clear_returns_to_the_first_layout_and_keeps_the_limit() -> None:
    fresh = IndexHarness().state()
    harness, keys = filled(20_000)
    harness.set_limit(1 << 19)
    harness.clear()
    state = harness.state()
    assert {**state, "grow_count": 0, "used_bytes_limit": 0} == fresh
    assert state["used_bytes_limit"] == 1 << 19
    assert harness.scan() == []
    assert harness.entries(keys[0]) == []
    assert harness.check() == 0
    assert harness.insert(keys[0], 1) == OK
    assert harness.entries(keys[0]) == [(1, 1, False, 0)]


# ---- copies ----


def test_copy_of_prefix_and_struct_works_at_another_address() -> None:
    source, keys = filled(20_000)
    crowd = same_place(400)
    for location, key in enumerate(crowd, 30_001):
        assert source.insert(key, location) == OK
    header, prefix = source.save()
    assert len(prefix) == source.state()["area_used_bytes"]
    target = IndexHarness(area_bytes=3 << 20, offset_bytes=17 * PAGE_BYTES)
    target.restore(header, prefix)
    assert target.check() == 0
    assert sorted(target.scan()) == sorted(source.scan())
    assert_all_found(target, keys)
    # Growth behind the prefix meets foreign bytes there.
    more = hashes(20_000, seed=4)
    for location, key in enumerate(more, 40_001):
        assert target.insert(key, location) == OK
    assert target.check() == 0
    assert_all_found(target, keys)
    assert all(target.find(key, n) for n, key in enumerate(more, 40_001))
    assert source.check() == 0


# ---- mending ----


def test_notes_of_changes_are_empty_when_none_is_under_way() -> None:
    harness, keys = filled(9_000)
    for location in range(1, 9_000, 3):
        assert harness.replace(keys[location - 1], location, False, location, 9, True)
    assert harness.state()["grow_count"] > 10
    header = struct.unpack(HEADER_FORMAT, harness.save()[0])
    assert header[HEADER_NAMES.index("growth_step")] == 0
    assert header[21:] == (0,) * 9


def test_mending_a_whole_index_keeps_every_entry_and_finds_every_free_page() -> None:
    harness, keys = filled(9_000)
    for location, key in enumerate(same_place(700), 20_000):
        assert harness.insert(key, location) == OK
    before = harness.state()
    assert harness.mend()
    assert harness.check() == 0
    assert_all_found(harness, keys)
    after = harness.state()
    for name in ("object_count", "overflow_count", "area_used_bytes", "free_page_count"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"free_page_head": 5, "free_page_count": 77},
        {"overflow_free_head": 0},
        {"overflow_count": 0, "object_count": 1},
        {"directory_page_count": 9},
    ],
)
def test_what_follows_from_entries_is_made_anew(changes: dict[str, int]) -> None:
    harness = damaged(**changes)
    entries = sorted(damaged().scan())
    assert harness.mend()
    assert harness.check() == 0
    assert sorted(harness.scan()) == entries
    assert harness.state()["object_count"] == len(entries)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 17},
        {"depth": 40},
        {"area_used_bytes": 4095},
        {"directory_page": 1},
        {"overflow_node_count": 1 << 20},
        {"growth_step": 1},
        {"growth_step": 9},
        {"replace_word": 1, "replace_place": 7 << 11},
        {"replace_word": 1, "replace_place": 1 << 50},
    ],
)
def test_what_no_death_leaves_is_not_mended(changes: dict[str, int]) -> None:
    assert not damaged(**changes).mend()


def test_a_clearing_that_was_cut_is_done_again() -> None:
    harness = damaged(growth_step=0xFF, depth=3, directory_page=9)
    assert harness.mend()
    assert harness.check() == 0
    assert harness.scan() == []


# ---- the checker ----


def damaged(**changes: int) -> IndexHarness:
    """Return a copy of a shard with header fields set to other values."""
    source, _ = filled(3_000)
    for location, key in enumerate(same_place(30), 5_000):
        assert source.insert(key, location) == OK
    header, prefix = source.save()
    values = list(struct.unpack(HEADER_FORMAT, header))
    for name, value in changes.items():
        # growth_group is four words.
        place = HEADER_NAMES.index(name)
        values[{"replace_place": 27, "replace_word": 28}.get(name, place)] = value
    harness = IndexHarness()
    harness.restore(struct.pack(HEADER_FORMAT, *values), prefix)
    return harness


@pytest.mark.parametrize(
    ("name", "value", "broken"),
    [
        ("growth_step", 1, 1),
        ("depth", 17, 1),
        ("area_used_bytes", 4095, 1),
        ("directory_page", 1 << 30, 1),
        ("overflow_page", NONE, 1),
        ("overflow_page_count", 0, 1),
        ("overflow_node_count", 1 << 20, 1),
        ("depth", 0, 2),
        ("directory_page", 1, 3),
        ("free_page_head", 5, 3),
        ("free_page_count", 3, 3),
        ("overflow_free_head", 0, 5),
        ("overflow_count", 0, 7),
        ("object_count", 1, 7),
    ],
)
def test_check_names_the_broken_field_of_the_header(name: str, value: int, broken: int) -> None:
    assert damaged().check() == 0
    assert damaged(**{name: value}).check() == broken


def test_check_finds_damage_in_slots_directory_and_overflow() -> None:
    source, _ = filled(3_000)
    for location, key in enumerate(same_place(30), 5_000):
        assert source.insert(key, location) == OK
    header, prefix = source.save()
    state = source.state()
    segment_page = struct.unpack_from("<I", prefix, state["directory_page"] * PAGE_BYTES + 4)[0]
    words = struct.unpack_from("<512Q", prefix, segment_page * PAGE_BYTES)
    used = next(n for n, word in enumerate(words) if word and n % 8 < 7)
    free = next(n for n, word in enumerate(words) if not word and n % 8 < 7)
    node_offset = state["overflow_page"] * PAGE_BYTES
    slot_offset = segment_page * PAGE_BYTES
    cases = [
        (state["directory_page"] * PAGE_BYTES, 0x0F, 2),  # segment_count
        (state["directory_page"] * PAGE_BYTES + 4, segment_page ^ state["overflow_page"], 3),
        (slot_offset + used * 8 + 7, 0x20, 4),  # top bit of a tag
        (slot_offset + free // 8 * 64 + 56 + free % 8, 0x01, 4),  # info of a free slot
        (node_offset + 7, 0x10, 5),  # key of the first node
        (slot_offset + 63, 0x02, 6),  # overflow counter of the first bucket
    ]
    for offset, bits, broken in cases:
        copy = bytearray(prefix)
        copy[offset] ^= bits
        harness = IndexHarness()
        harness.restore(header, bytes(copy))
        assert harness.check() == broken, (offset, bits)


def test_check_survives_any_bytes() -> None:
    source, _ = filled(2_000)
    for location, key in enumerate(same_place(300), 5_000):
        assert source.insert(key, location) == OK
    header, prefix = source.save()
    harness = IndexHarness()
    noise = random.Random(6)
    found = 0
    for _ in range(400):
        copy, head = bytearray(prefix), bytearray(header)
        for _ in range(noise.choice((1, 4, 400))):
            copy[noise.randrange(len(copy))] = noise.getrandbits(8)
        if noise.random() < 0.3:
            head[noise.randrange(16, len(head))] = noise.getrandbits(8)
        harness.restore(bytes(head), bytes(copy))
        found += harness.check() != 0
    assert found > 200
