"""An answer that comes later, without a task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecache.http.response import Response

__all__ = ["Deferred"]


class Deferred:
    """What a handler returns when a callback of its own will give the answer.

    A task and its futures cost several turns of the interpreter for each request; a call does not.
    Who is no data plane awaits it, as any other answer.

    Args:
        on_cancel: Called when the client has gone before the answer came.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_on_cancel", "_response", "_then", "is_cancelled")

    def __init__(self, on_cancel: Callable[[], object]) -> None:
        self._on_cancel = on_cancel
        self._response: Response | None = None
        self._then: Callable[[Response], object] | None = None
        self.is_cancelled = False

    def resolve(self, response: Response) -> None:
        """Give the answer, once. Nobody hears of it after `cancel`."""
        if self.is_cancelled:
            if response.release is not None:
                response.release()
            return
        self._response = response
        if self._then is not None:
            self._then(response)

    def then(self, callback: Callable[[Response], object]) -> None:
        """Call something with the answer: at once if it is here."""
        self._then = callback
        if self._response is not None:
            callback(self._response)

    def cancel(self) -> None:
        """Nobody waits for the answer any more. Idempotent; means nothing once it is here."""
        if not self.is_cancelled and self._response is None:
            self.is_cancelled = True
            self._then = None
            self._on_cancel()

    def __await__(self) -> Generator[object, None, Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def settle(response: Response) -> None:
            if not future.done():
                future.set_result(response)

        self.then(settle)
        try:
            return (yield from future)
        except asyncio.CancelledError:
            self.cancel()
            raise
