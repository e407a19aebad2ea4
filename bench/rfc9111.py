"""What a decision of the caching rules costs: `python -m bench.rfc9111 [--json FILE]`.

Single calls of `edgecache.rfc9111` in this process, no I/O:

    facts-plain      reading a request that asks nothing in particular (12 fields, index built anew)
    facts-full       reading one with Cache-Control, Range and If-None-Match
    decide-hit       deciding about a fresh response and a plain request
    hit              facts-plain and decide-hit: all that a typical hit needs besides the lookup
    hit-vary         the same with three selecting fields
    decide-directed  deciding under Cache-Control: max-age, max-stale
    decode           reading the stored form of a 12-field response
    encode           writing it
    assess           whether a 12-field response may be stored, and its stored form
    freshen          updating it from a 304
    parse-cc-cold    parsing a Cache-Control that is not remembered
    status           the Cache-Status member of a hit

Every figure is the median of rounds, in microseconds per call; the spread is least to greatest.
Each round runs all cases once, so that a drift of the machine falls on all.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from edgecache.rfc9111.cache_control import parse_directives
from edgecache.rfc9111.cache_status import member
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.request import request_facts
from edgecache.rfc9111.reuse import decide
from edgecache.rfc9111.stored import StoredResponse, decode_stored, encode_stored
from edgecache.rfc9111.storing import assess
from edgecache.rfc9111.validation import freshen
from edgecache.rfc9111.vary import is_selected

NOW_US = 1_700_000_000_000_000
CALLS = 20_000
ROUNDS = 9
TARGET_HIT_US = 3.0
"""What a typical hit may cost."""

PLAIN = (
    (b"host", b"example.org"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"referer", b"https://example.org/articles"),
    (b"cookie", b"session=0123456789abcdef; theme=dark"),
    (b"dnt", b"1"),
    (b"sec-fetch-dest", b"image"),
    (b"sec-fetch-mode", b"no-cors"),
    (b"sec-fetch-site", b"same-origin"),
    (b"priority", b"u=5"),
)
FULL = (
    *PLAIN,
    (b"cache-control", b"max-age=30, max-stale=60"),
    (b"range", b"bytes=0-1023"),
    (b"if-none-match", b'"abc", "def"'),
)
RESPONSE = Headers(
    (
        (b"Date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Content-Length", b"1024"),
        (b"Cache-Control", b"public, max-age=3600, stale-while-revalidate=60"),
        (b"ETag", b'"5f3c-18b0d6"'),
        (b"Last-Modified", b"Mon, 13 Nov 2023 08:00:00 GMT"),
        (b"Vary", b"Accept-Encoding, Accept-Language, Accept"),
        (b"Server", b"origin/1.0"),
        (b"X-Request-Id", b"0123456789abcdef0123456789abcdef"),
        (b"Strict-Transport-Security", b"max-age=63072000"),
        (b"Link", b"</style.css>; rel=preload; as=style"),
        (b"Connection", b"keep-alive"),
    )
)


def cases() -> dict[str, Callable[[], object]]:
    """Return the cases by name; each is one call."""
    exchange = Exchange(
        method=b"GET",
        target_uri=b"http://example.org:80/articles",
        request=Headers.of_lower(PLAIN),
        status=200,
        response=RESPONSE,
        request_us=NOW_US - 20_000,
        response_us=NOW_US,
    )
    found = assess(exchange).stored
    if found is None:
        raise RuntimeError("the response of the bench is not storable")
    stored: StoredResponse = found
    policy, encoded = stored.policy, encode_stored(stored)
    plain = request_facts(b"GET", Headers.of_lower(PLAIN))
    full = request_facts(b"GET", Headers.of_lower(FULL))
    renewal = Exchange(
        method=b"GET",
        target_uri=exchange.target_uri,
        request=exchange.request,
        status=304,
        response=Headers((*RESPONSE.pairs[:1], *RESPONSE.pairs[3:6])),
        request_us=NOW_US,
        response_us=NOW_US + 20_000,
    )
    later_us = NOW_US + 60_000_000
    hit = decide(policy, plain, later_us)

    def whole_hit() -> object:
        return decide(policy, request_facts(b"GET", Headers.of_lower(PLAIN)), later_us)

    def whole_hit_vary() -> object:
        request = Headers.of_lower(PLAIN)
        facts = request_facts(b"GET", request)
        return is_selected(stored.selecting, request) and decide(policy, facts, later_us)

    directives = b"public, max-age=3600, stale-while-revalidate=60"
    return {
        "facts-plain": lambda: request_facts(b"GET", Headers.of_lower(PLAIN)),
        "facts-full": lambda: request_facts(b"GET", Headers.of_lower(FULL)),
        "decide-hit": lambda: decide(policy, plain, later_us),
        "hit": whole_hit,
        "hit-vary": whole_hit_vary,
        "decide-directed": lambda: decide(policy, full, later_us),
        "decode": lambda: decode_stored(encoded),
        "encode": lambda: encode_stored(stored),
        "assess": lambda: assess(exchange),
        "freshen": lambda: freshen(stored, renewal),
        "parse-cc-cold": lambda: parse_directives(directives),
        "status": lambda: member(hit),
    }


def measure(call: Callable[[], object], calls: int) -> float:
    """Return microseconds of CPU per call."""
    before = time.process_time()
    for _ in range(calls):
        call()
    return 1e6 * (time.process_time() - before) / calls


def run(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Measure all cases in alternation and return their figures."""
    samples: dict[str, list[float]] = {}
    known = cases()
    for call in known.values():
        measure(call, calls // 10)
    gc.disable()
    for _ in range(rounds):
        for name, call in known.items():
            samples.setdefault(name, []).append(measure(call, calls))
    gc.enable()
    return {
        name: {"median_us": statistics.median(found), "low_us": min(found), "high_us": max(found)}
        for name, found in samples.items()
    }


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = run(options.rounds, options.calls)
    for name, figure in figures.items():
        spread = f"{figure['low_us']:.2f} to {figure['high_us']:.2f}"
        print(f"{name:<16} {figure['median_us']:>7.2f} us   {spread}")
    ratio = figures["hit"]["median_us"] / TARGET_HIT_US
    print(f"a typical hit takes {ratio:.2f} of the {TARGET_HIT_US} us that it may")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
