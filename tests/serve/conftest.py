"""A real server on a free port, with a base and two adapters that nobody can mistake."""

import contextlib
import socket
import threading
from types import SimpleNamespace

import openai
import pytest
import uvicorn

from tests.canaries import two_canaries


@pytest.fixture(scope="session")
def canary_home(tiny_folder, tmp_path_factory):
    """A workspace with two runs, and what each answers to everything."""
    from burnish.models.local import open_model

    home = tmp_path_factory.mktemp("home")
    return home, two_canaries(open_model(tiny_folder / "tiny"), home)


KEY = "bk-test-key"


@contextlib.contextmanager
def running(app):
    """A real server in a thread, on a free port; yields its address without the path."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def house(canary_home):
    """The address of a server with a base (twice: by its name and an alias) and two adapters."""
    from burnish.core.sections import Serve
    from burnish.engines.fleet import open_fleet
    from burnish.serve.app import create_app

    home, cries = canary_home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_HOME", str(home))
        patch.setenv("BURNISH_MODELS", str(home / "models"))
        fleet = open_fleet([*cries, "tiny"], {"org/gpt-4o-mini": "tiny"})
    app = create_app(fleet, KEY, Serve(max_batch=8, max_new_tokens=32))
    with running(app) as address:
        yield SimpleNamespace(address=address, fleet=fleet, cries=cries, app=app)


@pytest.fixture
def client(house):
    """The unmodified client."""
    return openai.OpenAI(base_url=f"{house.address}/v1", api_key=KEY, max_retries=0)
