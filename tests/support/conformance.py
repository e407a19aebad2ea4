"""Cases of HTTP caching as tables: what is asked, what the origin would say, what must come of it.

    "max-age": (
        asked(ok("max-age=60")),
        hit(after_s=59),
        asked(after_s=2),
    )

A case is a sequence of turns over one proxy. Every turn sends one request; the origin answers with
the turn's answer if it is asked at all. `asked` wants it asked, without the validators of a stored
response; `validated` wants it asked with them; `hit` wants the client answered without the origin,
with the body that came last for that target. Fields are lists of pairs or `{name: value}`, so
repetition and order can be said. Time passes by moving the times of what is stored (`after_s`).

Black box but for that: the proxy is talked to over loopback, by bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from typing import Any

from support.origin import Received, looped
from support.origin_world import Answer, World

FieldsLike = Mapping[str, str | None] | Iterable[tuple[str, str]]
Steps = Any

ASKED, HIT, VALIDATED, ANY = "asked", "hit", "validated", "any"
_VALIDATORS = ("if-none-match", "if-modified-since")
_DATE = re.compile("@date([^@]*)@")
_numbers = itertools.count(1)


def date(seconds_from_now: float = 0) -> str:
    """Return a mark for the HTTP-date so many seconds after the moment when it is sent."""
    return f"@date{seconds_from_now:+}@"


def dated(value: str) -> str:
    """Put dates in the place of their marks."""
    return _DATE.sub(
        lambda found: formatdate(time.time() + float(found.group(1)), usegmt=True), value
    )


def pairs_of(fields: FieldsLike) -> list[tuple[str, str]]:
    """Return fields as pairs."""
    listed = fields.items() if isinstance(fields, Mapping) else fields
    return [(name, value) for name, value in listed if value is not None]


@dataclasses.dataclass(frozen=True)
class Says:
    """What the origin says: `fields` in order; a body that no other answer has, if None."""

    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    framing: str = "length"
    length: int | None = None
    interim: bytes = b""

    def script(self) -> tuple[bytes, list[Any]]:
        """Return the body, and the steps for the origin."""
        from support.origin import CLOSE

        body = b"answer %d" % next(_numbers) if self.body is None else self.body
        is_bare = self.status in (204, 304)
        body = b"" if is_bare else body
        lines = [b"HTTP/1.1 %d Said" % self.status]
        lines += [f"{name}: {dated(value)}".encode("latin-1") for name, value in self.fields]
        steps: list[Any] = []
        sent = body
        if self.framing == "chunked":
            lines.append(b"Transfer-Encoding: chunked")
            sent = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif self.framing == "length" and not is_bare:
            size = len(body) if self.length is None else self.length
            lines.append(b"Content-Length: %d" % size)
        steps.append(self.interim + b"\r\n".join(lines) + b"\r\n\r\n" + sent)
        if self.framing == "close" or (self.length or 0) > len(body):
            steps.append(CLOSE)
        return body, steps


def says(status: int = 200, fields: FieldsLike = (), **details: Any) -> Says:
    """Return an answer of the origin."""
    return Says(status, tuple(pairs_of(fields)), **details)


def ok(cache_control: str | None = None, fields: FieldsLike = (), **details: Any) -> Says:
    """Return a 200 with Cache-Control and other fields."""
    own = [] if cache_control is None else [("Cache-Control", cache_control)]
    return says(200, own + pairs_of(fields), **details)


def unchanged(fields: FieldsLike = (), **details: Any) -> Says:
    """Return a 304."""
    return says(304, fields, **details)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One request and what must come of it.

    Args:
        want: Whether the origin is asked.
        answer: What it says if it is; a list of steps; None: a 200 that is not to be stored.
        request: Fields of the request.
        target: Path and query.
        method: Of the request.
        host: Its Host field.
        content: Its content.
        after_s: How much time passes before.
        status: Of the answer; None: the origin's, or 200 for a hit.
        body: Of the answer, where not the expected one of the origin.
        has: Fields of the answer with their values; None: absent; a callable judges the value.
        saw: The same of the request at the origin.
        then: Called with the world after the turn.
    """

    want: str
    answer: Says | list[Any] | None = None
    request: FieldsLike = ()
    _: dataclasses.KW_ONLY
    target: str = "/x"
    method: str = "GET"
    host: str = "example.org"
    content: bytes = b""
    after_s: float = 0
    status: int | None = None
    body: bytes | None = None
    has: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saw: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def asked(answer: Any = None, request: FieldsLike = (), **details: Any) -> Turn:
    """The origin is asked, for a whole new answer."""
    return Turn(ASKED, answer, request, **details)


def hit(request: FieldsLike = (), **details: Any) -> Turn:
    """The cache answers."""
    return Turn(HIT, None, request, **details)


def validated(answer: Any = None, request: FieldsLike = (), **details: Any) -> Turn:
    """The origin is asked with the validators of what is stored."""
    return Turn(VALIDATED, answer, request, **details)


def either(answer: Any = None, request: FieldsLike = (), **details: Any) -> Turn:
    """The origin is asked or not; what comes must fit."""
    return Turn(ANY, answer, request, **details)


Case = tuple[Turn, ...]


class Play:
    """One case being played."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.script: list[Any] = []
        self.turn: Turn | None = None
        world.origin.answer_all(self._answer)

    def _answer(self, _: Received) -> list[Any]:
        return self.script

    async def one(self, turn: Turn, label: str) -> Answer:
        """Send a request and judge the answer."""
        world = self.world
        self.turn = turn
        said = turn.answer or Says(fields=(("Cache-Control", "no-store"),))
        body, self.script = said.script() if isinstance(said, Says) else (b"", said)
        if turn.after_s:
            await world.age(turn.target, turn.after_s, f"{turn.host}:80")
        before = world.origin.count()
        client = await world.client()
        lines = [f"{turn.method} {turn.target} HTTP/1.1", f"Host: {turn.host}"]
        lines += [f"{name}: {dated(value)}" for name, value in pairs_of(turn.request)]
        if turn.content:
            lines.append(f"Content-Length: {len(turn.content)}")
        await client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + turn.content)
        answer = await client.answer(turn.method == "HEAD")
        client.close()
        await world.settled()
        self._judge(turn, said, body, answer, world.origin.requests[before:], label)
        return answer

    def _judge(
        self,
        turn: Turn,
        said: Any,
        body: bytes,
        answer: Answer,
        received: list[Received],
        label: str,
    ) -> None:
        place = (turn.host, turn.target)
        told = f"{label}: {answer.status} {answer.fields} {answer.body!r}; origin: {received}"
        last = received[-1] if received else None
        if turn.want == HIT:
            assert last is None, told
        elif turn.want != ANY:
            assert last is not None, told
            has_validator = any(last.get(name) is not None for name in _VALIDATORS)
            assert has_validator == (turn.want == VALIDATED), told
        is_new = last is not None and isinstance(said, Says) and said.status != 304
        if is_new and turn.method == "GET":
            self.bodies[place] = body
        expected = turn.status
        if expected is None:
            expected = said.status if is_new and isinstance(said, Says) else 200
        assert answer.status == expected, told
        wanted = turn.body
        if wanted is None and turn.method == "GET" and expected == (said.status if is_new else 200):
            wanted = self.bodies.get(place)
        if wanted is not None:
            assert answer.body == wanted, told
        _check(turn.has, answer.get, told)
        if turn.saw:
            assert last is not None, told
            seen = last
            _check(turn.saw, lambda name: _text(seen.get(name)), told)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _check(wanted: Mapping[str, Any], get: Callable[[str], str | None], told: str) -> None:
    for name, value in wanted.items():
        found = get(name)
        is_right = value(found) if callable(value) else found == value
        assert is_right, f"{name} is {found!r}, not {value!r}: {told}"


PROFILES = ("safe", "rfc")


def play(case: Case, *profiles: str, **options: Any) -> None:
    """Play a case over a proxy of its own, for each profile; both without any."""

    @looped
    async def run(profile: str) -> None:
        async with World(profile, store={"memory": "16MiB"}, **options) as world:
            played = Play(world)
            for number, turn in enumerate(case, 1):
                async with asyncio.timeout(20):
                    await played.one(turn, f"{profile}, turn {number}")

    for profile in profiles or PROFILES:
        run(profile)


def between(low: int, high: int) -> Callable[[str | None], bool]:
    """Return a judge of a number."""
    return lambda value: value is not None and value.isdigit() and low <= int(value) <= high


def holding(text: str) -> Callable[[str | None], bool]:
    """Return a judge: the value is there and holds a text."""
    return lambda value: value is not None and text in value
