"""What the server refuses, always in the one shape that clients read."""

import asyncio
import json
import socket
import tracemalloc

import httpx
import pytest

from burnish.serve.middleware.guard import MAX_BYTES, max_body_bytes
from tests.fixtures.server import KEY

JSON = {"content-type": "application/json"}
AUTH = {"authorization": f"Bearer {KEY}"}
GOOD = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "red"}],
    "max_tokens": 2,
    "temperature": 0,
}


@pytest.fixture
def http(house):
    with httpx.Client(base_url=house.address, headers=AUTH, timeout=30) as client:
        yield client


def error(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and "Traceback" not in response.text
    return body["error"]


def test_a_key_is_asked_for_everywhere_but_for_health(house):
    with httpx.Client(base_url=house.address) as nobody:
        assert nobody.get("/healthz").json() == {"status": "ok"}
        for path in ("/v1/models", "/openapi.json", "/nowhere"):
            assert error(nobody.get(path), 401)["code"] == "invalid_api_key"
        wrong = {"authorization": "Bearer bk-wrong"}
        assert error(nobody.post("/v1/chat/completions", json=GOOD, headers=wrong), 401)
        assert nobody.get("/v1/models", headers={"api-key": KEY}).status_code == 200


def test_a_page_under_another_name_cannot_reach_the_server(http):
    for host in ("evil.example", "localhost.evil.example:80", ""):
        assert error(http.get("/v1/models", headers={"host": host}), 400)["code"] == "invalid_host"
    for host in ("localhost:1234", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert http.get("/v1/models", headers={"host": host}).status_code == 200


def test_unknown_paths_and_methods_have_the_same_shape(http):
    assert "/v1/nowhere" in error(http.get("/v1/nowhere"), 404)["message"]
    error(http.get("/"), 404)
    error(http.get("/v1/chat/completions"), 405)
    error(http.patch("/v1/models/tiny"), 405)
    error(http.get("/v1/models/"), 404)


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(http):
    large = b'{"model": "' + b"x" * MAX_BYTES + b'"}'

    def chunks():
        for _ in range(9):
            yield b" " * (MAX_BYTES // 8)

    error(http.post("/v1/chat/completions", content=large), 413)
    error(http.post("/v1/chat/completions", content=chunks()), 413)


@pytest.mark.parametrize("prefix", ["/v1", "/openai", "/openai/v1"])
def test_only_where_files_are_uploaded_may_a_body_be_larger(prefix):
    """Elsewhere it is JSON, which is held in memory."""
    for path in (
        "/vector_stores/vs_1/files",
        "/models/a/files",
        "/nowhere/parts",
        "/files/a/files",
    ):
        assert max_body_bytes(prefix + path) == MAX_BYTES
    assert max_body_bytes(f"{prefix}/files") > 512 * 2**20
    assert max_body_bytes(f"{prefix}/uploads/upload_1/parts") > 64 * 2**20


def test_what_anybody_may_send_is_counted_as_one_and_noted_in_short(http, house):
    http.get("/v1/" + "x" * 3000)
    asyncio.run(_odd_method(house.app))

    figures = http.get("/metrics").text
    last = (house.home / "audit.jsonl").read_text().splitlines()[-2:]

    assert "MADEUP" not in figures and 'method="?"' in figures
    assert all(len(json.loads(line)["path"]) <= 500 for line in last)


async def _odd_method(app):
    """A method of no standard, as a server that lets it through would hand it on."""

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        pass

    scope = {"type": "http", "method": "MADEUP", "path": "/v1/models", "raw_path": b"/v1/models",
             "query_string": b"", "headers": [(b"host", b"localhost")]}  # fmt: skip
    await app(scope, receive, send)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"model": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_broken_body_is_a_400(http, body):
    headers = {"content-type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/completions"):
        error(http.post(path, content=body, headers=headers), 400)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"temperature": True},
        {"max_tokens": 10**400},
        {"max_tokens": 1.5},
        {"seed": 2**63},
        {"stop": [""]},
        {"stop": 5},
        {"stream": "yes"},
        {"stream_options": []},
        {"tools": [{"a": "b"}]},
        {"tools": 7},
        {"logit_bias": []},
        {"response_format": "text"},
        {"guided_choice": []},
        {"messages": [{"role": "robot", "content": "a"}]},
        {"messages": [{"role": "user"}]},
        {"messages": ["a"]},
        {"model": None},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
    ],
    ids=repr,
)
def test_a_wrong_value_is_a_400_that_names_it(http, change):
    body = json.dumps({**GOOD, **change})

    headers = {"content-type": "application/json"}
    found = error(http.post("/v1/chat/completions", content=body, headers=headers), 400)

    assert found["param"].split(".")[0] == next(iter(change))


@pytest.mark.parametrize(
    "prompt",
    ["", [], [[]], [10**9], [-1], [1.5], ["a", 1], None, {"a": 1}, [["a"]], [True]],
    ids=repr,
)
def test_a_wrong_prompt_is_a_400(http, prompt):
    found = error(http.post("/v1/completions", json={"model": "tiny", "prompt": prompt}), 400)

    assert found["param"].split(".")[0] == "prompt"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -(2**63), "temperature": 1},
        {"temperature": 1e-300},
        {"temperature": 2, "top_p": 0},
        {"top_p": 1e-300, "temperature": 1},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": "\x00\ufffd\U0001f600 <|im_end|>"}]},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "tool", "content": "a", "tool_call_id": "x"}]},
        {"stop": []},
        {"stop": None, "n": None, "seed": None, "logit_bias": None, "tools": None},
        {"max_tokens": 2**31 - 1, "stop": " "},
    ],
    ids=repr,
)
def test_an_odd_but_right_value_is_answered(http, change):
    response = http.post("/v1/chat/completions", json={**GOOD, **change})

    assert response.status_code == 200, response.text


def test_an_answer_says_which_request_it_is_for_and_how_long_it_took(http):
    mine = http.post("/v1/chat/completions", json=GOOD, headers={"x-request-id": "mine-1"})
    forged = http.get("/v1/models", headers={"x-request-id": "a b"})

    assert mine.headers["x-request-id"] == "mine-1"
    assert int(mine.headers["openai-processing-ms"]) >= 0
    assert forged.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**GOOD, "unknown": {"deep": ["\ud800"]}}),
        ("/v1/chat/completions", {**GOOD, "metadata": {"\udfff": "a"}}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "user": "\ud83d"}),
        ("/v1/embeddings", {"model": "tiny", "input": "\ud800"}),
    ],
)
def test_half_of_a_character_anywhere_in_a_body_is_a_400(http, path, body):
    assert (
        "surrogate"
        in error(http.post(path, content=json.dumps(body), headers=JSON), 400)["message"]
    )


def test_a_whole_character_in_two_escapes_is_text(http):
    body = json.dumps({**GOOD, "user": "\U0001f600", "unknown": "\\ud800"})
    assert "\\ud83d\\ude00" in body

    assert http.post("/v1/chat/completions", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "content",
    [[{}] * 1_000_000, [{}] * 90_000, {"a": [[]] * 300_000}, {str(n): n for n in range(200_000)}],
)
def test_a_body_of_many_small_things_costs_no_more_than_its_bytes(http, content):
    messages = [{"role": "user", "content": content}]
    body = json.dumps({**GOOD, "messages": messages, "logit_bias": content}).encode()
    tracemalloc.start()
    assert (
        len(error(http.post("/v1/chat/completions", content=body, headers=JSON), 400)["message"])
        < 500
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(body)


def test_a_body_with_two_ends_is_refused_and_its_connection_closed(house):
    host, port = house.address.removeprefix("http://").split(":")
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
        "0\r\n\r\nGET /v1/models HTTP/1.1\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(request.encode())
        answer = b""
        while received := client.recv(4096):
            answer += received

    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"guided_choice": ["x" * 999 + str(n % 10) for n in range(40)]}, "value_error"),
        ({"messages": [{"role": "user", "content": "a " * 400_000}]}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2000}]}, None),
    ],
)
def test_what_would_take_long_is_refused_before_it_is_read(http, change, code):
    found = error(http.post("/v1/chat/completions", json={**GOOD, **change}), 400)

    assert code is None or found["code"] == code
