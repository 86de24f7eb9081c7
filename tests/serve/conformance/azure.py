"""Checks of Azure's deployments: made over its management API, asked with the client."""

import openai

from tests.serve.azure.test_router import Management
from tests.serve.conformance.chat import ask
from tests.serve.conformance.registry import check, refused

DEPLOYMENTS = "Deployments (Azure)"
AZURE = ("AzureOpenAI",)


@check(DEPLOYMENTS, "a tuned model is deployed (201) and asked by the deployment's name",
       "the same; it is there at once, costs nothing and never lapses", AZURE)  # fmt: skip
def a_tuned_model_is_deployed(c, w):
    management = Management(w.root, w.key)
    assert management.put("desk-ft", w.tuned).status_code == 201
    assert ask(c, model="desk-ft").choices == ask(c, model=w.tuned).choices
    assert management.delete("desk-ft").status_code == 200


@check(DEPLOYMENTS, "a checkpoint is deployed by its id", clients=AZURE)
def a_checkpoint_is_deployed(c, w):
    management, oldest = Management(w.root, w.key), c.fine_tuning.jobs.checkpoints.list(w.job.id)
    way = list(oldest)[-1]
    made = management.put("desk-step", way.id)
    assert made.json()["properties"]["model"]["name"] == way.fine_tuned_model_checkpoint
    same = ask(c, model=way.fine_tuned_model_checkpoint)
    assert ask(c, model="desk-step").choices == same.choices
    management.delete("desk-step")


@check(DEPLOYMENTS, "a deployed model cannot be deleted: 409", clients=AZURE)
def a_deployed_model_stays(c, w):
    management = Management(w.root, w.key)
    management.put("desk-kept", w.tuned)
    bad = refused(openai.ConflictError, lambda: c.models.delete(w.tuned))
    assert "desk-kept" in bad.message
    management.delete("desk-kept")


@check(DEPLOYMENTS, "a deleted deployment leaves the model, which can be deployed again",
       clients=AZURE)  # fmt: skip
def a_model_is_deployed_again(c, w):
    management = Management(w.root, w.key)
    for _ in range(2):
        assert management.put("desk-again", w.tuned).status_code == 201
        assert management.delete("desk-again").status_code == 200
    assert ask(c, model=w.tuned).choices
    refused(openai.NotFoundError, lambda: ask(c, model="desk-again"))
