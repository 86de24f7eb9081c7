"""Deployments as `az` and Azure's tutorial make them, asked by the unmodified client."""

import httpx
import openai
import pytest

from tests.fixtures.server import KEY
from tests.serve.inference.test_openai_client import ask, said

ACCOUNT = (
    "/subscriptions/s-1/resourceGroups/group/providers/Microsoft.CognitiveServices/accounts/mine"
)


def wanted(model, **more):
    """The body of Azure's tutorial."""
    chosen = {"format": "OpenAI", "name": model, "version": "1", **more}
    return {"sku": {"name": "standard", "capacity": 1}, "properties": {"model": chosen}}


class Management:
    """Azure's management API, as the tutorial calls it with `requests`."""

    def __init__(self, address, key=KEY):
        self.http = httpx.Client(
            base_url=f"{address}{ACCOUNT}",
            params={"api-version": "2023-05-01"},
            headers={"authorization": f"Bearer {key}"},
        )

    def put(self, name, model, **more):
        return self.http.put(f"/deployments/{name}", json=wanted(model, **more))

    def get(self, name):
        return self.http.get(f"/deployments/{name}")

    def names(self):
        return [one["name"] for one in self.http.get("/deployments").json()["value"]]

    def delete(self, name):
        return self.http.delete(f"/deployments/{name}")


@pytest.fixture
def management(house):
    return Management(house.address)


@pytest.fixture
def azure(house):
    return openai.AzureOpenAI(
        azure_endpoint=house.address, api_version="2024-06-01", api_key=KEY, max_retries=0
    )


def test_a_deployment_answers_is_turned_to_another_model_and_deleted(house, management, azure):
    (one, cry), (other, other_cry) = house.cries.items()

    made = management.put("desk", one)
    first = ask(azure, "desk")
    changed = management.put("desk", other)
    second = ask(azure, "desk")

    assert made.status_code == 201 and changed.status_code == 200
    assert made.json()["id"] == f"{ACCOUNT}/deployments/desk"
    assert made.json()["properties"] == {
        "model": {"format": "OpenAI", "name": one, "version": "1"},
        "provisioningState": "Succeeded",
    }
    assert (said(first), said(second)) == (cry, other_cry) and second.model == other
    assert management.get("desk").json() == changed.json() and "desk" in management.names()
    streamed = "".join(c.choices[0].delta.content or "" for c in ask(azure, "desk", stream=True))
    assert streamed == other_cry
    assert azure.responses.create(model="desk", input="a").output_text == other_cry

    assert management.delete("desk").status_code == 200
    assert management.delete("desk").status_code == 204 and management.get("desk").is_client_error
    assert said(ask(azure, other)) == other_cry, "the model stays"
    with pytest.raises(openai.NotFoundError):
        ask(azure, "desk")


def test_a_deployment_may_have_the_name_of_a_model_and_goes_first(house, management, azure):
    name, cry = next(iter(house.cries.items()))
    management.put("tiny", name)
    try:
        assert said(ask(azure, "tiny")) == cry
    finally:
        management.delete("tiny")
    assert said(ask(azure, "tiny")) != cry


@pytest.mark.parametrize(
    ("name", "model", "more", "status", "param"),
    [
        ("desk", "gpt-9", {}, 404, "model"),
        ("desk", "tiny", {"source": "/subscriptions/a"}, 400, "properties.model.source"),
        ("desk", "", {}, 400, "properties.model.name"),
        ("a b", "tiny", {}, 400, "name"),
    ],
)
def test_what_cannot_be_deployed_is_refused_by_its_name(
    management, name, model, more, status, param
):
    answer = management.put(name, model, **more)

    assert answer.status_code == status and answer.json()["error"]["param"] == param
    assert name not in management.names()


def test_a_key_deploys_only_what_it_may_use(house):
    from burnish.serve.auth.keys import ApiKey, ApiKeys

    mine, other = house.cries
    keys = ApiKeys(house.home / "keys.json")
    value = keys.add(ApiKey("deployer", "", models=[mine], routes=["deployments"]))
    try:
        bound = Management(house.address, value)
        assert bound.put("own", other).status_code == 404
        assert bound.put("own", mine).status_code == 201
        assert bound.delete("own").status_code == 200
        with pytest.raises(openai.PermissionDeniedError):
            ask(openai.OpenAI(base_url=f"{house.address}/v1", api_key=value), mine)
    finally:
        keys.remove("deployer")
