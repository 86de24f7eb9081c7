"""What answers: the models in memory, those that jobs have made, and the scheduler."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from burnish.core.recipe.serve import Serve
from burnish.engines.local.decoding import Request as Asks
from burnish.engines.scheduling.model_pool import Fleet
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import Served
from burnish.rag.store import Passage
from burnish.serve.auth.keys import CALLER
from burnish.serve.errors import ModelNotFound, Refused
from burnish.serve.inference.embeddings import Embedders, EmbeddingRequest
from burnish.serve.inference.protocol import Asked, ChatRequest, CompletionRequest
from burnish.serve.inference.requests import chat_requests, completion_requests
from burnish.serve.inference.responses import ChatAnswers, Completions
from burnish.serve.inference.stream import Exchange, Shape
from burnish.serve.middleware.metrics import Figures
from burnish.serve.store.workspace import Desk, Tuned

#: Nobody is left to read it; nginx's number for a client that closed the connection.
CLIENT_GONE = 499

Asking = TypeVar("Asking", ChatRequest, CompletionRequest, EmbeddingRequest)


class NotYours(Refused):
    """A model that cannot be deleted over HTTP."""

    status = 403


@dataclass
class House:
    """What the routes answer with."""

    fleet: Fleet
    scheduler: Scheduler
    settings: Serve
    desk: Desk | None = None
    embedders: Embedders = field(default_factory=Embedders)
    figures: Figures = field(default_factory=Figures)
    #: Models of jobs that are in memory.
    adopted: set[str] = field(default_factory=set)
    started: int = field(default_factory=lambda: int(time.time()))
    #: A fast tokenizer must not be used by two threads at once.
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: One Python grader at a time: each may take 2 GiB.
    sandbox: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def chat(self, asked: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        asked = await self._meant(asked)
        exchange = await self._chat(asked)
        tools = () if asked.tool_choice == "none" else asked.tools or ()
        names = {tool.function.name for tool in tools}
        shape = ChatAnswers(asked.model, with_logprobs=bool(asked.logprobs), functions=names)
        return await _respond(http, exchange, shape, asked)

    async def exchange_of(self, asked: ChatRequest, passages: Sequence[Passage] = ()) -> Exchange:
        """A conversation in the scheduler's hands; `passages` are what it is to lean on."""
        return await self._chat(await self._meant(asked), passages)

    async def _chat(self, asked: ChatRequest, passages: Sequence[Passage] = ()) -> Exchange:
        engine = await self._engine(asked.model)
        async with self.encoding:
            longest = self.settings.max_new_tokens
            requests = await run_in_threadpool(chat_requests, engine, asked, longest, passages)
        return self._exchange(asked.model, engine, requests)

    async def complete(self, asked: CompletionRequest, http: Request) -> Response:
        """Continue plain text."""
        asked = await self._meant(asked)
        engine = await self._engine(asked.model)
        async with self.encoding:
            groups = await run_in_threadpool(completion_requests, engine, asked)
        exchange = self._exchange(asked.model, engine, [r for _, some in groups for r in some])
        offsets = [len(text) for text, some in groups for _ in some]
        shape = Completions(asked.model, asked.logprobs is not None, offsets, asked.n or 1)
        return await _respond(http, exchange, shape, asked)

    async def embed(self, asked: EmbeddingRequest) -> dict[str, Any]:
        """Vectors of texts."""
        return await self.embedders.embed(await self._meant(asked))

    async def _meant(self, asked: Asking) -> Asking:
        """The request with the model that is meant, where it names a deployment."""
        if self.desk is None:
            return asked
        model = await run_in_threadpool(self.desk.deployments.model_of, asked.model)
        return asked if model == asked.model else asked.model_copy(update={"model": model})

    def _exchange(self, model: str, engine: Served, requests: list[Asks]) -> Exchange:
        for request in requests:
            request.owner = CALLER.get().organization
        return Exchange(self.scheduler, engine, requests, partial(self.figures.count, model))

    def cards(self) -> list[dict[str, Any]]:
        """Every model as `GET /models` lists it."""
        own = [name for name in list(self.fleet.engines) if name not in self.adopted]
        cards = [self._card(name, self._own(name)) for name in own]
        cards += [_card_of(made) for made in (self.desk.tuned() if self.desk else ())]
        cards += [self._embedding_card(name) for name in self.embedders.names()]
        return [card for card in cards if CALLER.get().allows_model(card["id"])]

    def card(self, name: str) -> dict[str, Any]:
        """One of them. Raises ModelNotFound."""
        self._allow(name)
        if name in self.embedders.names():
            return self._embedding_card(name)
        made = self.desk.find_tuned(name) if self.desk else None
        return _card_of(made) if made else self._card(name, self._own(name))

    def delete(self, name: str) -> None:
        """Forget a model that a job has made. Raises ModelNotFound; NotYours for any other."""
        self._allow(name)
        if self.desk is None or self.desk.find_tuned(name) is None:
            self.card(name)
            raise NotYours(f"{name} was not made by a fine-tuning job: it stays.", "model")
        self.desk.forget(name)

    async def _engine(self, name: str) -> Served:
        """What answers to that name. Raises ModelNotFound, as the hosted API words it.

        What a job has made is loaded when it is first asked; another server may have deleted it.
        """
        self._allow(name)
        if self.desk and (name in self.adopted or name not in self.fleet.engines):
            made = await run_in_threadpool(self.desk.find_tuned, name)
            if made is None:
                raise self._not_found(name)
            await asyncio.wrap_future(self.scheduler.do(partial(self._adopt, made)))
            return self.fleet.find(name)
        return self._own(name)

    def _allow(self, name: str) -> None:
        """Raises ModelNotFound for a model that the caller's key may not use."""
        if not CALLER.get().allows_model(name):
            raise self._not_found(name)

    def _not_found(self, name: str) -> ModelNotFound:
        """The error in the words of the hosted API; it names no organisation's models."""
        served = [own for own in list(self.fleet.engines) if own not in self.adopted]
        return ModelNotFound(
            f"The model `{name}` does not exist or you do not have access to it.\n"
            f"Served here: {', '.join(filter(CALLER.get().allows_model, served))}.",
            "model",
            "model_not_found",
        )

    def _adopt(self, made: Tuned) -> None:
        if made.name not in self.fleet.engines:  # somebody else may have asked at the same time
            self.fleet.add(made.name, made.folder)
            self.adopted.add(made.name)

    def _own(self, name: str) -> Served:
        """What was named when the server was started. Raises ModelNotFound."""
        if name in self.adopted or name not in self.fleet.engines:
            raise self._not_found(name)
        return self.fleet.find(name)

    def _embedding_card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "burnish"}

    def _card(self, name: str, engine: Served) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "burnish",
            "root": engine.name,
            "parent": self.fleet.parents.get(engine.name),
            "max_model_len": engine.context_length,
        }


def _card_of(made: Tuned) -> dict[str, Any]:
    """A model that a job has made; it need not be in memory."""
    return {
        "id": made.name,
        "object": "model",
        "created": made.created,
        "owned_by": f"org-{made.owner}",
        "root": made.name,
        "parent": made.base,
    }


async def _respond(http: Request, exchange: Exchange, shape: Shape, asked: Asked) -> Response:
    if asked.stream:
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = exchange.events(shape, with_usage, asked.n or 1)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    answers = await exchange.answers(http)
    if answers is None:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(shape.whole(answers))
