"""Routes of Azure OpenAI deployments."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from burnish.serve.store.deployments import (
    _PLACE,
    KIND,
    CreateDeployment,
    Deployments,
    Name,
    Place,
    _body,
)


def management_routes(deployments: Deployments, check_model: Callable[[str], object]) -> APIRouter:
    """Make, look up, list and delete deployments where `az` and Azure's tutorial do.

    `check_model` raises for a model that isn't here.
    """
    router = APIRouter(prefix=_PLACE)
    At = Annotated[Place, Depends()]

    @router.put("/{name}", summary="Let a model answer to a name")
    def put(name: Name, asked: CreateDeployment, place: At) -> Response:
        check_model(deployments.checkpoint(asked.properties.model.name))
        record, is_new = deployments.put(name, asked)
        return JSONResponse(_body(record, place), 201 if is_new else 200)

    @router.get("", summary="The deployments")
    def some(place: At) -> dict[str, Any]:
        return {"value": [_body(record, place) for record in deployments.records.all(KIND)]}

    @router.get("/{name}", summary="One deployment")
    def one(name: Name, place: At) -> dict[str, Any]:
        return _body(deployments.find(name), place)

    @router.delete("/{name}", summary="Forget a deployment; its model stays")
    def delete(name: Name, place: At) -> Response:
        return Response(status_code=200 if deployments.delete(name) else 204)

    return router
