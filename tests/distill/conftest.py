"""Teachers that fail are asked again at once, and latency is measured with few requests."""

import pytest


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Tries follow each other at once."""
    from burnish.engines.answerers import remote

    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three single requests are enough here."""
    from burnish.evaluate import latency

    monkeypatch.setattr(latency, "_QUESTIONS", 3)
