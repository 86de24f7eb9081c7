"""An empty store on SQLite and on PostgreSQL."""

import pytest
from sqlalchemy import create_engine

from burnish.serve.store.jobs import Jobs
from burnish.serve.store.schema import Database, TableBase, sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    address = request.getfixturevalue("postgres_url")
    engine = create_engine(address)
    TableBase.metadata.drop_all(engine)
    engine.dispose()
    return address


@pytest.fixture
def store(url):
    store = Database(url)
    yield store
    store.close()


@pytest.fixture
def jobs(store):
    return Jobs(store)
