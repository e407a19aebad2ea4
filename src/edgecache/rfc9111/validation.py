"""Asking whether a stored response is still good, and what the answer changes (RFC 9111, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from edgecache.rfc9111.etags import is_strong_match, is_weak_match, parse_entity_tag
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import last_modified_value
from edgecache.rfc9111.hop import PROXY_FIELDS, hop_by_hop_names
from edgecache.rfc9111.ranges import ContentRange
from edgecache.rfc9111.rules import SAFE, SET_COOKIE_RFC, Rules
from edgecache.rfc9111.stored import PARTIAL, StoredPolicy, StoredResponse
from edgecache.rfc9111.storing import assess, with_date
from edgecache.rfc9111.targeted import applicable_directives
from edgecache.rfc9111.vary import Selecting, is_selected, most_recent, selecting

TAGS_SENT_MAX = 16
"""Entity tags of stored variants that one request offers."""

CONDITIONS = frozenset((b"if-none-match", b"if-modified-since", b"if-range", b"range"))

# What describes the stored bytes stays as it came with them (section 3.2): they are kept as they
# were sent, so a new length, coding or digest would be wrong of them.
_OF_THE_BODY = frozenset(
    (
        *(b"content-length", b"content-encoding", b"content-range", b"content-digest"),
        *(b"transfer-encoding", b"trailer"),
    )
)


def unconditional(request: Headers) -> Headers:
    """Return the request without the client's conditions and ranges, to fetch a whole response."""
    return request.without(CONDITIONS)


def conditional(request: Headers, candidates: Sequence[StoredResponse]) -> Headers:
    """Return the request to validate stored responses with (section 4.3.1).

    The client's own conditions are taken out and are to be evaluated against the outcome.

    Args:
        request: End-to-end header section of the request to forward.
        candidates: Stored responses for its URI, the selected one first. Of the others only entity
            tags are offered, and none of partial responses.

    Returns:
        A request without conditions where there is no validator.
    """
    bare = unconditional(request)
    tags: dict[bytes, None] = {}
    for number, stored in enumerate(candidates):
        tag = stored.policy.entity_tag
        if tag is not None and (number == 0 or not stored.policy.flags & PARTIAL):
            tags[tag.encode()] = None
    pairs = list(bare.pairs)
    if tags:
        pairs.append((b"if-none-match", b", ".join(list(tags)[:TAGS_SENT_MAX])))
    if candidates and candidates[0].policy.last_modified_s is not None:
        modified = candidates[0].headers.get(b"last-modified")
        if modified is not None:
            pairs.append((b"if-modified-since", modified))
    return Headers.of_lower(pairs)


def identified(policies: Sequence[StoredPolicy], response: Headers, now_s: int) -> tuple[int, ...]:
    """Return which stored responses a 304 speaks of, as indices (section 4.3.4).

    Args:
        policies: Those whose validators the request offered.
        response: Header section of the 304.
        now_s: Seconds since the epoch.

    A strong tag identifies all that have it; a weak tag or a date the most recent that has it. A
    304 without a validator identifies the response if only one was offered. That goes further than
    the RFC, which wants that one to lack a validator too; but a 304 need not repeat Last-Modified
    (RFC 9110, section 15.4.5), and where one was offered it can speak of no other.
    """
    value = response.get(b"etag")
    tag = None if value is None else parse_entity_tag(value)
    if tag is not None and tag.is_strong:
        return tuple(
            index
            for index, policy in enumerate(policies)
            if (own := policy.entity_tag) is not None and is_strong_match(own, tag)
        )
    modified_s = last_modified_value(response, now_s)
    if tag is None and modified_s is None:
        return (0,) if len(policies) == 1 else ()
    matching = [
        index
        for index, policy in enumerate(policies)
        if (tag is None or ((own := policy.entity_tag) is not None and is_weak_match(own, tag)))
        and (modified_s is None or policy.last_modified_s in (None, modified_s))
        and (tag is not None or policy.last_modified_s == modified_s)
    ]
    if not matching:
        return ()
    return (matching[most_recent(policies[index] for index in matching)],)


def merged(stored: Headers, update: Headers, keeps: frozenset[bytes] = frozenset()) -> Headers:
    """Return stored fields with those of a newer response in their place (section 3.2).

    Not taken over: what is never stored, what describes the stored bytes, an ETag where there is
    one (the two were found to match), and `keeps`.
    """
    excepted = hop_by_hop_names(update) | PROXY_FIELDS | _OF_THE_BODY | keeps
    if b"etag" in stored:
        excepted |= {b"etag"}
    taken = update.without(excepted)
    kept = stored.without(frozenset(taken.first))
    return Headers.of_lower(kept.pairs + taken.pairs)


class Freshened(NamedTuple):
    """A stored response after validation.

    Args:
        headers: Header section to answer the present request with.
        stored: What to store from now on; None if `reason` forbids it.
        reason: As of `assess`.
        drops: Whether the entry must go: the origin forbids storing. If False and `stored` is None,
            only this request was not allowed to change the entry, which stays as it is.
    """

    headers: Headers
    stored: StoredResponse | None
    reason: str
    drops: bool


OF_THE_REQUEST = frozenset(
    ("authorization", "cookie", "request-no-store", "request-content"),
)
"""Reasons of `assess` that are the request's; another one may be stored."""


def freshen(stored: StoredResponse, exchange: Exchange, rules: Rules = SAFE) -> Freshened:
    """Update a stored response from a 304, a HEAD response or a newer part (section 3.2).

    Args:
        stored: A response that `identified` or `head_matches` named, or that `partial.may_combine`
            allowed.
        exchange: The validating request and its response.
        rules: The operator's choices.

    Age and freshness start anew from this exchange; an Age that the 304 does not repeat is gone. A
    Set-Cookie that may not be shared (`Rules.set_cookie`) is not taken over.
    """
    update = with_date(exchange.response, exchange.response_s)
    keeps = frozenset((b"set-cookie",)) if _hides_cookies(stored, update, rules) else frozenset()
    fields = merged(stored.headers.without((b"age",)), update, keeps)
    policy = stored.policy
    known_range = None
    if policy.flags & PARTIAL:
        complete = None if policy.complete_bytes < 0 else policy.complete_bytes
        known_range = ContentRange(policy.range_first, policy.range_last, complete)
    renewed = replace(
        exchange, method=b"GET", status=policy.status, response=fields, is_complete=True
    )
    verdict = assess(renewed, rules, known_range)
    kept, reason = verdict.stored, verdict.reason
    if kept is not None:
        values = _selecting_after(stored, kept, exchange.request, rules)
        kept = None if values is None else kept._replace(selecting=values)
        reason = "" if kept is not None else "vary"
    drops = kept is None and reason not in OF_THE_REQUEST
    return Freshened(fields.without((b"age",)), kept, reason, drops)


def _selecting_after(
    stored: StoredResponse, renewed: StoredResponse, request: Headers, rules: Rules
) -> Selecting | None:
    """Return the selecting values of a response that was updated.

    They are those of the request that got it, not of the one that validated it: a 304 may speak of
    several variants. For a field that Vary names only now, the validating request gives the value
    if it belongs to this variant; else it is not known, and the response cannot be selected.
    """
    own = dict(stored.selecting)
    if all(name in own for name, _ in renewed.selecting):
        return tuple((name, own[name]) for name, _ in renewed.selecting)
    return renewed.selecting if is_selected(stored.selecting, request, rules) else None


def for_request(stored: StoredResponse, request: Headers, rules: Rules = SAFE) -> StoredResponse:
    """Return a stored response as the variant of another request.

    For a 304 that names a stored variant which this request had not selected (section 4.3.4): what
    it names answers this request too, and may be stored for it.
    """
    names = [name for name, _ in stored.selecting]
    return stored._replace(selecting=selecting(names, request, rules))


def _hides_cookies(stored: StoredResponse, update: Headers, rules: Rules) -> bool:
    if rules.set_cookie == SET_COOKIE_RFC or b"set-cookie" not in update:
        return False
    joined = merged(stored.headers, update)
    directives, is_targeted = applicable_directives(joined, rules.target_list)
    return not (directives.public or directives.s_maxage is not None or is_targeted)


def head_matches(stored: StoredResponse, response: Headers, size: int | None, now_s: int) -> bool:
    """Say whether a 200 to HEAD speaks of the stored response (section 4.3.5).

    Args:
        stored: A response that could have been selected for the HEAD request.
        response: Header section of the HEAD response.
        size: Length of the stored representation; None if not known.
        now_s: Seconds since the epoch.

    Returns:
        True: `freshen` it. False: it counts as stale from now on (`StoredPolicy.expired`).
    """
    etag = response.get(b"etag")
    if etag is not None and etag != stored.policy.etag:
        return False
    modified_s = last_modified_value(response, now_s)
    if modified_s is not None and modified_s != stored.policy.last_modified_s:
        return False
    length = response.get(b"content-length")
    return length is None or (size is not None and length == b"%d" % size)
