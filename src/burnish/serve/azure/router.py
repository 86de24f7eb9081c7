"""Routes of Azure OpenAI: managing deployments, and asking one."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from burnish.serve.azure.protocol import (
    CreateDeployment,
    DeploymentList,
    DeploymentName,
    DeploymentObject,
)
from burnish.serve.azure.service import (
    DEPLOYMENTS_PATH,
    AzureLocation,
    deployment_object,
    put_deployment,
)
from burnish.serve.inference.dependencies import CurrentInference
from burnish.serve.inference.protocol import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Completion,
    CompletionChunk,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
)
from burnish.serve.inference.stream import http_response
from burnish.serve.openapi import event_stream
from burnish.serve.protocol import ApiModel
from burnish.serve.store.dependencies import CurrentWorkspace

RequestT = TypeVar("RequestT", bound=ApiModel)
Location = Annotated[AzureLocation, Depends()]

management_router = APIRouter(prefix=DEPLOYMENTS_PATH)


@management_router.put(
    "/{name}",
    summary="Create a deployment, or point it to another model",
    responses={201: {"model": DeploymentObject, "description": "The deployment is new."}},
)
def create_deployment(
    name: DeploymentName,
    request: CreateDeployment,
    location: Location,
    inference: CurrentInference,
    workspace: CurrentWorkspace,
    response: Response,
) -> DeploymentObject:
    """Create a deployment, or point it to another model."""
    deployment, is_new = put_deployment(inference, workspace.deployments, name, request)
    response.status_code = 201 if is_new else 200
    return deployment_object(deployment, location)


@management_router.get("", summary="List the deployments")
def list_deployments(location: Location, workspace: CurrentWorkspace) -> DeploymentList:
    """List the deployments."""
    deployments = workspace.deployments.all()
    return DeploymentList(value=[deployment_object(one, location) for one in deployments])


@management_router.get("/{name}", summary="Describe one deployment")
def get_deployment(
    name: DeploymentName, location: Location, workspace: CurrentWorkspace
) -> DeploymentObject:
    """Describe a deployment."""
    return deployment_object(workspace.deployments.find(name), location)


@management_router.delete(
    "/{name}",
    summary="Delete a deployment; its model stays",
    response_class=Response,
    response_description="The deployment is deleted; there is no body.",
    responses={204: {"description": "There was no such deployment."}},
)
def delete_deployment(
    name: DeploymentName, location: Location, workspace: CurrentWorkspace
) -> Response:
    """Delete a deployment."""
    return Response(status_code=200 if workspace.deployments.delete(name) else 204)


#: The routes of `AzureOpenAI`, which asks a deployment (or a model by its name).
deployment_router = APIRouter(prefix="/deployments/{name:path}")


@deployment_router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: event_stream(ChatCompletionChunk)},
)
async def create_chat_completion(
    name: str, body: dict[str, Any], http: Request, inference: CurrentInference
) -> Response:
    """Answer a conversation with a deployment."""
    return http_response(await inference.chat(_parse_request(ChatRequest, name, body), http))


@deployment_router.post(
    "/completions", response_model=Completion, responses={200: event_stream(CompletionChunk)}
)
async def create_completion(
    name: str, body: dict[str, Any], http: Request, inference: CurrentInference
) -> Response:
    """Continue plain text with a deployment."""
    return http_response(
        await inference.complete(_parse_request(CompletionRequest, name, body), http)
    )


@deployment_router.post("/embeddings")
async def create_embeddings(
    name: str, body: dict[str, Any], inference: CurrentInference
) -> EmbeddingList:
    """Embed texts with a deployment."""
    return await inference.embed(_parse_request(EmbeddingRequest, name, body))


def _parse_request(request_type: type[RequestT], name: str, body: Mapping[str, Any]) -> RequestT:
    """Parse the body as a request to the deployment `name`, whatever model it names itself."""
    try:
        return request_type.model_validate({**body, "model": name})
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error
