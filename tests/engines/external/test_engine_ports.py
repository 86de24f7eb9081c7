"""Nobody but who started an engine's process is answered on its port, and nothing leaves here."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.llamacpp import LlamaCppEngine
from burnish.engines.external.server import make_handler
from burnish.engines.external.slots import SlotPool
from burnish.engines.remote.http import is_loopback
from burnish.export.formats.gguf import write_gguf
from tests.engines.local.test_engine import QUESTIONS, ask

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(url, headers, content=b"{}"):
    try:
        with DIRECT.open(urllib.request.Request(url, content, headers), timeout=30) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


@pytest.fixture
def llama(tiny_model, tiny_tokenizer, tmp_path):
    """A tiny model in llama.cpp's own process."""
    write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer, "f32", "tiny")
    engine = LlamaCppEngine(
        tmp_path / "tiny.gguf", tiny_tokenizer, "tiny", None, LaunchOptions(threads=1)
    )
    yield engine
    engine.close()


@pytest.fixture
def port():
    """A port of our own small server, whose key is `secret`."""
    server = HTTPServer(("127.0.0.1", 0), make_handler({"/next": lambda asked: asked}, "secret"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_llama_cpp_answers_no_web_page(llama):
    url = llama.child.url
    page = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    body = json.dumps({"prompt": "a", "n_predict": 1}).encode()

    for path in ("/completion", "/slots", "/props", "/tokenize"):
        status, headers = status_of(url + path, page, body)
        assert status in (401, 404, 501), path
        allowed = headers.get("Access-Control-Allow-Origin", "")
        assert allowed not in ("*", "https://evil.example"), path
        assert headers.get("Access-Control-Allow-Credentials") != "true"
    wrong = {**page, "Authorization": "Bearer wrong"}
    assert status_of(url + "/completion", wrong, body)[0] == 401
    assert llama.answer([ask(QUESTIONS[0])])[0].tokens_out > 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer secret", "Host": "evil.example:80"}, 400),
        ({"Authorization": "Bearer secret", "Content-Length": "999999999999"}, 411),
        ({"Authorization": "Bearer secret", "Content-Length": "99999999999"}, 413),
        ({"Authorization": "Bearer secret"}, 200),
    ],
)
def test_our_own_engine_server_answers_its_key_only(port, headers, status):
    assert status_of(f"http://127.0.0.1:{port}/next", headers)[0] == status


def test_what_a_child_is_asked_goes_through_no_proxy(llama, monkeypatch):
    heard = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(self.path)
            self.send_error(500)

    proxy = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("no_proxy", "")

    answer = llama.answer([ask(QUESTIONS[0])])[0]

    proxy.shutdown()
    proxy.server_close()
    assert answer.tokens_out > 0 and heard == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000", True),
        ("http://localhost/v1", True),
        ("http://localhost.evil.example", False),
        ("https://api.example/v1?host=127.0.0.1", False),
    ],
)
def test_servers_on_this_machine_are_known(url, local):
    assert is_loopback(url) == local


def test_a_prompt_of_another_owner_is_read_anew(llama):
    prompt = ask(QUESTIONS[0])

    def reused(owner):
        ids = llama.build_request(prompt).ids
        return llama.complete(ids, owner, n_predict=1)["timings"].get("cache_n", 0)

    assert reused("mine") == 0
    assert reused("mine") > 0, "one's own beginning is reused"
    assert reused("other") == 0
    assert reused("mine") == 0


def test_slots_keep_to_their_owners_while_they_can():
    pool = SlotPool(2)

    def once(owner):
        with pool.take(owner) as taken:
            return taken

    assert once("a") == (0, False)
    assert once("b") == (1, False)
    assert (once("a"), once("b")) == ((0, True), (1, True))
    with pool.take("a") as (number, _):
        assert number == 0
        assert once("a") == (1, False), "b's slot is taken over, and read anew"
    assert once("b") == (0, False)
