"""An engine on the tiny model, and two adapters that nobody can mistake."""

import pytest

from tests.canaries import two_canaries


@pytest.fixture
def engine(tiny):
    from burnish.engines.local import open_engine

    return open_engine("tiny")


@pytest.fixture(scope="session")
def canary_home(tiny_folder, tmp_path_factory):
    """A workspace with two runs, and what each answers to everything."""
    from burnish.models.local import open_model

    home = tmp_path_factory.mktemp("home")
    return home, two_canaries(open_model(tiny_folder / "tiny"), home)


@pytest.fixture
def canaries(canary_home, monkeypatch):
    """The two runs, found by id in this test's workspace: id -> cry."""
    home, cries = canary_home
    monkeypatch.setenv("BURNISH_HOME", str(home))
    monkeypatch.setenv("BURNISH_MODELS", str(home / "models"))
    return cries
