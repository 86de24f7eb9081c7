"""The routes under /v1: models, chat completions, completions."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from burnish.core.errors import NotFound
from burnish.core.sections import Serve
from burnish.engines.fleet import Fleet
from burnish.engines.local import LocalEngine
from burnish.engines.scheduler import Scheduler
from burnish.serve.answers import ChatAnswers, Completions
from burnish.serve.desk import Desk, Tuned
from burnish.serve.errors import ModelNotFound
from burnish.serve.exchange import Exchange, Shape
from burnish.serve.job_wire import ORGANISATION
from burnish.serve.prompts import chat_requests, completion_requests
from burnish.serve.wire import Asked, ChatRequest, CompletionRequest

#: Nobody is left to read it; nginx's number for a client that closed the connection.
_CLIENT_GONE = 499


@dataclass
class House:
    """What the routes answer with."""

    fleet: Fleet
    scheduler: Scheduler
    settings: Serve
    desk: Desk | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    #: A fast tokenizer must not be used by two threads at once.
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def engine(self, name: str) -> LocalEngine:
        """The engine of that name. Raises ModelNotFound, as the hosted API words it.

        What a job has made is loaded when it is first asked.
        """
        if name not in self.fleet.engines and self.desk:
            made = await run_in_threadpool(self.desk.find_tuned, name)
            if made:
                await asyncio.wrap_future(self.scheduler.do(partial(self._load, made)))
        return self._loaded(name)

    def cards(self) -> dict[str, dict[str, Any]]:
        """Every model as `GET /models` lists it, by name."""
        cards = {name: self._card(name, self._loaded(name)) for name in list(self.fleet.engines)}
        for made in self.desk.tuned() if self.desk else ():
            cards[made.name] = _card_of(made)
        return cards

    def card(self, name: str) -> dict[str, Any]:
        """One of them. Raises ModelNotFound."""
        made = self.desk.find_tuned(name) if self.desk else None
        return _card_of(made) if made else self._card(name, self._loaded(name))

    def _load(self, made: Tuned) -> None:
        if made.name not in self.fleet.engines:  # somebody else may have asked at the same time
            self.fleet.add(made.name, made.folder)

    def _loaded(self, name: str) -> LocalEngine:
        try:
            return self.fleet.find(name)
        except NotFound as error:
            raise ModelNotFound(str(error), "model", "model_not_found") from error

    def _card(self, name: str, engine: LocalEngine) -> dict[str, Any]:
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
        "owned_by": ORGANISATION,
        "root": made.name,
        "parent": made.base,
    }


def routes(house: House) -> APIRouter:
    """All routes, to be mounted under each prefix."""
    router = APIRouter()

    @router.get("/models", summary="The models that are served")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": list(house.cards().values())}

    @router.get("/models/{name:path}", summary="One model")
    def model(name: str) -> dict[str, Any]:
        return house.card(name)

    @router.post("/chat/completions", summary="Answer a conversation")
    async def chat(asked: ChatRequest, http: Request) -> Response:
        engine = await house.engine(asked.model)
        async with house.encoding:
            longest = house.settings.max_new_tokens
            requests = await run_in_threadpool(chat_requests, engine, asked, longest)
        exchange = Exchange(house.scheduler, engine, requests)
        shape = ChatAnswers(asked.model, with_logprobs=bool(asked.logprobs))
        return await _respond(http, exchange, shape, asked)

    @router.post("/completions", summary="Continue plain text")
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        engine = await house.engine(asked.model)
        async with house.encoding:
            groups = await run_in_threadpool(completion_requests, engine, asked)
        exchange = Exchange(house.scheduler, engine, [r for _, some in groups for r in some])
        offsets = [len(text) for text, some in groups for _ in some]
        shape = Completions(asked.model, asked.logprobs is not None, offsets, asked.n or 1)
        return await _respond(http, exchange, shape, asked)

    return router


async def _respond(http: Request, exchange: Exchange, shape: Shape, asked: Asked) -> Response:
    if asked.stream:
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = exchange.events(shape, with_usage, asked.n or 1)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    answers = await exchange.answers(http)
    if answers is None:
        return Response(status_code=_CLIENT_GONE)
    return JSONResponse(shape.whole(answers))
