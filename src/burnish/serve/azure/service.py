"""Create and describe deployments where `az` and Azure's tutorial expect them."""

from burnish.serve.azure.protocol import (
    CreateDeployment,
    DeployedModelObject,
    DeploymentObject,
    DeploymentPropertiesObject,
)
from burnish.serve.inference.service import InferenceService
from burnish.serve.store.deployments import Deployments
from burnish.serve.store.schema import StoredObject

DEPLOYMENTS_PATH = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.CognitiveServices/accounts/{account}/deployments"
)


class AzureLocation:
    """The path of an account's deployments. Every account a client names is the same one."""

    def __init__(self, subscription: str, group: str, account: str) -> None:
        self.folder = DEPLOYMENTS_PATH.format(
            subscription=subscription, group=group, account=account
        )


def put_deployment(
    inference: InferenceService, deployments: Deployments, name: str, request: CreateDeployment
) -> tuple[StoredObject, bool]:
    """Create or change a deployment; and whether it is new. Raises ModelNotFound."""
    model = deployments.resolve_checkpoint(request.properties.model.name)
    inference.describe_model(model)
    return deployments.put(name, model, request.model_dump(exclude_none=True))


def deployment_object(deployment: StoredObject, location: AzureLocation) -> DeploymentObject:
    """Describe a deployment."""
    body = deployment.body
    model = body["properties"]["model"]
    return DeploymentObject(
        id=f"{location.folder}/{body['name']}",
        name=body["name"],
        sku=body.get("sku", {"name": "Standard", "capacity": 1}),
        properties=DeploymentPropertiesObject(
            model=DeployedModelObject(
                format=model.get("format", "OpenAI"),
                name=model["name"],
                version=model.get("version", "1"),
            )
        ),
    )
