"""`client.fine_tuning.jobs` of the unmodified client, from the upload to the answer."""

import csv
import io

import httpx
import openai
import pytest

from tests.fixtures.fine_tuning_server import (
    KEY,
    WORDS,
    begin,
    chat_line,
    events,
    lines,
    pairs,
    rows,
    upload,
    wait,
)


@pytest.fixture
def client(server):
    return server.client


@pytest.fixture
def jobs(client):
    return client.fine_tuning.jobs


def said(client, model, asked="late pear"):
    messages = [{"role": "user", "content": asked}]
    answer = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=8
    )
    return answer.choices[0].message.content


def test_a_job_ends_in_a_model_that_answers_at_once(client, jobs, finished):
    assert finished.status == "succeeded", finished.error
    assert finished.fine_tuned_model == f"ft:tiny:burnish:desk:{finished.id[-8:]}"
    assert finished.finished_at >= finished.created_at
    assert finished.error is None and finished.seed == 5
    assert finished.metadata == {"team": "support"}
    assert finished.hyperparameters.n_epochs == 3 and finished.hyperparameters.batch_size == 2
    assert finished.method.type == "supervised"
    assert finished.method.supervised.hyperparameters.learning_rate_multiplier == 10.0
    assert finished.trained_tokens > 3 * 20 * 10

    names = [model.id for model in client.models.list()]

    assert finished.fine_tuned_model in names
    assert client.models.retrieve(finished.fine_tuned_model).parent == "tiny"
    assert said(client, finished.fine_tuned_model).startswith("my parcel")
    assert said(client, "tiny") == said(client, "gpt-4o-mini-2024-07-18") != "my parcel"


def test_events_tell_every_step_once_in_order_over_pages(client, finished):
    told = events(client, finished.id)
    messages = [event.message for event in told]
    steps = [event.data["step"] for event in told if event.type == "metrics"]

    assert messages[:4] == [
        f"Created fine-tuning job: {finished.id}",
        f"Validating training file: {finished.training_file} "
        f"and validation file: {finished.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert steps == list(range(1, 31))
    assert messages[-2:] == [
        f"New fine-tuned model created: {finished.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert any("validation loss=" in message for message in messages)
    assert len({event.id for event in told}) == len(told)
    assert [event.created_at for event in told] == sorted(event.created_at for event in told)


def test_checkpoints_of_the_last_three_epochs_answer_too(client, jobs, finished):
    saved = list(jobs.checkpoints.list(finished.id, limit=2))

    assert [one.step_number for one in saved] == [30, 20, 10]
    assert all(one.metrics.train_loss and one.metrics.valid_loss for one in saved)
    names = {one.fine_tuned_model_checkpoint for one in saved}
    assert finished.fine_tuned_model in names, "the best step is the model itself"
    listed = {model.id for model in client.models.list()}
    assert names <= listed
    answers = {said(client, name, "the login") for name in names}
    assert all(answer.startswith("my parcel") for answer in answers)


def test_the_result_file_has_a_line_a_step(client, finished):
    content = client.files.content(finished.result_files[0]).text
    table = list(csv.DictReader(io.StringIO(content)))

    assert [int(line["step"]) for line in table] == list(range(1, 31))
    assert float(table[0]["train_loss"]) > float(table[-1]["train_loss"])
    assert [line["step"] for line in table if line["valid_loss"]] == [
        "5",
        "10",
        "15",
        "20",
        "25",
        "30",
    ]
    assert client.files.retrieve(finished.result_files[0]).purpose == "fine-tune-results"


def test_jobs_are_listed_by_pages_and_by_metadata(client, jobs, finished):
    file = upload(client, rows(3))
    made = [begin(client, training_file=file, metadata={"n": str(i)}) for i in range(3)]
    plain = begin(client, training_file=file)
    assert jobs.retrieve(plain).metadata is None

    listed = [job.id for job in jobs.list(limit=2)]

    assert listed[:4] == [plain, *made[::-1]] and finished.id in listed
    assert len(listed) == len(set(listed))
    assert [job.id for job in jobs.list(metadata={"team": "support"})] == [finished.id]
    assert [job.id for job in jobs.list(metadata={"n": "1"})] == [made[1]]
    without = [job.id for job in jobs.list(metadata=None, extra_query={"metadata": "null"})]
    assert plain in without and not set(made) & set(without)
    with pytest.raises(openai.BadRequestError) as unknown:
        jobs.list(after="ftjob-unknown")
    assert unknown.value.param == "after"
    for job in (*made, plain):
        assert wait(client, job).status == "failed"


@pytest.mark.parametrize(
    ("settings", "param", "code"),
    [
        ({"model": "gpt-5"}, "model", "model_not_available"),
        ({"model": "/etc"}, "model", "model_not_available"),
        ({"training_file": "file-unknown"}, "training_file", "file_not_found"),
        ({"training_file": "ASSISTANTS"}, "training_file", "invalid_file_purpose"),
        ({"validation_file": "file-unknown"}, "validation_file", "file_not_found"),
        ({"validation_file": "GOOD"}, "validation_file", "same_file"),
        ({"suffix": "no spaces"}, "suffix", "string_pattern_mismatch"),
        ({"suffix": "x" * 65}, "suffix", "string_too_long"),
        ({"seed": -1}, "seed", "greater_than_equal"),
        ({"method": {"type": "reinforcement"}}, "method", "value_error"),
        ({"method": {"type": "grpo"}}, "method.type", "literal_error"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method", "value_error"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
         "method.dpo.hyperparameters.beta", "less_than_equal"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", "less_than_equal"),
        ({"hyperparameters": {"epochs": 3}}, "hyperparameters.epochs", "extra_forbidden"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "string_too_long"),
        ({"metadata": {"k": "a\0b"}}, "metadata.k", "value_error"),
        ({"integrations": [{"type": "wandb"}]}, "integrations", "too_long"),
        ({"extra_body": {"learning_rate": 3}}, "learning_rate", "extra_forbidden"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_at_once_by_its_field(client, jobs, settings, param, code):
    files = {
        "GOOD": upload(client, rows(10)),
        "ASSISTANTS": upload(client, b"text", purpose="assistants"),
    }
    settings = {"model": "tiny", "training_file": "GOOD", **settings}
    settings = {name: files.get(str(value), value) for name, value in settings.items()}
    before = [job.id for job in jobs.list()]

    with pytest.raises(openai.BadRequestError) as refused:
        jobs.create(**settings)

    assert refused.value.param.startswith(param) and refused.value.code == code
    assert [job.id for job in jobs.list()] == before


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (rows(9), "invalid_training_file", "has 9 example(s), but must have at least 10"),
        (rows(12) + b"{broken\n", "invalid_training_file", "row 13: The line is not JSON"),
        (lines([chat_line("red", "")] * 10), "invalid_training_file", "rows 1, 2, 3"),
        (lines([{"what": 1}] * 10), "invalid_training_file", "no known format"),
        (rows(10) + lines([{"messages": [{"role": "boss\0", "content": "x"}]}]),
         "invalid_training_file", "row 11: Role"),
        (b"\xff\xfe\x00", "invalid_training_file", "UTF-16"),
    ],
)  # fmt: skip
def test_broken_rows_end_the_job_with_their_numbers(client, content, code, words):
    job = wait(client, begin(client, training_file=upload(client, content)))

    assert job.status == "failed" and job.error.code == code
    assert job.error.param == "training_file" and words in job.error.message
    assert "/files/" not in job.error.message, "the client knows ids, not paths"
    last = events(client, job.id)[-1]
    assert last.level == "error" and last.message.startswith(
        "The job failed due to invalid training"
    )


def test_a_validation_file_is_blamed_by_its_own_name(client):
    bad = upload(client, b"not json\n")

    job = wait(client, begin(client, validation_file=bad))

    assert job.error.code == "invalid_validation_file" and job.error.param == "validation_file"
    assert bad in job.error.message


def test_a_job_is_paused_resumed_and_cancelled(client, jobs):
    numbers = {"n_epochs": 50, "batch_size": 1}
    job = begin(client, 40, hyperparameters=numbers)
    wait(client, job, "running")

    assert jobs.pause(job).status == "paused"
    stood = len(events(client, job))
    with pytest.raises(openai.BadRequestError, match="paused"):
        jobs.pause(job)
    assert jobs.resume(job).status == "queued"
    assert wait(client, job, "running").status == "running"
    cancelled = jobs.cancel(job)

    assert cancelled.status == "cancelled" and cancelled.finished_at
    with pytest.raises(openai.BadRequestError, match="too late"):
        jobs.cancel(job)
    assert jobs.retrieve(job).fine_tuned_model is None
    assert len(events(client, job)) >= stood + 2
    after = wait(client, begin(client, 10, hyperparameters={"n_epochs": 1}))
    assert after.status == "succeeded", "the worker is free again"


def test_unknown_jobs_are_not_found(jobs):
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events):
        with pytest.raises(openai.NotFoundError) as missing:
            call("ftjob-unknown")
        assert missing.value.code == "fine_tune_not_found"


def test_a_deleted_model_is_gone_and_a_base_stays(client, jobs):
    job = wait(client, begin(client, 10, hyperparameters={"n_epochs": 1, "batch_size": 5}))
    assert said(client, job.fine_tuned_model)

    assert client.models.delete(job.fine_tuned_model).deleted

    assert job.fine_tuned_model not in [model.id for model in client.models.list()]
    for call in (client.models.retrieve, client.models.delete, lambda name: said(client, name)):
        with pytest.raises(openai.NotFoundError) as gone:
            call(job.fine_tuned_model)
        assert gone.value.code == "model_not_found"
    assert jobs.retrieve(job.id).fine_tuned_model == job.fine_tuned_model
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("tiny")


def test_the_azure_client_does_the_same(server, finished):
    address = server.address.removesuffix("/v1")
    azure = openai.AzureOpenAI(
        azure_endpoint=address, api_version="2024-10-21", api_key=KEY, max_retries=0
    )

    file = azure.files.create(file=("rows.jsonl", rows(10)), purpose="fine-tune")
    job = azure.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        hyperparameters={"n_epochs": -1, "batch_size": 5},
        extra_body={"trainingType": "standard"},
    )

    assert azure.fine_tuning.jobs.retrieve(job.id).hyperparameters.batch_size == 5
    assert azure.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    name = finished.fine_tuned_model
    assert said(azure, name) == said(server.client, name)
    fixed = openai.AzureOpenAI(
        azure_endpoint=address,
        azure_deployment=name,
        api_version="2024-10-21",
        api_key=KEY,
        max_retries=0,
    )
    assert said(fixed, "whatever") == said(server.client, name)
    with pytest.raises(openai.BadRequestError) as refused:
        azure.chat.completions.create(model="tiny", messages=[])
    assert refused.value.param == "messages"


def test_preferences_are_learnt_by_dpo_and_its_numbers_are_shown(either):
    file = upload(either, pairs(20))
    hyperparameters = {"beta": "auto", "n_epochs": 2, "learning_rate_multiplier": 20}
    method = {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}

    job = wait(
        either, either.fine_tuning.jobs.create(model="tiny", training_file=file, method=method).id
    )

    assert job.status == "succeeded", job.error
    assert job.method.type == "dpo" and job.method.supervised is None
    assert job.method.dpo.hyperparameters.beta == 0.1
    assert job.method.dpo.hyperparameters.n_epochs == job.hyperparameters.n_epochs == 2
    told = [event.data["train_loss"] for event in events(either, job.id) if event.type == "metrics"]
    assert told[-1] < told[0] < 0.7
    assert said(either, job.fine_tuned_model) != said(either, "tiny")


def test_a_reinforcement_job_ends_in_a_model_and_shows_its_rewards(client):
    """Whether a reward rises is a matter for tests/train/test_rewards_are_learnt.py."""
    asked = [{"messages": [{"role": "user", "content": f"{a} {b}"}], "wanted": "parcel"}
             for a in WORDS[:5] for b in WORDS[:4]]  # fmt: skip
    files = [upload(client, lines(part)) for part in (asked[:16], asked[16:])]
    grader = {"type": "string_check", "name": "holds", "operation": "like",
              "input": "{{sample.output_text}}", "reference": "{{item.wanted}}"}  # fmt: skip
    numbers = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 50, "eval_interval": 4}
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": grader, "hyperparameters": numbers},
    }

    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=files[0], validation_file=files[1], method=method
    )
    job = wait(client, job.id)

    assert job.status == "succeeded", job.error
    own = job.method.reinforcement
    assert own.grader.reference == "{{item.wanted}}" and own.hyperparameters.eval_interval == 4
    assert own.hyperparameters.compute_multiplier == 1 and own.hyperparameters.eval_samples == 1
    told = [event.data for event in events(client, job.id) if event.type == "metrics"]
    assert len(told) == 6 and all(0 <= one["train_reward_mean"] <= 1 for one in told)
    assert len({one["train_reward_mean"] for one in told}) > 1
    assert 0 <= told[-1]["valid_reward_mean"] <= 1
    assert said(client, job.fine_tuned_model)


def test_a_row_without_what_the_grader_names_ends_the_job(client):
    asked = [{"messages": [{"role": "user", "content": word}]} for word in (*WORDS, "lime", "fig")]
    grader = {"type": "string_check", "name": "holds", "operation": "like",
              "input": "{{sample.output_text}}", "reference": "{{item.wanted}}"}  # fmt: skip
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    file = upload(client, lines(asked))

    job = client.fine_tuning.jobs.create(model="tiny", training_file=file, method=method)
    job = wait(client, job.id)

    assert job.status == "failed" and job.error.param == "training_file"
    assert f"{file}:1" in job.error.message and "item.wanted" in job.error.message


@pytest.mark.parametrize(
    ("content", "method", "words"),
    [
        (rows(12), "dpo", "rows 1, 2, 3, 4, 5 and 7 more: the row does not have the shape"),
        (pairs(12), "supervised", "choose the method `dpo`"),
        (pairs(12, "same", "same"), "dpo", "rejected one are the same"),
    ],
)
def test_rows_of_another_method_end_the_job(client, content, method, words):
    job = begin(
        client, training_file=upload(client, content), method={"type": method}, hyperparameters={}
    )

    failed = wait(client, job)

    assert failed.status == "failed" and failed.error.code == "invalid_training_file"
    assert words in failed.error.message


def test_events_and_checkpoints_answer_to_post_too(server, finished):
    for word in ("events", "checkpoints"):
        address = f"{server.address}/fine_tuning/jobs/{finished.id}/{word}?limit=2"
        auth = {"authorization": f"Bearer {KEY}"}
        got, posted = (httpx.request(verb, address, headers=auth) for verb in ("GET", "POST"))
        assert posted.status_code == 200 and posted.json() == got.json()
        assert len(posted.json()["data"]) == 2
