"""Requests for ranges, and requests that a partial response may answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from edgecache.http.response import Response
from edgecache.proxy.asking import Asked
from edgecache.proxy.content import AnswerContent, Content, Data
from edgecache.proxy.exchange import OriginAnswer
from edgecache.proxy.fetching import Fetcher
from edgecache.proxy.partials import Ask, Partial, Partials, Plan, answer_pieces, first_range
from edgecache.proxy.rendering import Note, Renderer
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.partial import completing
from edgecache.rfc9111.reuse import Action, Reuse, decide_without
from edgecache.rfc9111.storing import with_date
from edgecache.rfc9111.validation import CONDITIONS

if TYPE_CHECKING:
    from edgecache.proxy.service import Service


class PlanContent:
    """Content that is put together of parts."""

    __slots__ = ("_pieces", "size", "takes_several")

    def __init__(self, pieces: AsyncIterator[bytes], size: int | None) -> None:
        self._pieces = pieces
        self.size = size
        self.takes_several = False

    def whole(self) -> Data:
        return self._pieces

    def part(self, first: int, last: int) -> Data:
        return self._pieces

    def close(self) -> None:
        pass


class PartService:
    """Answers requests with, and for, parts of responses.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_fetcher", "_partials", "_renderer")

    def __init__(self, fetcher: Fetcher, partials: Partials, renderer: Renderer) -> None:
        self._fetcher = fetcher
        self._partials = partials
        self._renderer = renderer

    async def answer(self, service: Service, asked: Asked, has_variants: bool) -> Response | None:
        """Answer a request for which nothing complete is stored; None: fetch all of it.

        Raises:
            OriginError: There is no answer.
        """
        if not asked.rules.stores_partial or not asked.facts.may_reuse:
            return None
        partial = None if has_variants else await self._partials.find(asked.uri)
        ask = self._asker(asked)
        if partial is not None:
            plan = self._partials.plan(partial, asked)
            if plan is not None:
                response = await self._by_plan(service, asked, plan, ask)
                if response is not None:
                    return response
        if first_range(asked) is None or not asked.is_get or has_variants:
            return None
        if asked.facts.directives.only_if_cached:
            return None
        return await self._range_miss(service, asked, ask)

    def _asker(self, asked: Asked) -> Ask:
        async def ask(headers: Headers) -> tuple[OriginAnswer, Exchange]:
            return await self._fetcher.ask(asked, headers)

        return ask

    async def _by_plan(
        self, service: Service, asked: Asked, plan: Plan, ask: Ask
    ) -> Response | None:
        partial = plan.partial
        if plan.reuse.action is Action.GATEWAY_TIMEOUT:
            return None
        if not plan.gaps:
            size = plan.part.size
            pieces = self._partials.assemble(plan, asked, ask, None)
            return self._planned(asked, plan, PlanContent(pieces, size), Note(word="hit"))
        request = completing(service.upstream_headers(asked), partial.policy, plan.gaps[0])
        if request is None:
            return None
        answer, exchange = await ask(request)
        if answer.status == 206 and self._partials.fits(partial, asked, exchange, plan.gaps[0]):
            pieces = self._partials.assemble(plan, asked, ask, answer_pieces(answer))
            note = Note(206, True, None, word="partial")
            return self._planned(asked, plan, PlanContent(pieces, plan.part.size), note)
        return await self._changed(service, asked, plan.reuse, answer, exchange)

    def _planned(self, asked: Asked, plan: Plan, content: Content, note: Note) -> Response:
        partial = plan.partial
        return self._renderer.planned(
            asked, partial.stored.headers, partial.policy, plan.status, plan.part, partial.size,
            content, plan.reuse, note,
        )  # fmt: skip

    async def _changed(
        self,
        service: Service,
        asked: Asked,
        reuse: Reuse,
        answer: OriginAnswer,
        exchange: Exchange,
    ) -> Response:
        """The origin has something else than the rest of what is stored."""
        if answer.status in (200, 206, 404, 410, 416):
            await self._partials.drop(asked.uri)
        if answer.status == 206:
            # Of another representation, for a range that the client did not ask for.
            answer.close()
            headers = service.upstream_headers(asked)
            answer, exchange = await self._fetcher.ask(asked, headers)
        return await self._pass_or_store(service, asked, reuse, answer, exchange)

    async def _range_miss(self, service: Service, asked: Asked, ask: Ask) -> Response | None:
        """Forward a range of which nothing is stored."""
        wanted = asked.headers.without(CONDITIONS - {b"range", b"if-range"})
        kept = [pair for pair in wanted.pairs if pair[0] in (b"range", b"if-range")]
        request = Headers.of_lower([*service.upstream_headers(asked).pairs, *kept])
        reuse = decide_without(asked.facts, asked.method)
        answer, exchange = await ask(request)
        return await self._pass_or_store(service, asked, reuse, answer, exchange)

    async def _pass_or_store(
        self,
        service: Service,
        asked: Asked,
        reuse: Reuse,
        answer: OriginAnswer,
        exchange: Exchange,
    ) -> Response:
        if answer.status == 200:
            filled = await self._fetcher.take_whole(asked, answer, exchange)
            return await service.deliver(asked, None, filled, reuse, None)
        partial: Partial | None = None
        if answer.status == 206:
            partial = await self._partials.begin(asked, exchange)
        content: Content = AnswerContent(answer)
        if partial is not None:
            policy = partial.policy
            if answer.length not in (None, policy.range_last - policy.range_first + 1):
                await self._partials.drop(asked.uri)  # the two lengths contradict each other
                partial = None
            else:
                content = PlanContent(self._recorded(partial, answer), answer.length)
        note = Note(answer.status, partial is not None, None)
        headers = end_to_end(with_date(exchange.response, exchange.response_s))
        return self._renderer.passing(
            asked, answer.status, headers, content, reuse, note, minor=exchange.minor
        )

    async def _recorded(self, partial: Partial, answer: OriginAnswer) -> AsyncIterator[bytes]:
        first = partial.policy.range_first
        pieces = self._partials.record(partial, first, answer_pieces(answer))
        async for piece in pieces:
            yield piece
        await self._partials.complete(partial)
