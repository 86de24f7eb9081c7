"""Deployments: names that clients give to models.

A deployment costs nothing and exists at once: it is a row, and the model is loaded on first use. A
deployed model cannot be deleted; deleting a deployment leaves its model.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from burnish.serve.auth.tenant import current_organization
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.store.objects import ObjectNotFound, StoredObjects
from burnish.serve.store.quota import check_storage_quota
from burnish.serve.store.schema import DeletedModel, Job, JobCheckpoint, StoredObject

_KIND = "deployment"


class InUse(RequestError):
    """A model that cannot be deleted while a deployment points to it."""

    status = 409


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments of an organization."""

    objects: StoredObjects

    def put(self, name: str, model: str, settings: Mapping[str, Any]) -> tuple[StoredObject, bool]:
        """Create a deployment of `model`, or point an existing one to it; and whether it is new.

        `settings` is kept with it: `sku` and `properties` as the client wrote them. Raises
        ModelNotFound for a model that was deleted meanwhile.
        """
        try:
            return self._put(name, model, settings)
        except IntegrityError:  # a concurrent request has created it
            return self._put(name, model, settings)

    def _put(self, name: str, model: str, settings: Mapping[str, Any]) -> tuple[StoredObject, bool]:
        properties = settings["properties"]
        body = {
            **settings,
            "name": name,
            "properties": {**properties, "model": {**properties["model"], "name": model}},
        }
        now = int(time.time())
        with self.objects.store.writing() as session:
            _lock_model(session, model)
            if session.get(DeletedModel, model):
                message = f"The model `{model}` does not exist or you do not have access to it."
                raise ModelNotFound(message, "model", "model_not_found")
            deployment = session.scalar(
                select(StoredObject)
                .where(StoredObject.id == _deployment_id(name))
                .with_for_update()
            )
            check_storage_quota(session, len(json.dumps(body)))
            if deployment is None:
                deployment = StoredObject(
                    id=_deployment_id(name), kind=_KIND, created_at=now, status="ready", body=body
                )
                session.add(deployment)
                return deployment, True
            deployment.body = body
            return deployment, False

    def all(self) -> Sequence[StoredObject]:
        """Return all deployments, oldest first."""
        return self.objects.all(_KIND)

    def find(self, name: str) -> StoredObject:
        """Find a deployment by its name. Raises ObjectNotFound."""
        try:
            return self.objects.find(_KIND, _deployment_id(name))
        except ObjectNotFound as error:
            raise ObjectNotFound(_KIND, name) from error

    def delete(self, name: str) -> bool:
        """Delete a deployment, not its model. Returns whether there was one."""
        try:
            self.objects.delete(_KIND, _deployment_id(name))
        except ObjectNotFound:
            return False
        return True

    def model_for(self, name: str) -> str:
        """Return the model of the deployment `name`; any other name is a model's already."""
        try:
            return str(self.find(name).body["properties"]["model"]["name"])
        except ObjectNotFound:
            return name

    def delete_model(self, model: str) -> None:
        """Delete a model from all lists. Raises InUse while a deployment points to it."""
        with self.objects.store.writing() as session:
            _lock_model(session, model)
            deployments = select(StoredObject).where(StoredObject.kind == _KIND)
            for deployment in session.scalars(deployments):
                if deployment.body["properties"]["model"]["name"] == model:
                    name = deployment.body["name"]
                    message = f"{model} is deployed as `{name}`: delete the deployment first."
                    raise InUse(message, "model", "model_deployed")
            session.merge(DeletedModel(name=model))

    def resolve_checkpoint(self, name: str) -> str:
        """Return the model's name for the id of a checkpoint (`ftckpt_...`); else `name`."""
        with self.objects.store.reading() as session:
            model = session.scalar(
                select(JobCheckpoint.name)
                .join(Job, Job.id == JobCheckpoint.job)
                .where(JobCheckpoint.id == name)
            )
        return model or name


def _lock_model(session: Session, model: str) -> None:
    """Keep other transactions from deploying or deleting a fine-tuned model.

    Locks the row of the model's job; SQLite has one writer at a time anyway.
    """
    checkpoint_jobs = select(JobCheckpoint.job).where(JobCheckpoint.name == model)
    is_of_model = or_(Job.fine_tuned_model == model, Job.id.in_(checkpoint_jobs))
    session.scalars(select(Job.id).where(is_of_model).with_for_update()).all()


def _deployment_id(name: str) -> str:
    """Return the id of a deployment, derived from the organization and the name."""
    key = f"{current_organization()}/{name}".encode("utf-8", "replace")
    return f"deployment-{sha256(key).hexdigest()[:24]}"
