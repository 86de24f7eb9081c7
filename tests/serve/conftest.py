"""Servers of these tests find no models that happen to be on this machine."""

import pytest


@pytest.fixture(autouse=True)
def no_models_of_the_user(monkeypatch, tmp_path):
    """A server in this process must not find what happens to be pulled on this machine."""
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "no-models"))
