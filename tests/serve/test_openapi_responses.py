"""`/openapi.json` says what every route answers, and each route is a function of its module."""

import importlib
import json
from pathlib import Path

import httpx
import jsonschema
import pytest
from fastapi import APIRouter

import burnish.serve
from burnish.serve.protocol import ApiObject
from burnish.serve.responses.protocol import ResponseObject
from tests.fixtures.server import KEY

AUTH = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "red"}], "max_tokens": 2}
STREAMS = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
DOWNLOADS = {"/v1/files/{name}/content": "application/octet-stream", "/metrics": "text/plain"}


@pytest.fixture(scope="module")
def document(house):
    return httpx.get(f"{house.address}/openapi.json", headers=AUTH).json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation["responses"]


def successes(responses):
    return [response for status, response in responses.items() if status in ("200", "201")]


def test_every_route_documents_the_body_of_its_answer(document):
    without = [
        (method, path.rpartition("/")[2])
        for path, method, responses in operations(document)
        if not all(
            content["schema"]
            for response in successes(responses)
            for content in response.get("content", {"": {"schema": None}}).values()
        )
    ]

    assert without == [("delete", "{name}")], "a deleted deployment alone is answered without body"
    assert sum(1 for _ in operations(document)) > 50


def test_every_json_answer_is_a_named_record_or_a_choice_of_them(document):
    for path, method, responses in operations(document):
        for response in successes(responses):
            schema = response.get("content", {}).get("application/json", {}).get("schema")
            if schema:
                options = schema.get("anyOf", [schema])
                assert all("$ref" in option for option in options), (method, path)


def test_streams_and_downloads_are_documented_as_such(document):
    streams = {
        path
        for path, _, responses in operations(document)
        if "text/event-stream" in responses["200"].get("content", {})
    }

    assert streams == STREAMS
    for path, media_type in DOWNLOADS.items():
        assert set(document["paths"][path]["get"]["responses"]["200"]["content"]) == {media_type}


def test_every_route_documents_the_shape_of_errors(document):
    for path, method, responses in operations(document):
        for status in ("4XX", "5XX"):
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/ErrorObject"), (method, path)
        assert "422" not in responses, "what fails validation is answered with 400"


def test_every_schema_that_the_document_refers_to_is_in_it(document):
    references = json.dumps(document).split('"#/components/schemas/')[1:]

    assert {name.partition('"')[0] for name in references} <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/v1/models", None),
        ("post", "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 1}),
        ("post", "/v1/completions", {"model": "tiny", "prompt": "red", "logprobs": 1}),
        ("post", "/v1/responses", {"model": "tiny", "input": "red", "user": "unknown field"}),
        ("get", "/v1/files", None),
        ("get", "/readyz", None),
    ],
)
def test_an_answer_is_what_the_document_says(house, document, method, path, body):
    schema = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
    answer = httpx.request(method, f"{house.address}{path}", json=body, headers=AUTH, timeout=60)

    whole = {**schema["schema"], "components": document["components"]}
    jsonschema.validate(answer.json(), whole)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "logprobs": True}),
        ("/v1/completions", {"model": "tiny", "prompt": "red"}),
        ("/v1/responses", {"model": "tiny", "input": "red"}),
    ],
)
def test_the_events_of_a_stream_are_what_the_document_says(house, document, path, body):
    responses = document["paths"][path]["post"]["responses"]
    item = responses["200"]["content"]["text/event-stream"]["itemSchema"]
    schema = item["properties"]["data"]["contentSchema"]
    answer = httpx.post(
        f"{house.address}{path}", json={**body, "stream": True}, headers=AUTH, timeout=60
    )

    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    assert len(lines) > 1
    for line in lines:
        jsonschema.validate(json.loads(line), {**schema, "components": document["components"]})


ROUTERS = sorted(Path(burnish.serve.__file__).parent.glob("*/router.py"))


@pytest.mark.parametrize("file", ROUTERS, ids=lambda file: file.parent.name)
def test_every_handler_can_be_imported_by_its_name(file):
    module = importlib.import_module(f"burnish.serve.{file.parent.name}.router")
    routers = [value for value in vars(module).values() if isinstance(value, APIRouter)]
    routes = [route for router in routers for route in router.routes]

    assert routes
    for route in routes:
        assert getattr(module, route.endpoint.__name__) is route.endpoint, route.path


def records(kind=ApiObject):
    for inner in kind.__subclasses__():
        yield inner
        yield from records(inner)


def test_no_record_of_an_answer_takes_a_key_that_it_does_not_name(house):
    kinds = set(records())

    assert len(kinds) > 40
    open_kinds = {kind for kind in kinds if kind.model_config["extra"] != "forbid"}
    assert open_kinds == {ResponseObject}, "it repeats what the client has sent"
