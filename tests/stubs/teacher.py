"""A teacher behind an OpenAI-compatible endpoint: a real server in its own thread, which counts."""

import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Stub:
    """How it behaves, and what it has seen: `asked` counts by the text of the question."""

    answer: object = lambda text: "delivery"
    fault: object = lambda text, count: None
    delay: float = 0.0
    usage: dict = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 3})
    asked: Counter = field(default_factory=Counter)
    bodies: list = field(default_factory=list)
    keys: set = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def fails(share, status=500):
    """A fault of this share of the first tries of questions, the same ones each time."""

    def fault(text, count):
        chance = int(hashlib.sha256(f"{text}{count}".encode()).hexdigest()[:8], 16) / 2**32
        return (status, {}) if chance < share else None

    return fault


def question_of(body):
    return body["messages"][-1]["content"]


@contextmanager
def serving(stub):
    """The stub, listening on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = question_of(body)
            with stub.lock:
                stub.asked[text] += 1
                stub.bodies.append(body)
                stub.keys.add(self.headers.get("authorization"))
                count = stub.asked[text]
            time.sleep(stub.delay)
            fault = stub.fault(text, count)
            said = stub.answer(text)
            message = said if isinstance(said, dict) else {"content": said}
            reply = {
                "choices": [{"message": {"role": "assistant", **message},
                             "finish_reason": "stop"}],
                "usage": stub.usage,
            }  # fmt: skip
            status, headers = fault or (200, {})
            content = json.dumps({"error": "no"} if fault else reply).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
