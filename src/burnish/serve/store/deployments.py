"""Deployments as Azure's management API makes them: a name of the client's for a model.

A deployment here costs nothing and is there at once: it is a row, and the model is loaded when it
is first asked. A deployed model cannot be deleted; a deleted deployment leaves its model.
"""

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, Field
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from burnish.serve.auth.tenant import current_organization
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.protocol import ApiModel, StrictApiModel, storable_text
from burnish.serve.store.objects import ObjectNotFound, StoredObjects
from burnish.serve.store.schema import DeletedModel, Job, JobCheckpoint, StoredObject

KIND = "deployment"
_DEPLOYMENTS_PATH = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.CognitiveServices/accounts/{account}/deployments"
)
_ShortText = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable_text)]
DeploymentName = Annotated[str, Path(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]


class InUse(RequestError):
    """A model that cannot be deleted while a deployment answers with it."""

    status = 409


class Sku(ApiModel):
    """How much was bought: kept and shown, no more."""

    name: _ShortText
    capacity: int | None = Field(None, ge=0, le=2**31)


class DeployedModel(StrictApiModel):
    """Which model: by its name, or by the id of a checkpoint."""

    format: _ShortText = "OpenAI"
    name: _ShortText
    version: _ShortText | None = None
    source: None = Field(None, description="There is no other account to take a model from.")
    sourceAccount: None = Field(None, description="As `source`.")


class DeploymentProperties(ApiModel):
    """What a deployment consists of."""

    model: DeployedModel


class CreateDeployment(ApiModel):
    """PUT .../deployments/{name}."""

    sku: Sku | None = None
    properties: DeploymentProperties


class AzureLocation:
    """Where Azure keeps it. There is one account here, whatever the client calls it."""

    def __init__(self, subscription: str, group: str, account: str) -> None:
        self.folder = _DEPLOYMENTS_PATH.format(
            subscription=subscription, group=group, account=account
        )


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments of an organisation."""

    objects: StoredObjects

    def put(self, name: str, request: CreateDeployment) -> tuple[StoredObject, bool]:
        """Make one, or let it answer with another model; and whether it is new.

        Raises ModelNotFound for a model that was deleted in the meantime.
        """
        try:
            return self._put(name, request)
        except IntegrityError:  # somebody else has made it at the same moment
            return self._put(name, request)

    def _put(self, name: str, request: CreateDeployment) -> tuple[StoredObject, bool]:
        body = {"name": name, **request.model_dump(exclude_none=True)}
        model = self.resolve_checkpoint(request.properties.model.name)
        body["properties"]["model"]["name"] = model
        now = int(time.time())
        with self.objects.store.writing() as session:
            _lock_model(session, model)
            if session.get(DeletedModel, model):
                said = f"The model `{model}` does not exist or you do not have access to it."
                raise ModelNotFound(said, "model", "model_not_found")
            kept = session.scalar(
                select(StoredObject)
                .where(StoredObject.id == _deployment_id(name))
                .with_for_update()
            )
            if kept is None:
                kept = StoredObject(
                    id=_deployment_id(name), kind=KIND, created_at=now, status="ready", body=body
                )
                session.add(kept)
                return kept, True
            kept.body = body
            return kept, False

    def find(self, name: str) -> StoredObject:
        """The deployment of that name. Raises NoSuchRecord."""
        try:
            return self.objects.find(KIND, _deployment_id(name))
        except ObjectNotFound as error:
            raise ObjectNotFound(KIND, name) from error

    def delete(self, name: str) -> bool:
        """Forget a deployment; whether there was one. Its model stays."""
        try:
            self.objects.delete(KIND, _deployment_id(name))
        except ObjectNotFound:
            return False
        return True

    def model_for(self, name: str) -> str:
        """The model behind a deployment's name; any other name is a model's already."""
        try:
            return str(self.find(name).body["properties"]["model"]["name"])
        except ObjectNotFound:
            return name

    def delete_model(self, model: str) -> None:
        """Delete a model from all lists. Raises Deployed while a deployment answers with it."""
        with self.objects.store.writing() as session:
            _lock_model(session, model)
            for one in session.scalars(select(StoredObject).where(StoredObject.kind == KIND)):
                if one.body["properties"]["model"]["name"] == model:
                    name = one.body["name"]
                    said = f"{model} is deployed as `{name}`: delete the deployment first."
                    raise InUse(said, "model", "model_deployed")
            session.merge(DeletedModel(name=model))

    def resolve_checkpoint(self, name: str) -> str:
        """A model's name, where it may be the id of a checkpoint (`ftckpt_...`)."""
        with self.objects.store.reading() as session:
            found = session.scalar(
                select(JobCheckpoint.name)
                .join(Job, Job.id == JobCheckpoint.job)
                .where(JobCheckpoint.id == name)
            )
        return found or name


def _lock_model(session: Session, model: str) -> None:
    """Until the transaction ends, nobody else deploys or deletes what the model's job has made.

    SQLite has one writer at a time anyway.
    """
    of_step = select(JobCheckpoint.job).where(JobCheckpoint.name == model)
    own = or_(Job.fine_tuned_model == model, Job.id.in_(of_step))
    session.scalars(select(Job.id).where(own).with_for_update()).all()


def _deployment_id(name: str) -> str:
    """A deployment's id: the same for the same name of the same organisation."""
    whole = f"{current_organization()}/{name}".encode("utf-8", "replace")
    return f"deployment-{sha256(whole).hexdigest()[:24]}"


def _deployment_body(record: StoredObject, place: AzureLocation) -> dict[str, Any]:
    """A deployment as Azure's clients read it."""
    kept = record.body
    model = {"format": "OpenAI", "version": "1", **kept["properties"]["model"]}
    return {
        "id": f"{place.folder}/{kept['name']}",
        "name": kept["name"],
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "sku": kept.get("sku", {"name": "Standard", "capacity": 1}),
        "properties": {"model": model, "provisioningState": "Succeeded"},
    }
