"""The two tutorials, run as their readers run them."""

import os
import re
import subprocess
import sys

import pytest

from tests.fixtures.fine_tuning_server import KEY
from tests.fixtures.worker_process import Program, words
from tests.write_docs import ROOT

BASE = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def address(starter, tmp_path_factory):
    """A server that calls the starter model by OpenAI's name."""
    environment = {
        **os.environ,
        "BURNISH_HOME": str(tmp_path_factory.mktemp("home")),
        "BURNISH_MODELS": str(starter.path.parent),
        "BURNISH_API_KEY": KEY,
    }
    said = ["serve", BASE, "--port", "0", "--alias", f"gpt-4o-mini-2024-07-18={BASE}"]
    program = Program(words(*said), environment)
    for line in program.stderr:
        if found := re.search(r"Serving .* at (\S+)/v1", line):
            break
    yield found[1]
    program.kill()
    program.wait()
    program.close()


def run(name, **variables):
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def azure(address):
    """The variables of Azure's tutorial."""
    places = dict.fromkeys(("AZURE_OPENAI_ENDPOINT", "AZURE_MANAGEMENT_ENDPOINT"), address)
    return {**places, **dict.fromkeys(("AZURE_OPENAI_API_KEY", "AZURE_MANAGEMENT_TOKEN"), KEY)}


def test_azures_tutorial_deploys_what_it_has_tuned(server):
    said = run("azure_fine_tune.py", **azure(server.address.removesuffix("/v1")))

    assert "The job has successfully completed" in said
    assert "Deployment: clippy Succeeded" in said


@pytest.mark.model
def test_azures_tutorial_ends_in_a_sarcastic_answer(address):
    said = run("azure_fine_tune.py", **azure(address))

    assert "Deployment: clippy Succeeded" in said
    assert "The job has successfully completed" in said and "ft:gpt-4o-mini-2024-07-18:" in said
    assert "Paris" in said.splitlines()[-1]


@pytest.mark.model
@pytest.mark.long
def test_the_cookbook_ends_in_a_list_of_ingredients(address):
    said = run("openai_cookbook.py", OPENAI_BASE_URL=f"{address}/v1", OPENAI_API_KEY=KEY)

    assert "New fine-tuned model created: ft:gpt-4o-mini-2024-07-18:burnish:recipe-ner:" in said
    assert said.splitlines()[-1].startswith('["')
