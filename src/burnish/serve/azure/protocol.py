"""Deployments as clients of Azure's management API write and read them."""

from typing import Annotated, Literal

from fastapi import Path
from pydantic import AfterValidator, ConfigDict, Field

from burnish.serve.protocol import ApiModel, ApiObject, StrictApiModel, storable_text

_ShortText = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable_text)]
DeploymentName = Annotated[str, Path(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]


class Sku(ApiModel):
    """The capacity that was bought: kept and shown, without effect."""

    model_config = ConfigDict(extra="ignore")

    name: _ShortText
    capacity: int | None = Field(None, ge=0, le=2**31)


class DeployedModel(StrictApiModel):
    """The model of a deployment, by its name or by the id of a checkpoint."""

    format: _ShortText = "OpenAI"
    name: _ShortText
    version: _ShortText | None = None
    source: None = Field(None, description="There is no other account to take a model from.")
    sourceAccount: None = Field(None, description="As `source`.")


class DeploymentProperties(ApiModel):
    """The properties of a deployment. Unknown ones are not kept."""

    model_config = ConfigDict(extra="ignore")

    model: DeployedModel


class CreateDeployment(ApiModel):
    """PUT .../deployments/{name}."""

    model_config = ConfigDict(extra="ignore")

    sku: Sku | None = None
    properties: DeploymentProperties


class DeployedModelObject(ApiObject):
    """The model of a deployment."""

    format: str
    name: str
    version: str


class DeploymentPropertiesObject(ApiObject):
    """The properties of a deployment; it is ready as soon as it exists."""

    model: DeployedModelObject
    provisioningState: Literal["Succeeded"] = "Succeeded"


class DeploymentObject(ApiObject):
    """A deployment; `sku` as the client wrote it."""

    id: str
    name: str
    type: Literal["Microsoft.CognitiveServices/accounts/deployments"] = (
        "Microsoft.CognitiveServices/accounts/deployments"
    )
    sku: dict[str, object]
    properties: DeploymentPropertiesObject


class DeploymentList(ApiObject):
    """The deployments of an account."""

    value: list[DeploymentObject]
