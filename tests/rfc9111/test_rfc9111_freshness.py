"""Age and freshness: RFC 9111 4.2, 5.1, 5.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.freshness import age_value, expires_value
from edgecache.rfc9111.request import PLAIN
from edgecache.rfc9111.reuse import decide
from edgecache.rfc9111.rules import LETTER, Rules
from edgecache.rfc9111.stored import StoredPolicy
from edgecache.rfc9111.storing import assess
from edgecache.rfc9111.syntax import DELTA_SECONDS_MAX
from tests.rfc9111.exchanges import NOW_S, NOW_US, exchange, headers, store

TAG = '\nETag: "a"'


@pytest.mark.parametrize(
    ("response", "lifetime_s"),
    [
        ("Cache-Control: max-age=60", 60),
        ("Cache-Control: s-maxage=5, max-age=60", 5),
        ("Cache-Control: max-age=60, s-maxage=5", 5),
        ("Cache-Control: max-age=60\nExpires: {+5}", 60),
        ("Cache-Control: max-age=0\nExpires: {+60}", 0),
        ("Cache-Control: s-maxage=0\nExpires: {+60}", 0),
        ("Cache-Control: public\nExpires: {+60}", 60),
        ("Expires: {+60}", 60),
        ("Expires: {+0}", 0),
        ("Expires: {-60}", 0),
        ("Expires: 0", 0),
        ("Expires: -1", 0),
        ("Expires:", 0),
        ("Expires: {+60}\nExpires: {+60}", 60),
        ("Expires: {+60}\nExpires: {+90}", 60),
        ("Expires: {+90}\nExpires: {+60}", 0),
        ("Expires: {+90}\nExpires: 0", 0),
        ("Expires: 0\nExpires: {+90}", 0),
        ("Cache-Control: max-age=x\nExpires: {+60}", 0),
        ("Cache-Control: max-age=99999999999", DELTA_SECONDS_MAX),
        ("CDN-Cache-Control: max-age=5\nCache-Control: max-age=60", 5),
        ("CDN-Cache-Control: none\nCache-Control: max-age=60\nExpires: {+60}", 0),
        ("CDN-Cache-Control: none\nExpires: {+60}\nLast-Modified: {-1000}", 100),
        ('Cache-Control: x="a, max-age=60\nLast-Modified: {-1000}', 0),
        ('Cache-Control: x="a\nLast-Modified: {-1000}', 0),
    ],
)
def test_9111_4_2_1_lifetime(response: str, lifetime_s: int) -> None:
    assert store(response + TAG).policy.lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("date", "expires", "lifetime_s"),
    [
        ("Date: {-30}", "{+60}", 90),
        ("Date: {+30}", "{+60}", 30),
        ("Date: {+90}", "{+60}", 0),
        ("", "{+60}", 60),
        ("Date: x", "{+60}", 60),
    ],
)
def test_9111_4_2_1_expires_counts_from_date(date: str, expires: str, lifetime_s: int) -> None:
    assert store(f"Expires: {expires}{TAG}", date=date).policy.lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("response", "lifetime_s"),
    [
        ("Last-Modified: {-1000}", 100),
        ("Last-Modified: {-100000000}", 86400),
        ("Last-Modified: {+0}", 0),
        ("Last-Modified: {+1000}", 0),
        ("Last-Modified: x", 0),
        ("", 0),
        ("Last-Modified: {-1000}\nCache-Control: max-age=5", 5),
        ("Last-Modified: {-1000}\nCache-Control: max-age=x", 0),
        ("Last-Modified: {-1000}\nExpires: 0", 0),
    ],
)
def test_9111_4_2_2_heuristic(response: str, lifetime_s: int) -> None:
    assert store(response + TAG).policy.lifetime_s == lifetime_s


def test_9111_4_2_2_heuristic_is_configured() -> None:
    policy = store(
        "Last-Modified: {-1000}", Rules(heuristic_percent=50, heuristic_max_s=300)
    ).policy
    assert policy.lifetime_s == 300
    off = assess(exchange("Last-Modified: {-1000}"), Rules(heuristic_percent=0))
    assert off.stored is not None
    assert off.stored.policy.lifetime_s == 0


def test_a_lifetime_by_status_yields_to_what_the_response_states() -> None:
    rules = Rules(status_ttl_s={404: 7, 200: 9})
    assert store("Last-Modified: {-1000}", rules, status=404).policy.lifetime_s == 7
    assert store("Cache-Control: max-age=60", rules).policy.lifetime_s == 60
    assert store("Expires: 0" + TAG, rules).policy.lifetime_s == 0
    assert assess(exchange("Cache-Control: no-store"), rules).reason == "no-store"


@pytest.mark.parametrize(
    ("fields", "age_s"),
    [
        ("", 0),
        ("Age: 0", 0),
        ("Age: 60", 60),
        ("Age: 060", 60),
        ("Age: 60, 5", 60),
        ("Age: 60\nAge: 5", 60),
        ("Age: , 60", 0),
        ("Age: x, 60", 0),
        ("Age: -60", 0),
        ("Age: 60.5", 0),
        ("Age: 60;x=y", 0),
        ("Age: 60 s", 0),
        ("Age: abc", 0),
        ("Age: 2147483649", DELTA_SECONDS_MAX),
        ("Age: 99999999999999999999999", DELTA_SECONDS_MAX),
    ],
)
def test_9111_5_1_age(fields: str, age_s: int) -> None:
    assert age_value(headers(fields)) == age_s


@pytest.mark.parametrize(
    ("date", "age", "delay_us", "initial_us"),
    [
        ("Date: {+0}", "", 0, 0),
        ("Date: {-10}", "", 0, 10_000_000),  # apparent age
        ("Date: {+10}", "", 0, 0),  # a clock ahead of ours
        ("Date: {+0}", "Age: 7", 0, 7_000_000),
        ("Date: {+0}", "Age: 7", 1_500_000, 8_500_000),  # the delay counts
        ("Date: {-10}", "Age: 7", 1_500_000, 10_000_000),
        ("", "", 2_000_000, 2_000_000),
        ("", "Age: x", 0, 0),
    ],
)
def test_9111_4_2_3_initial_age(date: str, age: str, delay_us: int, initial_us: int) -> None:
    policy = store("Cache-Control: max-age=60\n" + age, date=date, delay_us=delay_us).policy
    assert policy.initial_age_us == initial_us


def test_9111_4_2_3_age_grows_with_the_time_of_residence() -> None:
    policy = store("Cache-Control: max-age=60\nAge: 10").policy
    decision = decide(policy, PLAIN, NOW_US + 20_999_999)
    assert (decision.age_s, decision.ttl_s) == (30, 29)


def test_the_part_of_a_second_that_date_cannot_hold_is_no_age() -> None:
    from dataclasses import replace

    late = replace(
        exchange("Cache-Control: max-age=1"),
        request_us=NOW_US + 900_000,
        response_us=NOW_US + 999_999,
    )
    stored = assess(late).stored
    assert stored is not None
    assert stored.policy.initial_age_us == 99_999


def test_9111_5_3_an_invalid_expires_is_in_the_past() -> None:
    assert expires_value(headers(""), NOW_S) is None
    past = expires_value(headers("Expires: 0"), NOW_S)
    assert past is not None
    assert past < 0


POLICIES = st.builds(
    StoredPolicy,
    status=st.just(200),
    flags=st.integers(0, 63),
    request_us=st.just(NOW_US),
    response_us=st.just(NOW_US),
    initial_age_us=st.integers(0, 2**52),
    date_s=st.just(NOW_S),
    lifetime_s=st.integers(0, DELTA_SECONDS_MAX),
)
LATER = st.integers(-(2**50), 2**52)


@given(POLICIES, LATER, LATER)
def test_age_never_falls_and_what_is_stale_stays_stale(
    policy: StoredPolicy, first: int, second: int
) -> None:
    earlier, later = sorted((NOW_US + first, NOW_US + second))
    before = decide(policy, PLAIN, earlier)
    after = decide(policy, PLAIN, later)
    assert 0 <= before.age_s <= after.age_s
    assert after.ttl_s <= before.ttl_s


@given(POLICIES, LATER)
def test_fresh_means_that_the_lifetime_exceeds_the_age(policy: StoredPolicy, later: int) -> None:
    """Section 4.2: response_is_fresh = (freshness_lifetime > current_age)."""
    now_us = NOW_US + max(0, later)
    age_us = policy.initial_age_us + now_us - policy.response_us
    assert (policy.lifetime_s * 1_000_000 > age_us) == (now_us < policy.fresh_until_us)


@given(POLICIES, LATER)
def test_a_soft_purge_makes_it_stale_at_once(policy: StoredPolicy, later: int) -> None:
    now_us = NOW_US + later
    assert policy.expired(now_us).fresh_until_us <= max(now_us, policy.response_us)


def test_heuristic_statuses_of_the_letter_include_the_provocable_ones() -> None:
    assert store("Last-Modified: {-1000}", LETTER, status=414).policy.lifetime_s == 100
