"""Between the event loop, where HTTP lives, and the scheduler's thread, where the model lives."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from fastapi import Request as HttpRequest

from burnish.core.records import Answer, TokenLogprob
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.scheduling.pending import RequestUpdate
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import ServedEngine
from burnish.serve.errors import burnish_error_body


class ResponseFormatter(Protocol):
    """How answers look on the wire: chat or plain completions."""

    def full_body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a request that isn't streamed."""

    def first_chunk(self, index: int) -> dict[str, Any] | None:
        """What a choice begins with, if anything."""

    def text_chunk(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob]
    ) -> dict[str, Any] | None:
        """More text of a choice, if it can be shown already."""

    def final_chunks(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """What was held back, and why a choice ended."""

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> dict[str, Any]:
        """Tokens read and made."""


class ResponseStream:
    """The requests of one HTTP request, and what the scheduler says about them.

    Made before anything is sent, so that a full queue is still an error with a status of its own.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        engine: ServedEngine,
        requests: Sequence[GenerationRequest],
        on_answer: Callable[[Answer], None],
    ) -> None:
        self.scheduler, self.count, self._on_answer = scheduler, len(requests), on_answer
        self._updates: asyncio.Queue[tuple[int, RequestUpdate]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        listeners = [self._listener(loop, index) for index in range(self.count)]
        self.pending = scheduler.submit(engine, requests, listeners)

    async def answers(self, http: HttpRequest) -> list[Answer] | None:
        """All answers; None if the client has gone. Raises what the scheduler reports."""
        gone = asyncio.ensure_future(_wait_for_disconnect(http))
        done: dict[int, Answer] = {}
        try:
            while len(done) < self.count:
                update = asyncio.ensure_future(self._updates.get())
                await asyncio.wait({update, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not update.done():
                    update.cancel()
                    return None
                index, news = update.result()
                if news.error:
                    raise news.error
                if news.answer:
                    done[index] = news.answer
            return [done[index] for index in range(self.count)]
        finally:
            gone.cancel()
            self.scheduler.cancel(self.pending)

    async def events(
        self, formatter: ResponseFormatter, with_usage: bool, per_prompt: int
    ) -> AsyncIterator[str]:
        """Server-sent events, `[DONE]` at the end. A fault on the way is an event too."""
        done: dict[int, Answer] = {}
        try:
            for index in range(self.count):
                if begin := formatter.first_chunk(index):
                    yield _event(_with_empty_usage(begin, with_usage))
            async for index, news in self.updates():
                if news.error:
                    yield _event(burnish_error_body(news.error))
                    return
                if news.text or news.logprobs:
                    piece = formatter.text_chunk(index, news.text, news.logprobs)
                    if piece:
                        yield _event(_with_empty_usage(piece, with_usage))
                if news.answer:
                    done[index] = news.answer
                    for chunk in formatter.final_chunks(index, news.answer):
                        yield _event(_with_empty_usage(chunk, with_usage))
            if with_usage:
                ordered = [done[index] for index in range(self.count)]
                yield _event(formatter.usage_chunk(ordered, per_prompt))
            yield "data: [DONE]\n\n"
        finally:
            self.cancel()

    async def updates(self) -> AsyncIterator[tuple[int, RequestUpdate]]:
        """What is new about each request, by its number, until all have ended or one has failed.

        Whoever stops listening earlier has to `cancel`.
        """
        left = self.count
        while left:
            index, news = await self._updates.get()
            left -= bool(news.answer)
            yield index, news
            if news.error:
                return

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.scheduler.cancel(self.pending)

    def _listener(
        self, loop: asyncio.AbstractEventLoop, index: int
    ) -> Callable[[RequestUpdate], None]:
        def on_update(update: RequestUpdate) -> None:
            if update.answer:
                self._on_answer(update.answer)
            try:
                loop.call_soon_threadsafe(self._updates.put_nowait, (index, update))
            except RuntimeError:  # the loop has ended, and with it whoever was listening
                self.pending[index].cancelled = True

        return on_update


def _with_empty_usage(chunk: dict[str, Any], with_usage: bool) -> dict[str, Any]:
    """With `include_usage`, every chunk before the last has an empty `usage`."""
    return {**chunk, "usage": None} if with_usage else chunk


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def _wait_for_disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
