"""A real server on a free port, with a base and two adapters that nobody can mistake."""

import contextlib
import socket
import threading
from types import SimpleNamespace

import openai
import pytest
import uvicorn

from tests.canaries import two_canaries
from tests.embedder import embedder_folder
from tests.serve import postgres, tuning
from tests.serve.tuning import KEY

__all__ = ["embedder_folder"]


@pytest.fixture(scope="session")
def canary_home(tiny_folder, tmp_path_factory):
    """A workspace with two runs, and what each answers to everything."""
    from burnish.models.local import open_model

    home = tmp_path_factory.mktemp("home")
    return home, two_canaries(open_model(tiny_folder / "tiny"), home)


@pytest.fixture(autouse=True)
def no_models_of_the_user(monkeypatch, tmp_path):
    """A server in this process must not find what happens to be pulled on this machine."""
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "no-models"))


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
    from burnish.serve.desk import Desk
    from burnish.serve.keys import Keys
    from burnish.serve.store import Store, sqlite_url
    from burnish.serve.worker import Worker

    home, cries = canary_home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_HOME", str(home))
        patch.setenv("BURNISH_MODELS", str(home / "models"))
        fleet = open_fleet([*cries, "tiny"], {"org/gpt-4o-mini": "tiny"})
    worker = Worker(Desk(Store(sqlite_url(home)), home))
    app = create_app(
        fleet, Keys(home / "keys.json", KEY), Serve(max_batch=8, max_new_tokens=32), worker=worker
    )
    with running(app) as address:
        yield SimpleNamespace(address=address, fleet=fleet, cries=cries, app=app, home=home)


@pytest.fixture
def client(house):
    """The unmodified client."""
    return openai.OpenAI(base_url=f"{house.address}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="session")
def server(embedder_folder, tmp_path_factory):
    """A server process with a worker, for all tests that kill nothing."""
    aliases = {"text-embedding-3-small": "tiny-embedder"}
    server = tuning.Server(tmp_path_factory.mktemp("tuning"), embedder_folder, aliases=aliases)
    yield server
    server.kill()


@pytest.fixture(scope="session", params=["openai", "azure"])
def either(request, server):
    """The client for OpenAI, and the one for Azure."""
    if request.param == "openai":
        return server.client
    address = server.address.removesuffix("/v1")
    return openai.AzureOpenAI(
        azure_endpoint=address, api_version="2024-10-21", api_key=KEY, max_retries=0
    )


@pytest.fixture(scope="session")
def finished(server):
    """A job that has succeeded, with a validation file, a suffix and metadata."""
    job = tuning.begin(
        server.client,
        validation_file=tuning.upload(server.client, tuning.rows(30)[-400:].split(b"\n", 1)[1]),
        suffix="Desk",
        seed=5,
        metadata={"team": "support"},
    )
    return tuning.wait(server.client, job)


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL of our own; skipped only where it isn't installed."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with postgres.cluster() as url:
        yield url
