"""An OpenAI-compatible server that misbehaves as told: a real one, in threads of its own."""

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class StubUpstream:
    """What it says: `pieces` of a stream, or a `fault` (status, words); and what it was asked.

    `breaks` ends a stream without its end; `hangs` says nothing after the pieces until the client
    has left.
    """

    pieces: tuple = ("my ", "parcel")
    fault: tuple | None = None
    model: str = "tiny"
    reads: int = 0
    means: str | None = None
    breaks: bool = False
    hangs: bool = False
    bodies: list = field(default_factory=list)
    keys: set = field(default_factory=set)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving(stub):
    """The stub, listening on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"data": [{"id": stub.model, "max_model_len": 512}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.keys.add(self.headers.get("authorization"))
            if self.path.endswith("/detokenize"):
                self._send(*((200, {"prompt": stub.means}) if stub.means else (404, {})))
                return
            stub.bodies.append(body)
            count = len(body["prompt"]) + stub.reads
            usage = {"prompt_tokens": count, "completion_tokens": len(stub.pieces)}
            if body["max_tokens"] > 1 and stub.fault:
                self._send(stub.fault[0], {"error": {"message": stub.fault[1]}})
            elif body.get("stream"):
                self._stream(usage)
            else:
                choice = {"text": "".join(stub.pieces), "finish_reason": "stop"}
                self._send(200, {"choices": [choice], "usage": usage})

        def _stream(self, usage):
            self.send_response(200)
            self.end_headers()
            self._event({"choices": [{"text": ""}]})
            for piece in stub.pieces:
                self._event({"choices": [{"text": piece}]})
            if stub.hangs:
                self.connection.recv(1)  # nothing comes but the end
                stub.left.set()
                return
            if stub.breaks:
                return
            self._event({"choices": [{"text": "", "finish_reason": "stop"}]})
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, said):
            with suppress(OSError):
                self.wfile.write(b": alive\n\ndata: " + json.dumps(said).encode() + b"\n\n")
                self.wfile.flush()

        def _send(self, status, said):
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
