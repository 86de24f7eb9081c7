"""The inference service: finds the model of a request and submits the request to the scheduler."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from burnish.core.recipe.serve import Serve
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.local.grammar import compile_grammar, tokenizer_vocabulary
from burnish.engines.scheduling.model_pool import ModelPool
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import ServedEngine
from burnish.rag.store import Passage
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.inference.constraints import answer_grammar, is_constrained
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.inference.protocol import (
    AnyModelObject,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
    FineTunedModelObject,
    GenerationParams,
    ModelObject,
    ServedModelObject,
)
from burnish.serve.inference.requests import (
    chat_requests,
    check_enforceable,
    completion_requests,
)
from burnish.serve.inference.responses import ChatFormatter, CompletionFormatter
from burnish.serve.inference.stream import BodyT, ChunkT, ResponseFormatter, ResponseStream
from burnish.serve.middleware.metrics import Metrics
from burnish.serve.store.workspace import FineTunedModel, Workspace

RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest, EmbeddingRequest)


class NotDeletable(RequestError):
    """A model that cannot be deleted over HTTP."""

    status = 403


@dataclass
class InferenceService:
    """Answers requests with the models in memory and with fine-tuned ones, loaded on first use."""

    model_pool: ModelPool
    scheduler: Scheduler
    settings: Serve
    workspace: Workspace | None = None
    embedders: Embedders = field(default_factory=Embedders)
    metrics: Metrics = field(default_factory=Metrics)
    #: Fine-tuned models that are in memory.
    loaded_models: set[str] = field(default_factory=set)
    started: int = field(default_factory=lambda: int(time.time()))
    #: A fast tokenizer must not be used by two threads at once.
    tokenizer_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: The lock of each organization that is compiling a schema.
    compile_locks: WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=WeakValueDictionary
    )
    #: One Python grader at a time: each may take 2 GiB.
    sandbox_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def chat(
        self, request: ChatRequest, http: Request
    ) -> ChatCompletion | AsyncIterator[str] | None:
        """Answer a conversation: a body, a stream of events, or None if the client has gone."""
        request = await self._resolve_deployment(request)
        stream = await self._submit_chat(request)
        tools = () if request.tool_choice == "none" else request.tools or ()
        functions = {tool.function.name for tool in tools}
        formatter = ChatFormatter(request.model, bool(request.logprobs), functions)
        return await _result(http, stream, formatter, request)

    async def start(self, request: ChatRequest, passages: Sequence[Passage] = ()) -> ResponseStream:
        """Submit a conversation to be answered from `passages` where there are any."""
        return await self._submit_chat(await self._resolve_deployment(request), passages)

    async def _submit_chat(
        self, request: ChatRequest, passages: Sequence[Passage] = ()
    ) -> ResponseStream:
        engine = await self._find_engine(request.model)
        grammar = await self._compile_constraint(engine, request)
        async with self.tokenizer_lock:
            requests = await run_in_threadpool(
                chat_requests, engine, request, self.settings.max_new_tokens, passages, grammar
            )
        return self._open_stream(request.model, engine, requests)

    async def complete(
        self, request: CompletionRequest, http: Request
    ) -> Completion | AsyncIterator[str] | None:
        """Continue plain text: a body, a stream of events, or None if the client has gone."""
        request = await self._resolve_deployment(request)
        engine = await self._find_engine(request.model)
        grammar = await self._compile_constraint(engine, request)
        async with self.tokenizer_lock:
            prompts = await run_in_threadpool(completion_requests, engine, request, grammar)
        requests = [one for _, requests in prompts for one in requests]
        prompt_lengths = [len(text) for text, requests in prompts for _ in requests]
        stream = self._open_stream(request.model, engine, requests)
        formatter = CompletionFormatter(
            request.model, request.logprobs is not None, prompt_lengths, request.n or 1
        )
        return await _result(http, stream, formatter, request)

    async def _compile_constraint(
        self, engine: ServedEngine, request: ChatRequest | CompletionRequest
    ) -> str:
        """Return the grammar of the answer, compiled; empty for free text. Raises RequestError.

        An organization compiles one schema at a time, so that hard ones keep only it waiting.
        """
        check_enforceable(engine, request)
        if not is_constrained(request):
            return ""
        organization = CURRENT_KEY.get().organization
        async with self.compile_locks.setdefault(organization, asyncio.Lock()):
            grammar = await run_in_threadpool(answer_grammar, request)
            async with self.tokenizer_lock:
                await run_in_threadpool(tokenizer_vocabulary, engine.tokenizer, engine.ends)
            await run_in_threadpool(compile_grammar, grammar, engine.tokenizer, engine.ends)
        return grammar

    async def embed(self, request: EmbeddingRequest) -> EmbeddingList:
        """Embed texts."""
        return await self.embedders.embed(await self._resolve_deployment(request))

    async def _resolve_deployment(self, request: RequestT) -> RequestT:
        """Replace a deployment's name by the model it points to."""
        if self.workspace is None:
            return request
        model = await run_in_threadpool(self.workspace.deployments.model_for, request.model)
        return request if model == request.model else request.model_copy(update={"model": model})

    def _open_stream(
        self, model: str, engine: ServedEngine, requests: list[GenerationRequest]
    ) -> ResponseStream:
        for request in requests:
            request.owner = CURRENT_KEY.get().organization
        return ResponseStream(
            self.scheduler, engine, requests, partial(self.metrics.count_tokens, model)
        )

    def list_models(self) -> list[AnyModelObject]:
        """List every model that the caller's key may use."""
        names = [name for name in list(self.model_pool.engines) if name not in self.loaded_models]
        models: list[AnyModelObject] = [
            self._served_object(name, self._startup_model(name)) for name in names
        ]
        if self.workspace:
            models += [_fine_tuned_object(model) for model in self.workspace.list_fine_tuned()]
        models += [self._embedding_object(name) for name in self.embedders.names()]
        return [model for model in models if CURRENT_KEY.get().allows_model(model.id)]

    def describe_model(self, name: str) -> AnyModelObject:
        """Describe one model. Raises ModelNotFound."""
        self._check_allowed(name)
        if name in self.embedders.names():
            return self._embedding_object(name)
        if model := self._find_fine_tuned(name):
            return _fine_tuned_object(model)
        return self._served_object(name, self._startup_model(name))

    def delete_model(self, name: str) -> None:
        """Delete a fine-tuned model. Raises ModelNotFound; NotDeletable for any other model."""
        self._check_allowed(name)
        if self.workspace is None or self.workspace.find_fine_tuned(name) is None:
            self.describe_model(name)
            raise NotDeletable(
                f"{name} was not made by a fine-tuning job and cannot be deleted.", "model"
            )
        self.workspace.delete_model(name)

    def _find_fine_tuned(self, name: str) -> FineTunedModel | None:
        return self.workspace.find_fine_tuned(name) if self.workspace else None

    async def _find_engine(self, name: str) -> ServedEngine:
        """Return the engine of a model. Raises ModelNotFound.

        A fine-tuned model is loaded on first use, and looked up each time: another server may have
        deleted it.
        """
        self._check_allowed(name)
        if self.workspace and (name in self.loaded_models or name not in self.model_pool.engines):
            model = await run_in_threadpool(self.workspace.find_fine_tuned, name)
            if model is None:
                raise self._not_found(name)
            await asyncio.wrap_future(
                self.scheduler.run_between_steps(partial(self._load_fine_tuned, model))
            )
            return self.model_pool.find(name)
        return self._startup_model(name)

    def _check_allowed(self, name: str) -> None:
        """Raises ModelNotFound for a model that the caller's key may not use."""
        if not CURRENT_KEY.get().allows_model(name):
            raise self._not_found(name)

    def _not_found(self, name: str) -> ModelNotFound:
        """Build the error in the hosted API's words; it names no organization's models."""
        served = [one for one in list(self.model_pool.engines) if one not in self.loaded_models]
        return ModelNotFound(
            f"The model `{name}` does not exist or you do not have access to it.\n"
            f"Served here: {', '.join(filter(CURRENT_KEY.get().allows_model, served))}.",
            "model",
            "model_not_found",
        )

    def _load_fine_tuned(self, model: FineTunedModel) -> None:
        if model.name not in self.model_pool.engines:  # a concurrent request may have loaded it
            self.model_pool.add(model.name, model.folder)
            self.loaded_models.add(model.name)

    def _startup_model(self, name: str) -> ServedEngine:
        """Return the engine of a model named when the server started. Raises ModelNotFound."""
        if name in self.loaded_models or name not in self.model_pool.engines:
            raise self._not_found(name)
        return self.model_pool.find(name)

    def _embedding_object(self, name: str) -> ModelObject:
        return ModelObject(id=name, created=self.started, owned_by="burnish")

    def _served_object(self, name: str, engine: ServedEngine) -> ServedModelObject:
        return ServedModelObject(
            id=name,
            created=self.started,
            owned_by="burnish",
            root=engine.name,
            parent=self.model_pool.parents.get(engine.name),
            max_model_len=engine.context_length,
        )


def _fine_tuned_object(model: FineTunedModel) -> FineTunedModelObject:
    """Describe a fine-tuned model, which need not be in memory."""
    return FineTunedModelObject(
        id=model.name,
        created=model.created,
        owned_by=f"org-{model.organization}",
        root=model.name,
        parent=model.base,
    )


async def _result(
    http: Request,
    stream: ResponseStream,
    formatter: ResponseFormatter[BodyT, ChunkT],
    request: GenerationParams,
) -> BodyT | AsyncIterator[str] | None:
    if request.stream:
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        return stream.events(formatter, with_usage, request.n or 1)
    answers = await stream.answers(http)
    return None if answers is None else formatter.full_body(answers)
