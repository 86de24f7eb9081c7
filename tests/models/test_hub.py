"""A hub id is pulled through the real client, from a hub that this test serves."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from burnish.models.local_models import MANIFEST, damaged_files, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tiny_folder):
    """A hub with one repository, `team/tiny`; `asked` counts the files that were fetched."""
    files = {f.name: f.read_bytes() for f in (tiny_folder / "tiny").iterdir() if f.name != MANIFEST}
    files["pytorch_model.bin"] = b"\x80 pickled"
    asked = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if path.startswith("/api/models/team/tiny/tree/"):
                entries = [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
                self.reply(json.dumps(entries).encode(), body)
            elif path.startswith("/api/models/team/tiny"):
                siblings = [{"rfilename": file} for file in files]
                facts = {"id": "team/tiny", "sha": COMMIT, "siblings": siblings}
                self.reply(json.dumps(facts).encode(), body)
            elif path.startswith("/team/tiny/resolve/") and name in files:
                if body:
                    asked.append(name)
                self.reply(files[name], body)
            else:
                self.reply(b"{}", body, status=404)

        def reply(self, content, body, status=200):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def pulled(name, models, endpoint):
    """`burnish pull` as a user runs it."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "BURNISH_MODELS": str(models)}
    return subprocess.run(
        [sys.executable, "-m", "burnish", "pull", name],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_hub_id_becomes_a_model_without_pickled_weights(hub, tmp_path, monkeypatch):
    endpoint, asked = hub

    done = pulled("team/tiny", tmp_path / "models", endpoint)

    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "models"))
    model = find_model("team/tiny")
    assert model.context_length == 1024 and damaged_files(model.path) == []
    assert not (model.path / "pytorch_model.bin").exists() and "pytorch_model.bin" not in asked
    assert not (model.path / ".cache").exists()
    count = len(asked)
    assert pulled("team/tiny", tmp_path / "models", endpoint).returncode == 0
    assert len(asked) == count, "a model that is here is not fetched again"


def test_a_repository_that_is_not_there_is_told_and_leaves_nothing(hub, tmp_path):
    done = pulled("team/none", tmp_path / "models", hub[0])

    assert done.returncode == 2 and "could not be fetched from the hub" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models" / "team--none").exists()
