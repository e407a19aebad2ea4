"""A whole shared cache in memory on top of the rules, for tests of sequences.

It carries out what the rules decide and decides nothing itself: a list of stored responses per key,
an origin that is a function, time as a number. Bodies are bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgecache.rfc9111.cache_status import outcome_word
from edgecache.rfc9111.dates import format_date
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import NO_HEADERS, Headers
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.invalidation import invalidated
from edgecache.rfc9111.key import cache_key, target_uri
from edgecache.rfc9111.partial import covers
from edgecache.rfc9111.preconditions import (
    evaluate,
    not_modified_fields,
    representation_of,
)
from edgecache.rfc9111.ranges import (
    ByteRange,
    RangeAnswer,
    answer_range,
    format_content_range,
    format_unsatisfied_range,
    parse_range,
)
from edgecache.rfc9111.request import RequestFacts, request_facts
from edgecache.rfc9111.reuse import (
    Action,
    Reuse,
    decide,
    decide_without,
    may_serve_on_failure,
)
from edgecache.rfc9111.rules import SAFE, Rules
from edgecache.rfc9111.stored import PARTIAL, StoredResponse, decode_stored, encode_stored
from edgecache.rfc9111.storing import assess
from edgecache.rfc9111.tags import cache_groups
from edgecache.rfc9111.validation import conditional, freshen, head_matches, identified
from edgecache.rfc9111.vary import is_selected, most_recent
from tests.rfc9111.exchanges import NOW_S, headers

SECOND_US = 1_000_000


@dataclass
class Answer:
    """What the client gets; `word` is for x-cache-status."""

    status: int
    headers: Headers
    body: bytes
    word: str = ""


Origin = Callable[[bytes, bytes, Headers], Answer]


@dataclass
class Entry:
    encoded: bytes
    body: bytes
    tags: tuple[str, ...]

    @property
    def stored(self) -> StoredResponse:
        found = decode_stored(self.encoded)
        assert found is not None
        return found


@dataclass
class TinyCache:
    """`origin` is called with method, target and header section; ConnectionError: unreachable."""

    origin: Origin
    rules: Rules = SAFE
    now_us: int = NOW_S * SECOND_US
    entries: dict[bytes, list[Entry]] = field(default_factory=dict)
    background: list[tuple[bytes, bytes, Headers]] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)

    @property
    def date(self) -> str:
        return format_date(self.now_us // SECOND_US).decode()

    def get(self, target: bytes = b"/", request: str = "", method: bytes = b"GET") -> Answer:
        """Handle a request."""
        fields = headers(request)
        uri = target_uri(b"http", b"example.org", target)
        assert uri is not None
        facts = request_facts(method, fields, self.rules)
        key = cache_key(method, uri)
        known = self.entries.get(key, []) if key else []
        fitting = [e for e in known if is_selected(e.stored.selecting, fields, self.rules)]
        best = most_recent(entry.stored.policy for entry in fitting)
        entry = fitting[best] if best >= 0 else None
        if entry is None:
            reuse = decide_without(facts, method, bool(known))
        else:
            is_covered = self._is_covered(entry, fields)
            reuse = decide(entry.stored.policy, facts, self.now_us, is_covered)
        if reuse.action is Action.GATEWAY_TIMEOUT:
            return Answer(504, NO_HEADERS, b"", outcome_word(reuse))
        if entry is not None and reuse.action in (Action.HIT, Action.STALE):
            if reuse.action is Action.STALE:
                self.background.append((method, target, fields))
            return self._serve(entry, method, fields, reuse, outcome_word(reuse))
        candidates = [entry] if entry and reuse.action is Action.VALIDATE else []
        candidates += [e for e in known if e is not entry] if candidates else []
        return self._forward(method, target, uri, fields, facts, reuse, candidates)

    def refresh(self) -> None:
        """Do what STALE asked for in the background."""
        waiting, self.background = self.background, []
        for method, target, fields in waiting:
            uri = target_uri(b"http", b"example.org", target) or b""
            reuse = Reuse(Action.VALIDATE, b"stale")
            facts = request_facts(method, fields)
            self._forward(method, target, uri, fields, facts, reuse, self.entries[uri][:1])

    def _is_covered(self, entry: Entry, fields: Headers) -> bool:
        policy = entry.stored.policy
        if not policy.flags & PARTIAL:
            return True
        if policy.complete_bytes < 0:
            return False
        answer = answer_range(parse_range(fields.get(b"range") or b""), policy.complete_bytes)
        return answer.status == 206 and covers(policy, answer.ranges)

    def _serve(
        self, entry: Entry, method: bytes, fields: Headers, reuse: Reuse, word: str
    ) -> Answer:
        stored = entry.stored
        policy = stored.policy
        section = stored.headers.replacing(b"age", b"%d" % reuse.age_s)
        now_s = self.now_us // SECOND_US
        verdict = evaluate(method, fields, representation_of(policy), now_s)
        if verdict.status == 304:
            return Answer(304, not_modified_fields(section), b"", word)
        offset = policy.range_first if policy.flags & PARTIAL else 0
        size = policy.complete_bytes if policy.flags & PARTIAL else len(entry.body)
        found = RangeAnswer(200)
        if verdict.uses_range:
            found = answer_range(parse_range(fields.get(b"range") or b""), size)
        if found.status == 416:
            return Answer(416, headers(f"Content-Range: {format_unsatisfied_range(size)!r}"), b"")
        body = entry.body
        if found.status == 206:
            part: ByteRange = found.ranges[0]
            section = section.replacing(b"content-range", format_content_range(part, size))
            body = entry.body[part.first - offset : part.last + 1 - offset]
        is_head = method == b"HEAD"
        status = 206 if found.status == 206 else policy.status
        return Answer(status, section, b"" if is_head else body, word)

    def _forward(
        self,
        method: bytes,
        target: bytes,
        uri: bytes,
        fields: Headers,
        facts: RequestFacts,
        reuse: Reuse,
        candidates: list[Entry],
    ) -> Answer:
        asked = end_to_end(fields)
        if candidates:
            asked = conditional(asked, [entry.stored for entry in candidates])
        selected = candidates[0] if candidates else None
        request_us = self.now_us
        try:
            answer = self.origin(method, target, asked)
        except ConnectionError:
            return self._failed(selected, method, fields, facts, reuse, None) or Answer(
                504, NO_HEADERS, b"", "gateway-timeout"
            )
        failed = self._failed(selected, method, fields, facts, reuse, answer.status)
        if failed is not None:
            return failed
        exchange = Exchange(
            method=method,
            target_uri=uri,
            request=asked,
            status=answer.status,
            response=answer.headers,
            request_us=request_us,
            response_us=self.now_us,
        )
        self._invalidate(exchange)
        if answer.status == 304 and candidates:
            return self._freshened(candidates, exchange, method, fields, reuse)
        if method == b"HEAD" and answer.status == 200:
            self._head(exchange)
        answer.word = outcome_word(reuse, forward_status=answer.status)
        verdict = assess(exchange, self.rules)
        if verdict.stored is not None:
            self._keep(uri, verdict.stored, answer.body)
        return answer

    def _failed(
        self,
        entry: Entry | None,
        method: bytes,
        fields: Headers,
        facts: RequestFacts,
        reuse: Reuse,
        status: int | None,
    ) -> Answer | None:
        if entry is None or (status is not None and status < 500):
            return None
        policy = entry.stored.policy
        if not may_serve_on_failure(policy, facts, self.now_us, status):
            return None
        word = outcome_word(reuse, forward_status=status, is_served_stored=True)
        return self._serve(entry, method, fields, reuse, word)

    def _freshened(
        self,
        candidates: list[Entry],
        exchange: Exchange,
        method: bytes,
        fields: Headers,
        reuse: Reuse,
    ) -> Answer:
        policies = [entry.stored.policy for entry in candidates]
        now_s = self.now_us // SECOND_US
        chosen = identified(policies, exchange.response, now_s)
        assert chosen, "the origins of these tests answer 304 only to what was offered"
        for index in chosen:
            found = freshen(candidates[index].stored, exchange, self.rules)
            if found.stored is not None:
                candidates[index].encoded = encode_stored(found.stored)
            elif found.drops:
                self.entries[exchange.target_uri].remove(candidates[index])
        word = outcome_word(reuse, forward_status=304)
        return self._serve(candidates[chosen[0]], method, fields, Reuse(Action.HIT), word)

    def _head(self, exchange: Exchange) -> None:
        for entry in self.entries.get(exchange.target_uri, []):
            stored = entry.stored
            if not is_selected(stored.selecting, exchange.request, self.rules):
                continue
            now_s = self.now_us // SECOND_US
            if head_matches(stored, exchange.response, len(entry.body), now_s):
                renewed = freshen(stored, exchange, self.rules).stored
            else:
                renewed = stored._replace(policy=stored.policy.expired(self.now_us))
            if renewed is not None:
                entry.encoded = encode_stored(renewed)

    def _keep(self, uri: bytes, stored: StoredResponse, body: bytes) -> None:
        tags = cache_groups(stored.headers, b"http://example.org:80")
        others = [e for e in self.entries.get(uri, []) if e.stored.selecting != stored.selecting]
        self.entries[uri] = [*others, Entry(encode_stored(stored), body, tags)]

    def _invalidate(self, exchange: Exchange) -> None:
        gone = invalidated(exchange)
        for uri in gone.uris:
            self.entries.pop(uri, None)
        for uri, entries in self.entries.items():
            self.entries[uri] = [e for e in entries if not set(e.tags) & set(gone.tags)]
