"""The routes under /v1: models, chat completions, completions; and where Azure's clients look."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from burnish.serve.inference.embeddings import EmbeddingRequest
from burnish.serve.inference.protocol import ChatRequest, CompletionRequest
from burnish.serve.inference.service import InferenceService
from burnish.serve.protocol import ApiModel

RequestT = TypeVar("RequestT", bound=ApiModel)


def inference_routes(service: InferenceService) -> APIRouter:
    """All routes, to be mounted under each prefix."""
    router = APIRouter()

    @router.get("/models", summary="The models that are served")
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": service.list_models()}

    @router.get("/models/{name:path}", summary="One model")
    def get_model(name: str) -> dict[str, Any]:
        return service.describe_model(name)

    @router.delete("/models/{name:path}", summary="Forget a model that a job has made")
    def delete_model(name: str) -> dict[str, Any]:
        service.delete_model(name)
        return {"id": name, "object": "model", "deleted": True}

    @router.post("/chat/completions", summary="Answer a conversation")
    async def chat(request: ChatRequest, http: Request) -> Response:
        return await service.chat(request, http)

    @router.post("/completions", summary="Continue plain text")
    async def completions(request: CompletionRequest, http: Request) -> Response:
        return await service.complete(request, http)

    @router.post("/embeddings", summary="Texts to vectors of length 1")
    async def embed(request: EmbeddingRequest) -> dict[str, Any]:
        return await service.embed(request)

    return router


def deployment_routes(service: InferenceService) -> APIRouter:
    """The same questions where `AzureOpenAI` asks them: of a deployment, or a model by its name."""
    router = APIRouter(prefix="/deployments/{name:path}")

    @router.post("/chat/completions")
    async def chat(name: str, body: dict[str, Any], http: Request) -> Response:
        return await service.chat(_parse_request(ChatRequest, name, body), http)

    @router.post("/completions")
    async def completions(name: str, body: dict[str, Any], http: Request) -> Response:
        return await service.complete(_parse_request(CompletionRequest, name, body), http)

    @router.post("/embeddings")
    async def embed(name: str, body: dict[str, Any]) -> dict[str, Any]:
        return await service.embed(_parse_request(EmbeddingRequest, name, body))

    return router


def _parse_request(kind: type[RequestT], name: str, body: Mapping[str, Any]) -> RequestT:
    """The body as a request to the deployment `name`, whatever model it names itself."""
    try:
        return kind.model_validate({**body, "model": name})
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error
