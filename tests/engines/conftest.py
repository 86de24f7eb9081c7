"""An engine on the tiny model, and two adapters that nobody can mistake."""

import pytest


@pytest.fixture
def engine(tiny):
    from burnish.engines.local.open import open_local_engine

    return open_local_engine("tiny")
