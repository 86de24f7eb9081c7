"""Pass answers from the scheduler's thread, where the model runs, to the event loop of HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from burnish.core.records import Answer, TokenLogprob
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.scheduling.pending import RequestUpdate
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import ServedEngine
from burnish.serve.errors import ErrorObject, burnish_error_body
from burnish.serve.inference.protocol import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)

#: Nobody is left to read the response; nginx's status for a client that closed the connection.
CLIENT_GONE = 499

BodyT = TypeVar("BodyT", ChatCompletion, Completion, covariant=True)
ChunkT = TypeVar("ChunkT", ChatCompletionChunk, CompletionChunk)


class ResponseFormatter(Protocol[BodyT, ChunkT]):
    """Formats answers for the wire, as a chat or as plain completions."""

    def full_body(self, answers: Sequence[Answer]) -> BodyT:
        """Return the body of a response that is not streamed."""

    def first_chunk(self, index: int) -> ChunkT | None:
        """Return the chunk that opens a choice, if there is one."""

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> ChunkT | None:
        """Return the chunk with more text of a choice, if it can be shown already."""

    def final_chunks(self, index: int, answer: Answer) -> list[ChunkT]:
        """Return the chunks with the text that was held back and the reason of the end."""

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> ChunkT:
        """Return the chunk that counts tokens."""


class ResponseStream:
    """The engine requests of one HTTP request, and the scheduler's updates about them.

    Submitted before anything is sent, so that a full queue is still an error with its own status.
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
        """Return all answers; None if the client has gone. Raises what the scheduler reports."""
        gone = asyncio.ensure_future(_wait_for_disconnect(http))
        done: dict[int, Answer] = {}
        try:
            while len(done) < self.count:
                next_update = asyncio.ensure_future(self._updates.get())
                await asyncio.wait({next_update, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not next_update.done():
                    next_update.cancel()
                    return None
                index, update = next_update.result()
                if update.error:
                    raise update.error
                if update.answer:
                    done[index] = update.answer
            return [done[index] for index in range(self.count)]
        finally:
            gone.cancel()
            self.scheduler.cancel(self.pending)

    async def events(
        self, formatter: ResponseFormatter[BodyT, ChunkT], with_usage: bool, per_prompt: int
    ) -> AsyncIterator[str]:
        """Yield server-sent events, `[DONE]` last. An error on the way is an event too."""
        done: dict[int, Answer] = {}
        try:
            for index in range(self.count):
                if first := formatter.first_chunk(index):
                    yield _event(_with_empty_usage(first, with_usage))
            async for index, update in self.updates():
                if update.error:
                    yield _event(burnish_error_body(update.error))
                    return
                if update.text or update.logprobs:
                    chunk = formatter.text_chunk(index, update.text, update.logprobs)
                    if chunk:
                        yield _event(_with_empty_usage(chunk, with_usage))
                if update.answer:
                    done[index] = update.answer
                    for chunk in formatter.final_chunks(index, update.answer):
                        yield _event(_with_empty_usage(chunk, with_usage))
            if with_usage:
                ordered = [done[index] for index in range(self.count)]
                yield _event(formatter.usage_chunk(ordered, per_prompt))
            yield "data: [DONE]\n\n"
        finally:
            self.cancel()

    async def updates(self) -> AsyncIterator[tuple[int, RequestUpdate]]:
        """Yield (index of the request, update) until all have ended or one has failed.

        A consumer that stops earlier must call `cancel`.
        """
        unfinished = self.count
        while unfinished:
            index, update = await self._updates.get()
            unfinished -= bool(update.answer)
            yield index, update
            if update.error:
                return

    def cancel(self) -> None:
        """Give up the answers that are not finished."""
        self.scheduler.cancel(self.pending)

    def _listener(
        self, loop: asyncio.AbstractEventLoop, index: int
    ) -> Callable[[RequestUpdate], None]:
        def on_update(update: RequestUpdate) -> None:
            if update.answer:
                self._on_answer(update.answer)
            try:
                loop.call_soon_threadsafe(self._updates.put_nowait, (index, update))
            except RuntimeError:  # the loop has ended, and the client's connection with it
                self.pending[index].cancelled = True

        return on_update


def http_response(result: BaseModel | AsyncIterator[str] | None) -> Response:
    """Return a body as JSON, events as a stream; None (the client has gone) as `CLIENT_GONE`."""
    if result is None:
        return Response(status_code=CLIENT_GONE)
    if isinstance(result, BaseModel):
        # Fields that repeat the request hold what the client sent, which may be of any type.
        return Response(result.model_dump_json(warnings=False), media_type="application/json")
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(result, media_type="text/event-stream", headers=headers)


def _with_empty_usage(chunk: ChunkT, with_usage: bool) -> ChunkT:
    """Add the empty `usage` that every chunk but the last has with `include_usage`."""
    if with_usage:
        chunk["usage"] = None
    return chunk


def _event(content: ChatCompletionChunk | CompletionChunk | ErrorObject) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def _wait_for_disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
