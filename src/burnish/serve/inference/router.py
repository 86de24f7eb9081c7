"""The routes under /v1: models, chat completions, completions; and where Azure's clients look."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from burnish.serve.inference.embeddings import EmbeddingRequest
from burnish.serve.inference.protocol import ChatRequest, CompletionRequest
from burnish.serve.inference.service import House
from burnish.serve.protocol import Wire

Kind = TypeVar("Kind", bound=Wire)


def routes(house: House) -> APIRouter:
    """All routes, to be mounted under each prefix."""
    router = APIRouter()

    @router.get("/models", summary="The models that are served")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": house.cards()}

    @router.get("/models/{name:path}", summary="One model")
    def model(name: str) -> dict[str, Any]:
        return house.card(name)

    @router.delete("/models/{name:path}", summary="Forget a model that a job has made")
    def delete(name: str) -> dict[str, Any]:
        house.delete(name)
        return {"id": name, "object": "model", "deleted": True}

    @router.post("/chat/completions", summary="Answer a conversation")
    async def chat(asked: ChatRequest, http: Request) -> Response:
        return await house.chat(asked, http)

    @router.post("/completions", summary="Continue plain text")
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        return await house.complete(asked, http)

    @router.post("/embeddings", summary="Texts to vectors of length 1")
    async def embed(asked: EmbeddingRequest) -> dict[str, Any]:
        return await house.embed(asked)

    return router


def deployment_routes(house: House) -> APIRouter:
    """The same questions where `AzureOpenAI` asks them: of a deployment, or a model by its name."""
    router = APIRouter(prefix="/deployments/{name:path}")

    @router.post("/chat/completions")
    async def chat(name: str, body: dict[str, Any], http: Request) -> Response:
        return await house.chat(_asked(ChatRequest, name, body), http)

    @router.post("/completions")
    async def completions(name: str, body: dict[str, Any], http: Request) -> Response:
        return await house.complete(_asked(CompletionRequest, name, body), http)

    @router.post("/embeddings")
    async def embed(name: str, body: dict[str, Any]) -> dict[str, Any]:
        return await house.embed(_asked(EmbeddingRequest, name, body))

    return router


def _asked(kind: type[Kind], name: str, body: Mapping[str, Any]) -> Kind:
    """The body as a request to the deployment `name`, whatever model it names itself."""
    try:
        return kind.model_validate({**body, "model": name})
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error
