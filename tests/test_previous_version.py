"""What the version before left on a disk opens with this one (see fixtures/make_previous_version).

The set holds runs by their old recipe keys, a training that was killed, exported folders, an
index, and a server's store in SQLite and in PostgreSQL.
"""

import shutil
from pathlib import Path

import httpx
import pytest

from burnish import api
from burnish.core.journal import read_journal
from burnish.core.runs import find_run
from tests.fixtures.fine_tuning_server import KEY, Server
from tests.serve.azure.test_router import ACCOUNT

SET = Path(__file__).parent / "fixtures" / "previous_version"
PLACEHOLDER = b"@HERE@"
QUESTION = "where is my parcel red"


def unpack(folder):
    """A copy of the set, with the folder's own path where the files name one."""
    shutil.copytree(SET, folder)
    for file in folder.rglob("*"):
        if file.is_file() and PLACEHOLDER in (content := file.read_bytes()):
            file.write_bytes(content.replace(PLACEHOLDER, str(folder).encode()))
    return folder


@pytest.fixture
def previous(tmp_path, monkeypatch):
    """The folder of a copy whose workspace and models are those of this test."""
    folder = unpack(tmp_path / "previous")
    monkeypatch.setenv("BURNISH_HOME", str(folder / "workspace"))
    monkeypatch.setenv("BURNISH_MODELS", str(folder / "models"))
    return folder


def test_all_runs_are_listed_with_their_recipes(previous):
    recipes = {run.id: run.recipe for run in api.runs()}

    assert {"sft", "classifier", "grpo", "stopped", "distil", "compare"} <= recipes.keys()
    assert recipes["sft"].train.warmup_ratio == 0.1
    assert recipes["sft"].train.method.rank_pattern == {"q_proj": 2}
    grpo = recipes["grpo"].train
    assert (grpo.objective.num_generations, grpo.objective.num_iterations) == (2, 2)
    assert (grpo.objective.epsilon, grpo.method.init_from) == (0.1, "sft")
    assert recipes["distil"].distill.teacher.model == "sft"


@pytest.mark.parametrize("name", ["sft", "grpo", "compare", "distil"])
def test_a_run_answers(previous, name):
    assert "".join(api.chat(name, max_new_tokens=8).ask(QUESTION))


@pytest.mark.parametrize("name", ["merged", "gguf"])
def test_an_exported_folder_answers(previous, name):
    chat = api.chat(str(previous / "exports" / name), max_new_tokens=8)

    assert "".join(chat.ask(QUESTION))


def test_a_run_is_measured_as_it_was_then(previous):
    then = {
        route["name"]: route["value"] for route in find_run("compare").read("report.json")["routes"]
    }

    now = api.evaluate(find_run("compare").path / "recipe.yaml", source="compare")

    assert now.scores.interval.value == then["fine_tuned"]


def test_a_classifier_is_measured(previous):
    found = api.evaluate(find_run("classifier").path / "recipe.yaml", source="classifier")

    assert found.scores.metric == "accuracy" and found.scores.interval.n == 15


def test_a_run_is_exported_again(previous):
    result = api.export("sft", to="merged", out=previous / "again", changes=["export.rows=30"])

    old, new = (previous / folder / "model.safetensors" for folder in ("exports/merged", "again"))
    assert new.read_bytes() == old.read_bytes() and result.artifact.path == previous / "again"


def test_a_training_that_was_killed_goes_on(previous):
    before = [
        step for step in read_journal(find_run("stopped").path / "metrics.jsonl") if "loss" in step
    ]

    report = api.train(resume="stopped")

    assert 0 < len(before) < report.steps == len(report.losses)


def test_a_distillation_is_reviewed(previous):
    assert api.review("distil").run.id == "distil"


def test_an_index_is_searched(previous):
    (best, *_) = api.search("handbook", "How many days does a parcel take?")

    assert "three days" in best.passage.text


def test_a_store_in_sqlite_is_served(previous):
    server = Server(previous / "workspace", previous / "models")
    try:
        (job,) = server.client.fine_tuning.jobs.list()
        files = {file.purpose for file in server.client.files.list()}
        (store,) = server.client.vector_stores.list()
        found = server.client.vector_stores.search(store.id, query="How long does a parcel take?")
        address = server.address.removesuffix("/v1")
        listed = httpx.get(
            f"{address}{ACCOUNT}/deployments",
            params={"api-version": "2023-05-01"},
            headers={"authorization": f"Bearer {KEY}"},
        ).json()["value"]
        said = [ask(server.client, name) for name in (job.fine_tuned_model, "desk")]
    finally:
        server.end()

    assert job.status == "succeeded" and job.result_files
    assert files == {"fine-tune", "fine-tune-results", "assistants"}
    assert "three days" in found.data[0].content[0].text
    assert [one["name"] for one in listed] == ["desk"]
    assert said[0] == said[1]


def test_a_store_in_postgresql_is_served(previous, postgres_url):
    import psycopg

    url = postgres_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE previous_version")
    url, _, _ = url.rpartition("/")
    with psycopg.connect(f"{url}/previous_version", autocommit=True) as connection:
        connection.execute((previous / "postgresql.sql").read_text())

    store = f"{url.replace('postgresql', 'postgresql+psycopg', 1)}/previous_version"
    server = Server(previous / "postgresql", previous / "models", store)
    try:
        (job,) = server.client.fine_tuning.jobs.list()
        (file,) = (one for one in server.client.files.list() if one.purpose == "fine-tune")
        content = server.client.files.content(file.id).text
        said = ask(server.client, job.fine_tuned_model)
    finally:
        server.end()

    assert job.status == "succeeded" and job.training_file == file.id
    assert content.count("\n") == 12 and isinstance(said, str)


def ask(client, model):
    """What a model says to one question, as likely as can be."""
    turns = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(
        model=model, messages=turns, temperature=0, max_completion_tokens=8
    )
    return answer.choices[0].message.content
