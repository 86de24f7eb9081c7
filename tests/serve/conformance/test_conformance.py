"""Runs every check of the list with every client that it names."""

import asyncio
import inspect

import pytest

from tests.fixtures.fine_tuning_server import KEY
from tests.serve.conformance.page import CHECKS
from tests.serve.conformance.registry import World

RUNS = [(one, kind) for one in CHECKS for kind in one.clients]


@pytest.fixture(scope="module")
def world(server, finished):
    return World(server.address, KEY, finished)


@pytest.mark.parametrize(
    ("one", "kind"), RUNS, ids=[f"{one.run.__name__}-{kind}" for one, kind in RUNS]
)
def test_ours_does_what_the_table_says(world, one, kind):
    client = world.client(kind)
    done = one.run(client, world)
    if inspect.isawaitable(done):

        async def whole():
            async with client:
                await done

        asyncio.run(whole())


def test_the_list_is_long_and_names_each_check_once():
    assert len(CHECKS) >= 80 and len({one.name for one in CHECKS}) == len(CHECKS)
    assert {kind for _, kind in RUNS} == {
        "OpenAI", "AzureOpenAI", "AsyncOpenAI", "AsyncAzureOpenAI",
    }  # fmt: skip
