"""Routes of models, chat completions, completions and embeddings."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from burnish.serve.inference.dependencies import CurrentInference
from burnish.serve.inference.protocol import (
    AnyModelObject,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Completion,
    CompletionChunk,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
    ModelList,
)
from burnish.serve.inference.stream import http_response
from burnish.serve.openapi import event_stream
from burnish.serve.protocol import DeletedObject

router = APIRouter()


@router.get("/models", summary="List the models that are served")
def list_models(inference: CurrentInference) -> ModelList:
    """List base models, fine-tuned models, checkpoints and embedding models."""
    return ModelList(data=inference.list_models())


@router.get("/models/{name:path}", summary="Describe one model")
def get_model(name: str, inference: CurrentInference) -> AnyModelObject:
    """Describe a model by its name."""
    return inference.describe_model(name)


@router.delete("/models/{name:path}", summary="Delete a fine-tuned model")
def delete_model(name: str, inference: CurrentInference) -> DeletedObject:
    """Delete a fine-tuned model; the run that trained it stays."""
    inference.delete_model(name)
    return DeletedObject(id=name, object="model")


@router.post(
    "/chat/completions",
    summary="Answer a conversation",
    response_model=ChatCompletion,
    responses={200: event_stream(ChatCompletionChunk)},
)
async def create_chat_completion(
    request: ChatRequest, http: Request, inference: CurrentInference
) -> Response:
    """Answer a conversation, as one body or as a stream of chunks."""
    return http_response(await inference.chat(request, http))


@router.post(
    "/completions",
    summary="Continue plain text",
    response_model=Completion,
    responses={200: event_stream(CompletionChunk)},
)
async def create_completion(
    request: CompletionRequest, http: Request, inference: CurrentInference
) -> Response:
    """Continue plain text, as one body or as a stream of chunks."""
    return http_response(await inference.complete(request, http))


@router.post("/embeddings", summary="Embed texts as vectors of length 1")
async def create_embeddings(
    request: EmbeddingRequest, inference: CurrentInference
) -> EmbeddingList:
    """Embed texts."""
    return await inference.embed(request)
