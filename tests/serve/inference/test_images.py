"""Pictures over HTTP, by the unmodified client: asked about, refused, learnt from."""

import openai
import pytest

from burnish.core.recipe.serve import Serve
from burnish.core.records import Prompt
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.store.schema import Database, sqlite_url
from burnish.serve.store.workspace import Workspace
from tests.fixtures import fine_tuning_server as tuning
from tests.fixtures.server import KEY, running
from tests.fixtures.vision_models import COLOURS, lines, shown


@pytest.fixture
def client(seeing, tmp_path):
    """A server of two models that see and one that doesn't."""
    keys = ApiKeys(tmp_path / "keys.json", KEY)
    fleet = open_model_pool(["idefics3", "qwen2-vl", "tiny"])
    worker = JobWorker(Workspace(Database(sqlite_url(tmp_path)), tmp_path))
    app = create_app(fleet, keys, Serve(max_new_tokens=6), worker=worker)
    with running(app) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)


def asked(colour):
    return [shown(colour).as_wire()]


def test_what_is_said_of_a_picture_is_what_the_engine_says(client):
    for model in ("idefics3", "qwen2-vl"):
        alone = open_local_engine(model)
        for colour in COLOURS:
            (expected,) = alone.answer([Prompt((shown(colour),), 6)])
            answer = client.chat.completions.create(
                model=model, messages=asked(colour), temperature=0
            )

            assert answer.choices[0].message.content == expected.text
            assert answer.usage.prompt_tokens == expected.tokens_in


def test_it_streams_chooses_and_answers_responses(client):
    picture = asked("red")[0]["content"][0]["image_url"]["url"]
    whole = client.chat.completions.create(
        model="idefics3", messages=asked("red"), temperature=0
    ).choices[0].message.content  # fmt: skip

    stream = client.chat.completions.create(
        model="idefics3", messages=asked("red"), temperature=0, stream=True
    )
    pieces = [one.choices[0].delta.content or "" for one in stream if one.choices]
    choice = client.chat.completions.create(
        model="idefics3", messages=asked("red"), extra_body={"guided_choice": list(COLOURS)}
    )
    parts = [
        {"type": "input_image", "image_url": picture},
        {"type": "input_text", "text": "Which colour?"},
    ]
    response = client.responses.create(
        model="idefics3", input=[{"role": "user", "content": parts}], temperature=0
    )

    assert "".join(pieces) == whole
    assert choice.choices[0].message.content in COLOURS
    assert response.output_text == whole


@pytest.mark.parametrize(
    ("model", "part", "why"),
    [
        ("tiny", {"image_url": {"url": shown("red").images[0].url}}, "a vision-language model"),
        ("idefics3", {"image_url": {"url": "https://example.org/a.png"}}, "not a data URL"),
        ("idefics3", {"image_url": {"url": "file:///etc/passwd"}}, "not a data URL"),
        ("idefics3", {"image_url": {"url": "data:image/png;base64,aGk="}}, "can't be read"),
        ("idefics3", {"image_url": {}}, "is not supported"),
        ("idefics3", {"type": "text", "text": "an <image> here"}, "the placeholder of an image"),
    ],
)
def test_what_cannot_be_seen_is_refused_and_says_why(client, model, part, why):
    content = [{"type": "image_url", **part}, {"type": "text", "text": "What is it?"}]

    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])


def test_only_supervised_jobs_learn_from_pictures(client):
    file = tuning.upload(client, "\n".join(lines(12)).encode())

    with pytest.raises(openai.BadRequestError, match="is a vision-language model") as caught:
        client.fine_tuning.jobs.create(
            model="llava", training_file=file, method={"type": "dpo", "dpo": {}}
        )

    assert caught.value.param == "method"


def test_a_job_learns_from_pictures_and_another_reads_no_file_of_the_server(
    seeing_folder, tmp_path
):
    server = tuning.Server(tmp_path, seeing_folder)
    client = server.client
    row = '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
    row += '{"url": "/etc/hostname"}}]}, {"role": "assistant", "content": "red"}]}'
    files = [tuning.upload(client, "\n".join(some).encode()) for some in (lines(12), [row] * 12)]
    jobs = [tuning.begin(client, model="llava", training_file=file) for file in files]
    try:
        done, refused = (tuning.wait(client, job) for job in jobs)

        assert done.status == "succeeded", done.error
        step = client.fine_tuning.jobs.checkpoints.list(jobs[0]).data[0]
        for model in (done.fine_tuned_model, step.fine_tuned_model_checkpoint):
            answer = client.chat.completions.create(
                model=model, messages=asked("red"), max_tokens=4
            )
            assert answer.usage.prompt_tokens > 4
        assert refused.status == "failed"
        assert "data URL" in refused.error.message
    finally:
        server.end()
