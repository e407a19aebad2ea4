"""What tells one eviction policy from another, on histories short enough to follow by hand."""

from __future__ import annotations

import random

from edgecache import _testing_evict as testing


def play(kind: str, capacity: int, keys: str) -> tuple[testing.PolicySimulator, str]:
    """Access letters as objects of one byte; returns the simulator and the victims in order."""
    simulator = testing.PolicySimulator(kind, capacity, area_bytes=4096)
    victims = "".join(
        chr(victim) for key in keys for victim in simulator.trace_access(ord(key), 1)[1]
    )
    assert simulator.check() == 0
    return simulator, victims


def letters(simulator: testing.PolicySimulator) -> str:
    return "".join(map(chr, simulator.order()))


def test_lru_evicts_the_least_recently_used() -> None:
    simulator, victims = play("lru", 3, "abcade")
    assert victims == "bc"
    assert letters(simulator) == "ade"


def test_sieve_spares_visited_objects_in_place() -> None:
    # The example of the paper's figure 1 in small: a and c were visited, b goes, the hand is at c.
    simulator, victims = play("sieve", 3, "abcacd")
    assert victims == "b"
    assert letters(simulator) == "cda"


def test_sieve_hand_goes_on_where_it_stopped() -> None:
    _, victims = play("sieve", 3, "abcacdef")
    # c loses its bit and stays, d goes, and the hand has come round to a.
    assert victims == "bda"


def test_sieve_hand_survives_the_removal_of_its_object() -> None:
    simulator, _ = play("sieve", 4, "abcdae")
    assert letters(simulator)[0] == "c"
    assert simulator.delete(ord("c"))
    assert simulator.check() == 0
    assert letters(simulator) == "dea"
    assert chr(simulator.evict()) == "d"


def test_s3fifo_demotes_what_was_hit_less_than_twice() -> None:
    # One place in the small queue; b to j fill main while nothing was evicted yet.
    simulator, victims = play("s3fifo", 10, "abcdefghijak")
    assert victims == "a"
    assert letters(simulator) == "kbcdefghij"


def test_s3fifo_promotes_what_was_hit_twice() -> None:
    # a moves to main, whose share is then exceeded only after small is empty: b goes.
    simulator, victims = play("s3fifo", 10, "abcdefghijaak")
    assert victims == "b"
    assert letters(simulator) == "kcdefghija"


def test_s3fifo_ghost_hit_goes_straight_to_main() -> None:
    simulator, victims = play("s3fifo", 10, "abcdefghijka")
    assert victims == "ak"
    assert letters(simulator) == "bcdefghija"


def test_s3fifo_main_gives_a_hit_object_another_round() -> None:
    # a came back through the ghosts, so main is over its share: b has a hit and goes round, c goes.
    _, victims = play("s3fifo", 10, "abcdefghijkabl")
    assert victims == "akc"


def test_s3fifo_ghosts_are_forgotten_oldest_first() -> None:
    # Ghosts remember nine bytes: after ten more victims the first is unknown and enters small.
    simulator, _ = play("s3fifo", 10, "abcdefghij0123456789a")
    assert letters(simulator)[0] == "a"
    simulator, _ = play("s3fifo", 10, "abcdefghij01234567a")
    assert letters(simulator)[-1] == "a"


def test_deleted_objects_leave_no_ghost() -> None:
    simulator, _ = play("s3fifo", 10, "abcdefghijk")
    simulator.delete(ord("k"))
    simulator.access(ord("k"), 1)
    assert letters(simulator)[0] == "k"


def test_arc_keeps_objects_seen_twice_from_a_scan() -> None:
    simulator, victims = play("arc", 4, "ababcdefgh")
    assert victims == "cdef"
    assert letters(simulator) == "ghab"


def test_arc_ghost_hit_moves_the_target_by_the_size_of_the_object() -> None:
    simulator = testing.PolicySimulator("arc", 1000, area_bytes=4096)
    simulator.access(1, 300)
    simulator.access(1, 300)  # T2
    for key in (2, 3, 4):
        simulator.access(key, 300)  # T1; 2 leaves for B1
    assert 2 not in simulator
    _, victims = simulator.trace_access(2, 300)
    assert victims == [3]
    # p is 300 now, T1 holds 300: the next victim comes from T2, the oldest of it is 1.
    assert simulator.trace_access(5, 300)[1] == [1]


def test_arc_second_list_ghost_lowers_the_target_again() -> None:
    simulator = testing.PolicySimulator("arc", 1000, area_bytes=4096)
    for key in (1, 1, 2, 3, 4, 2, 5):
        simulator.access(key, 300)
    assert 1 not in simulator
    # 1 comes back through B2, which lowers p to 0: T1 gives from now on.
    simulator.access(1, 300)
    before = simulator.contents()
    assert 5 in before or 4 in before
    victims = simulator.trace_access(6, 300)[1]
    assert victims
    assert victims[0] in (4, 5)


def test_wtinylfu_refuses_a_newcomer_that_is_asked_for_less() -> None:
    simulator = testing.PolicySimulator("wtinylfu", 100, area_bytes=4096)
    for _ in range(3):
        for key in range(100):
            simulator.access(key, 1)
    for key in range(1000, 1040):
        simulator.access(key, 1)
    assert sum(key in simulator for key in range(100)) == 99


def test_wtinylfu_admits_a_newcomer_that_is_asked_for_more() -> None:
    simulator = testing.PolicySimulator("wtinylfu", 100, area_bytes=4096)
    for key in range(100):
        simulator.access(key, 1)
    for _ in range(4):
        # Others in between push 500 out of the window, so that it has to compete.
        simulator.access(500, 1)
        simulator.access(1000, 1)
    for key in range(2000, 2010):
        simulator.access(key, 1)
    assert 500 in simulator


def test_wtinylfu_forgets_old_popularity() -> None:
    """What was popular long ago must give way once the sketch has aged."""
    simulator = testing.PolicySimulator("wtinylfu", 50, area_bytes=2048)
    for _ in range(15):
        for key in range(50):
            simulator.access(key, 1)
    assert all(key in simulator for key in range(50))
    # At random: in a fixed cycle each newcomer would push out the one that is due next.
    rng = random.Random(6)
    for _ in range(10_000):
        simulator.access(rng.randrange(100, 150), 1)
    assert not any(key in simulator for key in range(50))
