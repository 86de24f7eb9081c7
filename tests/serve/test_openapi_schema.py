"""Whatever the published schema allows, and much that it doesn't, never breaks the server."""

import contextlib
import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from burnish.serve.inference.protocol import ChatRequest, CompletionRequest
from burnish.serve.inference.unsupported import UNSUPPORTED_FIELDS
from burnish.serve.middleware.guard import MAX_BYTES
from tests.fixtures.server import KEY

AUTH = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "red"}], "max_tokens": 2}
QUIET = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    {*ChatRequest.model_fields, *CompletionRequest.model_fields, *UNSUPPORTED_FIELDS} - {"model"}
)


def check_shape(response):
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_made_from_the_schema_breaks_the_server(house, mode):
    schema = schemathesis.openapi.from_url(f"{house.address}/openapi.json", headers=AUTH)
    tried = set()

    def attempt(operation):
        @settings(QUIET, max_examples=24 if "completions" in operation.path else 5)
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case):
            assume(len(repr(case.body)) < MAX_BYTES)  # the guard answers those before any route
            if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
                case.body |= {"model": "tiny", "max_tokens": 1, "n": 1}
                case.body.pop("max_completion_tokens", None)
                if len(case.body) % 2:  # half of them without what is mostly refused
                    case.body = {k: v for k, v in case.body.items() if k not in UNSUPPORTED_FIELDS}
            response = case.call(headers=AUTH)
            tried.add((operation.path, response.status_code))
            check_shape(response)

        with contextlib.suppress(Unsatisfiable):  # an operation without input cannot be negated
            call()

    for result in schema.get_all_operations():
        attempt(result.ok())

    assert {path for path, _ in tried} >= {"/v1/chat/completions", "/v1/completions"}
    if mode is GenerationMode.POSITIVE:
        assert ("/v1/completions", 200) in tried, "some requests get as far as the model"


@QUIET
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_no_value_of_any_field_breaks_the_server(house, path, field, value):
    body = json.dumps({**CHAT, "prompt": "red", "temperature": 0, field: value})

    response = httpx.post(
        f"{house.address}/v1/{path}",
        content=body,
        headers={**AUTH, "content-type": "application/json"},
        timeout=60,
    )

    check_shape(response)
