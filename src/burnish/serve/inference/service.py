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
from burnish.engines.local.decoding import GenerationRequest as Asks
from burnish.engines.scheduling.model_pool import ModelPool
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import ServedEngine
from burnish.rag.store import Passage
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.inference.embeddings import Embedders, EmbeddingRequest
from burnish.serve.inference.protocol import ChatRequest, CompletionRequest, GenerationParams
from burnish.serve.inference.requests import chat_requests, completion_requests
from burnish.serve.inference.responses import ChatFormatter, CompletionFormatter
from burnish.serve.inference.stream import ResponseFormatter, ResponseStream
from burnish.serve.middleware.metrics import Metrics
from burnish.serve.store.workspace import FineTunedModel, Workspace

#: Nobody is left to read it; nginx's number for a client that closed the connection.
CLIENT_GONE = 499

RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest, EmbeddingRequest)


class NotDeletable(RequestError):
    """A model that cannot be deleted over HTTP."""

    status = 403


@dataclass
class InferenceService:
    """What the routes answer with."""

    model_pool: ModelPool
    scheduler: Scheduler
    settings: Serve
    workspace: Workspace | None = None
    embedders: Embedders = field(default_factory=Embedders)
    metrics: Metrics = field(default_factory=Metrics)
    #: Models of jobs that are in memory.
    loaded_models: set[str] = field(default_factory=set)
    started: int = field(default_factory=lambda: int(time.time()))
    #: A fast tokenizer must not be used by two threads at once.
    tokenizer_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: One Python grader at a time: each may take 2 GiB.
    sandbox_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def chat(self, request: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        request = await self._resolve_deployment(request)
        exchange = await self._start_chat(request)
        tools = () if request.tool_choice == "none" else request.tools or ()
        names = {tool.function.name for tool in tools}
        shape = ChatFormatter(request.model, with_logprobs=bool(request.logprobs), functions=names)
        return await _respond(http, exchange, shape, request)

    async def start(self, request: ChatRequest, passages: Sequence[Passage] = ()) -> ResponseStream:
        """A conversation in the scheduler's hands; `passages` are what it is to lean on."""
        return await self._start_chat(await self._resolve_deployment(request), passages)

    async def _start_chat(
        self, request: ChatRequest, passages: Sequence[Passage] = ()
    ) -> ResponseStream:
        engine = await self._find_engine(request.model)
        async with self.tokenizer_lock:
            longest = self.settings.max_new_tokens
            requests = await run_in_threadpool(chat_requests, engine, request, longest, passages)
        return self._open_stream(request.model, engine, requests)

    async def complete(self, request: CompletionRequest, http: Request) -> Response:
        """Continue plain text."""
        request = await self._resolve_deployment(request)
        engine = await self._find_engine(request.model)
        async with self.tokenizer_lock:
            groups = await run_in_threadpool(completion_requests, engine, request)
        exchange = self._open_stream(request.model, engine, [r for _, some in groups for r in some])
        offsets = [len(text) for text, some in groups for _ in some]
        shape = CompletionFormatter(
            request.model, request.logprobs is not None, offsets, request.n or 1
        )
        return await _respond(http, exchange, shape, request)

    async def embed(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Vectors of texts."""
        return await self.embedders.embed(await self._resolve_deployment(request))

    async def _resolve_deployment(self, request: RequestT) -> RequestT:
        """The request with the model that is meant, where it names a deployment."""
        if self.workspace is None:
            return request
        model = await run_in_threadpool(self.workspace.deployments.model_for, request.model)
        return request if model == request.model else request.model_copy(update={"model": model})

    def _open_stream(
        self, model: str, engine: ServedEngine, requests: list[Asks]
    ) -> ResponseStream:
        for request in requests:
            request.owner = CURRENT_KEY.get().organization
        return ResponseStream(
            self.scheduler, engine, requests, partial(self.metrics.count_tokens, model)
        )

    def list_models(self) -> list[dict[str, Any]]:
        """Every model as `GET /models` lists it."""
        own = [name for name in list(self.model_pool.engines) if name not in self.loaded_models]
        cards = [self._card(name, self._startup_model(name)) for name in own]
        cards += [
            _fine_tuned_card(made)
            for made in (self.workspace.list_fine_tuned() if self.workspace else ())
        ]
        cards += [self._embedding_card(name) for name in self.embedders.names()]
        return [card for card in cards if CURRENT_KEY.get().allows_model(card["id"])]

    def describe_model(self, name: str) -> dict[str, Any]:
        """One of them. Raises ModelNotFound."""
        self._check_allowed(name)
        if name in self.embedders.names():
            return self._embedding_card(name)
        made = self.workspace.find_fine_tuned(name) if self.workspace else None
        return _fine_tuned_card(made) if made else self._card(name, self._startup_model(name))

    def delete_model(self, name: str) -> None:
        """Forget a model that a job has made. Raises ModelNotFound; NotYours for any other."""
        self._check_allowed(name)
        if self.workspace is None or self.workspace.find_fine_tuned(name) is None:
            self.describe_model(name)
            raise NotDeletable(f"{name} was not made by a fine-tuning job: it stays.", "model")
        self.workspace.delete_model(name)

    async def _find_engine(self, name: str) -> ServedEngine:
        """What answers to that name. Raises ModelNotFound, as the hosted API words it.

        What a job has made is loaded when it is first asked; another server may have deleted it.
        """
        self._check_allowed(name)
        if self.workspace and (name in self.loaded_models or name not in self.model_pool.engines):
            made = await run_in_threadpool(self.workspace.find_fine_tuned, name)
            if made is None:
                raise self._not_found(name)
            await asyncio.wrap_future(
                self.scheduler.run_between_steps(partial(self._load_tuned, made))
            )
            return self.model_pool.find(name)
        return self._startup_model(name)

    def _check_allowed(self, name: str) -> None:
        """Raises ModelNotFound for a model that the caller's key may not use."""
        if not CURRENT_KEY.get().allows_model(name):
            raise self._not_found(name)

    def _not_found(self, name: str) -> ModelNotFound:
        """The error in the words of the hosted API; it names no organisation's models."""
        served = [own for own in list(self.model_pool.engines) if own not in self.loaded_models]
        return ModelNotFound(
            f"The model `{name}` does not exist or you do not have access to it.\n"
            f"Served here: {', '.join(filter(CURRENT_KEY.get().allows_model, served))}.",
            "model",
            "model_not_found",
        )

    def _load_tuned(self, made: FineTunedModel) -> None:
        if (
            made.name not in self.model_pool.engines
        ):  # somebody else may have asked at the same time
            self.model_pool.add(made.name, made.folder)
            self.loaded_models.add(made.name)

    def _startup_model(self, name: str) -> ServedEngine:
        """What was named when the server was started. Raises ModelNotFound."""
        if name in self.loaded_models or name not in self.model_pool.engines:
            raise self._not_found(name)
        return self.model_pool.find(name)

    def _embedding_card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "burnish"}

    def _card(self, name: str, engine: ServedEngine) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "burnish",
            "root": engine.name,
            "parent": self.model_pool.parents.get(engine.name),
            "max_model_len": engine.context_length,
        }


def _fine_tuned_card(made: FineTunedModel) -> dict[str, Any]:
    """A model that a job has made; it need not be in memory."""
    return {
        "id": made.name,
        "object": "model",
        "created": made.created,
        "owned_by": f"org-{made.organization}",
        "root": made.name,
        "parent": made.base,
    }


async def _respond(
    http: Request, exchange: ResponseStream, formatter: ResponseFormatter, request: GenerationParams
) -> Response:
    if request.stream:
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        events = exchange.events(formatter, with_usage, request.n or 1)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    answers = await exchange.answers(http)
    if answers is None:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(formatter.full_body(answers))
