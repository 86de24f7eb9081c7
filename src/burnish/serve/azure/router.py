"""Routes of Azure OpenAI deployments."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from burnish.serve.store.deployments import (
    _DEPLOYMENTS_PATH,
    KIND,
    AzureLocation,
    CreateDeployment,
    DeploymentName,
    Deployments,
    _deployment_body,
)


def management_routes(deployments: Deployments, check_model: Callable[[str], object]) -> APIRouter:
    """Make, look up, list and delete deployments where `az` and Azure's tutorial do.

    `check_model` raises for a model that isn't here.
    """
    router = APIRouter(prefix=_DEPLOYMENTS_PATH)
    At = Annotated[AzureLocation, Depends()]

    @router.put("/{name}", summary="Let a model answer to a name")
    def put_deployment(name: DeploymentName, request: CreateDeployment, place: At) -> Response:
        check_model(deployments.resolve_checkpoint(request.properties.model.name))
        record, is_new = deployments.put(name, request)
        return JSONResponse(_deployment_body(record, place), 201 if is_new else 200)

    @router.get("", summary="The deployments")
    def list_deployments(place: At) -> dict[str, Any]:
        return {
            "value": [_deployment_body(record, place) for record in deployments.objects.all(KIND)]
        }

    @router.get("/{name}", summary="One deployment")
    def get_deployment(name: DeploymentName, place: At) -> dict[str, Any]:
        return _deployment_body(deployments.find(name), place)

    @router.delete("/{name}", summary="Forget a deployment; its model stays")
    def delete_deployment(name: DeploymentName, place: At) -> Response:
        return Response(status_code=200 if deployments.delete(name) else 204)

    return router
