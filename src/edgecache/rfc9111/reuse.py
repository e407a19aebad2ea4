"""What to do with a stored response and a request (RFC 9111, sections 4, 4.2.4 and 5.2)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.request import PLAIN, RequestFacts
from edgecache.rfc9111.stored import FORBIDS_STALE, IMMUTABLE, NO_CACHE, PARTIAL, StoredPolicy


class Action(Enum):
    """What the door has to do.

    HIT: answer from the stored response, which is fresh or which the client takes stale.
    STALE: answer from the stored response and refresh it in the background (RFC 5861, section 3).
    VALIDATE: forward, conditionally if the stored response has a validator.
    MISS: forward; the stored response, if any, is of no use.
    BYPASS: forward as it is, neither lookup nor storing for reuse of this method.
    GATEWAY_TIMEOUT: answer 504, since the client wants no forwarding (section 5.2.1.7).
    """

    HIT = "hit"
    STALE = "stale"
    VALIDATE = "validate"
    MISS = "miss"
    BYPASS = "bypass"
    GATEWAY_TIMEOUT = "gateway-timeout"


# Reasons to forward: the tokens of RFC 9211, section 2.2.
FWD_BYPASS = b"bypass"
FWD_METHOD = b"method"
FWD_URI_MISS = b"uri-miss"
FWD_VARY_MISS = b"vary-miss"
FWD_REQUEST = b"request"
FWD_STALE = b"stale"
FWD_PARTIAL = b"partial"


class Reuse(NamedTuple):
    """A decision.

    `forward` is the reason for forwarding as RFC 9211 names it, b"" where nothing is forwarded.
    `age_s` is for the Age field of an answer from the stored response (section 5.1), `ttl_s` for
    Cache-Status, below 0 where it is stale.
    """

    action: Action
    forward: bytes = b""
    age_s: int = 0
    ttl_s: int = 0


_HIT = Action.HIT
_SLOW = NO_CACHE | PARTIAL
_ERRORS = frozenset((500, 502, 503, 504))


def decide(
    stored: StoredPolicy, facts: RequestFacts, now_us: int, is_covered: bool = True
) -> Reuse:
    """Decide about a stored response whose URI and selecting fields match the request.

    Args:
        stored: The policy of the response.
        facts: What the request asks, of `request_facts`.
        now_us: Microseconds since the epoch. A clock behind the time of storing counts as that
        time.
        is_covered: Whether a partial response holds all that the request asks for (section 3.3).

    *Cost*: under 1 us for a fresh response and a request that asks nothing in particular.
    """
    if now_us < stored.response_us:
        now_us = stored.response_us
    age_us = now_us - stored.response_us + stored.initial_age_us
    left_us = stored.lifetime_s * SECOND_US - age_us
    if left_us > 0 and facts is PLAIN and not stored.flags & _SLOW:
        return Reuse(_HIT, b"", age_us // SECOND_US, left_us // SECOND_US)
    return _decide(stored, facts, age_us, left_us, is_covered)


def _decide(
    stored: StoredPolicy, facts: RequestFacts, age_us: int, left_us: int, is_covered: bool
) -> Reuse:
    is_fresh = left_us > 0
    age_s = age_us // SECOND_US
    ttl_s = left_us // SECOND_US if is_fresh else min(-1, left_us // SECOND_US)
    if not facts.may_reuse:
        return Reuse(Action.BYPASS, FWD_REQUEST, age_s, ttl_s)
    asked = facts.directives
    if stored.flags & PARTIAL and not is_covered:
        action = Action.GATEWAY_TIMEOUT if asked.only_if_cached else Action.MISS
        return Reuse(action, FWD_PARTIAL, age_s, ttl_s)
    action = Action.VALIDATE
    if not stored.flags & NO_CACHE and _suits(stored, facts, age_us, left_us):
        action = Action.HIT if is_fresh else _stale_action(stored, facts, -left_us)
    if action is Action.VALIDATE:
        is_request = is_fresh and not stored.flags & NO_CACHE
        if asked.only_if_cached:
            action = Action.GATEWAY_TIMEOUT
        return Reuse(action, FWD_REQUEST if is_request else FWD_STALE, age_s, ttl_s)
    return Reuse(action, b"", age_s, ttl_s)


def _suits(stored: StoredPolicy, facts: RequestFacts, age_us: int, left_us: int) -> bool:
    """Say whether the request takes a response of this age (section 5.2.1)."""
    asked = facts.directives
    if asked.no_cache:
        return False
    if asked.min_fresh is not None and left_us < asked.min_fresh * SECOND_US:
        return False
    if asked.max_age is None or age_us <= asked.max_age * SECOND_US:
        return True
    # A reload sends max-age=0; of an immutable response that is fresh it is not meant (RFC 8246,
    # section 2). no-cache is, and is looked at before.
    return bool(stored.flags & IMMUTABLE) and left_us > 0


def _stale_action(stored: StoredPolicy, facts: RequestFacts, stale_us: int) -> Action:
    if stored.flags & FORBIDS_STALE:
        return Action.VALIDATE
    max_stale = facts.directives.max_stale
    if max_stale is not None and stale_us <= max_stale * SECOND_US:
        return Action.HIT
    is_background = stale_us < stored.stale_while_revalidate_s * SECOND_US
    return Action.STALE if is_background else Action.VALIDATE


def decide_without(facts: RequestFacts, method: bytes, has_variants: bool = False) -> Reuse:
    """Decide where no stored response matches.

    Args:
        facts: What the request asks.
        method: Its method.
        has_variants: Whether responses are stored for the URI whose selecting fields differ.
    """
    if method not in (b"GET", b"HEAD"):
        return Reuse(Action.BYPASS, FWD_METHOD)
    if not facts.may_reuse:
        return Reuse(Action.BYPASS, FWD_REQUEST)
    cause = FWD_VARY_MISS if has_variants else FWD_URI_MISS
    return Reuse(Action.GATEWAY_TIMEOUT if facts.directives.only_if_cached else Action.MISS, cause)


def may_serve_on_failure(
    stored: StoredPolicy,
    facts: RequestFacts,
    now_us: int,
    status: int | None,
    is_covered: bool = True,
) -> bool:
    """Say whether the stored response may answer although forwarding failed.

    Args:
        stored: The policy of the selected response.
        facts: What the request asks.
        now_us: Microseconds since the epoch.
        status: The error that the origin answered (RFC 5861, section 4: 500, 502, 503 or 504), or
            None if there was no answer: the cache is disconnected (section 4.2.4).
        is_covered: As for `decide`.

    A response that must be validated is never served; the door then answers 504 (section 5.2.2.2).
    """
    forbidden = NO_CACHE | FORBIDS_STALE | (0 if is_covered else PARTIAL)
    if not facts.may_reuse or facts.directives.no_cache or stored.flags & forbidden:
        return False
    if status is not None and status not in _ERRORS:
        return False
    stale_us = max(now_us, stored.response_us) - stored.fresh_until_us
    allowed_s = max(stored.stale_if_error_s, facts.directives.stale_if_error or 0)
    if status is None:
        if stale_us < 0:
            return True
        allowed_s = max(allowed_s, stored.stale_on_disconnect_s)
    return allowed_s > 0 and stale_us < allowed_s * SECOND_US
