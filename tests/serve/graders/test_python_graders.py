"""`python` graders of the unmodified client, on a server whose operator allows them."""

import openai
import pytest

from burnish.core.errors import BurnishError
from burnish.core.recipe.serve import Serve
from burnish.serve.run import serve
from tests.fixtures import fine_tuning_server as tuning
from tests.fixtures.bubblewrap import needs_sandbox
from tests.serve.graders.test_router import CHECK, run

SOURCE = "def grade(sample, item):\n    return len(sample['output_text']) / item['most']"


def python(source=SOURCE, name="own"):
    return {"type": "python", "name": name, "source": source, "image_tag": "2025-05-08"}


@pytest.fixture(scope="module")
def willing(embedder_folder, tmp_path_factory):
    """A server that runs what graders bring."""
    home = tmp_path_factory.mktemp("willing")
    server = tuning.Server(home, embedder_folder, python_graders=True)
    yield server
    server.kill()


@needs_sandbox
def test_a_source_grades_alone_and_in_a_formula(willing):
    item = {"most": 16, "answer": "red pear"}
    alone = run(willing.client, python(), item=item)
    assert alone.reward == 0.5 and alone.metadata.type == "python"
    assert not alone.metadata.errors.python_grader_runtime_error

    graders = {"own": python(), "same": CHECK}
    both = {"type": "multi", "name": "m", "graders": graders, "calculate_output": "own + same"}
    graded = run(willing.client, both, item=item)
    assert graded.reward == 1.5 and graded.sub_rewards == {"own": 0.5, "same": 1}

    json = run(willing.client, python("def grade(s, i): return s['output_json']['a']"), '{"a": 2}')
    assert json.reward == 2


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (SOURCE, "KeyError: 'most'"),
        ("def grade(sample, item): return open('/etc/passwd').read()", "No such file"),
        ("import os\ndef grade(sample, item): os._exit(0)", "without an answer"),
        ("def grade(sample, item): return float('inf')", "no finite number"),
        ("def grade(sample, item): return '\\ud800'", "no number"),
        ("def grade(sample, item): raise ValueError('\\ud800\\0')", "ValueError"),
        ("def grade(sample, item): return bytearray(1 << 40)", "MemoryError"),
        ("def grade(:", "SyntaxError"),
    ],
)
def test_a_faulty_source_is_an_error_of_the_grader_and_not_of_the_server(willing, source, why):
    graded = run(willing.client, python(source))

    assert graded.reward == 0 and graded.metadata.errors.python_grader_runtime_error
    assert why in graded.metadata.errors.python_grader_runtime_error_details


@needs_sandbox
def test_a_source_is_tried_by_validate_and_before_a_job_is_made(willing):
    graders, jobs = willing.client.fine_tuning.alpha.graders, willing.client.fine_tuning.jobs
    bad = python("def score(sample, item): return 1")

    assert graders.validate(grader=python()).grader.source == SOURCE
    with pytest.raises(openai.BadRequestError, match="no function grade") as refused:
        graders.validate(grader=bad)
    assert refused.value.param == "grader" and refused.value.code == "invalid_grader"
    with pytest.raises(openai.BadRequestError, match="no function grade") as refused:
        begin(willing, bad)
    assert refused.value.param == "method.reinforcement.grader"
    assert not jobs.list().data
    with pytest.raises(openai.BadRequestError):
        graders.validate(grader=python("#" * (256 * 1024 + 1)))


def begin(server, grader):
    numbers = {"n_epochs": 1, "compute_multiplier": 0.25}
    method = {"type": "reinforcement",
              "reinforcement": {"grader": grader, "hyperparameters": numbers}}  # fmt: skip
    questions = [{"messages": tuning.chat_line(f"red {n} pear")["messages"][:1], "most": 64}
                 for n in range(10)]  # fmt: skip
    file = tuning.upload(server.client, tuning.lines(questions))
    return server.client.fine_tuning.jobs.create(
        model="tiny", training_file=file, method=method, seed=1
    ).id


@needs_sandbox
def test_a_source_rewards_answers_in_a_training(willing):
    both = {"type": "multi", "name": "m", "graders": {"own": python()},
            "calculate_output": "2 * own"}  # fmt: skip
    job = tuning.wait(willing.client, begin(willing, both))

    assert job.status == "succeeded", job.error
    told = [event.data for event in tuning.events(willing.client, job.id) if event.data]
    assert any(data.get("train_reward_mean", 0) > 0 for data in told)


def test_a_server_that_cannot_hold_code_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")

    with pytest.raises(BurnishError, match="apt-get install bubblewrap"):
        serve(["tiny"], Serve(port=0, python_graders=True))

    assert not list(tmp_path.iterdir())
