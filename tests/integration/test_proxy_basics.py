"""A miss, a hit, and what is between them."""

from __future__ import annotations

from support.origin import looped, response
from support.origin_world import World


@looped
async def test_a_fresh_answer_is_fetched_once() -> None:
    async with World() as world:
        world.origin.answer("/page", response(200, b"hello", Cache_Control="max-age=60"))
        first = await world.get("/page")
        assert (first.status, first.body, first.word) == (200, b"hello", "miss")
        for _ in range(5):
            again = await world.get("/page")
            assert (again.status, again.body, again.word) == (200, b"hello", "hit")
            assert again["age"] in ("0", "1")
        assert world.origin.count() == 1
