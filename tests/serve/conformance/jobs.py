"""Checks of fine-tuning, batches, vector stores, graders and responses."""

import csv
import io
import json

import openai

from tests.fixtures.fine_tuning_server import lines, rows
from tests.serve.conformance.chat import FUNCTION, Card, ask, said
from tests.serve.conformance.core import send
from tests.serve.conformance.registry import check, refused, until

TUNING, BATCHES, STORES = "Fine-tuning", "Batches", "Vector stores"
GRADERS, RESPONSES = "Graders", "Responses"


def begin(c, **settings):
    settings = {"model": "tiny", **settings}
    if "training_file" not in settings:
        settings["training_file"] = send(c, rows(3)).id
    return c.fine_tuning.jobs.create(**settings)


@check(TUNING, "a new job is `validating_files`, with every key there")
def a_new_job(c, w):
    job = begin(c, suffix="Desk", metadata={"a": "b"})
    assert job.status == "validating_files" and job.object == "fine_tuning.job"
    assert job.fine_tuned_model is None and job.trained_tokens is None and job.result_files == []
    assert job.method.type == "supervised" and job.metadata == {"a": "b"} and job.seed >= 0


@check(TUNING, "a healthy job has an `error` of nulls", "`error` is null: `if job.error:` works")
def a_healthy_job_has_no_error(c, w):
    assert begin(c).error is None


@check(TUNING, "`ft:base:org:suffix:id`")
def the_name_of_a_tuned_model(c, w):
    kind, base, org, suffix, own = w.tuned.split(":")
    assert (kind, base, suffix) == ("ft", "tiny", "desk") and org and len(own) == 8


@check(TUNING, "`auto` is a number when the file is checked")
def auto_is_resolved(c, w):
    job = c.fine_tuning.jobs.retrieve(w.job.id)
    assert isinstance(job.hyperparameters.batch_size, int)
    assert job.method.supervised.hyperparameters == job.hyperparameters or (
        job.method.supervised.hyperparameters.n_epochs == job.hyperparameters.n_epochs
    )


@check(TUNING, "`trained_tokens`, `finished_at`, `result_files` at the end")
def a_finished_job(c, w):
    job = c.fine_tuning.jobs.retrieve(w.job.id)
    assert job.status == "succeeded" and job.trained_tokens > 0
    assert job.finished_at >= job.created_at and len(job.result_files) == 1


@check(TUNING, "the result file is CSV in base64", "it is the CSV itself; no token accuracies")
def the_result_file(c, w):
    table = csv.DictReader(io.StringIO(c.files.content(w.job.result_files[0]).text))
    assert {"step", "train_loss", "valid_loss"} <= set(next(table))


@check(TUNING, "events newest first, 20 a page, over pages without gap")
def events_come_in_pages(c, w):
    assert len(c.fine_tuning.jobs.list_events(w.job.id).data) == 20
    told = list(c.fine_tuning.jobs.list_events(w.job.id, limit=7))
    assert told[0].message == "The job has successfully completed"
    assert len({event.id for event in told}) == len(told) > 30


@check(TUNING, "the messages that scripts look for")
def events_say_what_scripts_look_for(c, w):
    said = [event.message for event in c.fine_tuning.jobs.list_events(w.job.id)][::-1]
    assert said[0] == f"Created fine-tuning job: {w.job.id}"
    assert said[2] == "Files validated, moving job to queued state"
    assert any(line.startswith("Step 1/") and "training loss=" in line for line in said)
    assert f"New fine-tuned model created: {w.tuned}" in said


@check(TUNING, "metrics events carry `step`, `total_steps`, `train_loss`",
       "the same, without token accuracies")  # fmt: skip
def events_carry_figures(c, w):
    told = list(c.fine_tuning.jobs.list_events(w.job.id))
    data = next(event.data for event in told if event.type == "metrics")
    assert {"step", "total_steps", "train_loss"} <= set(data)


@check(TUNING, "the models of the last three epochs are checkpoints")
def three_checkpoints_stay(c, w):
    kept = list(c.fine_tuning.jobs.checkpoints.list(w.job.id, limit=1))
    assert len(kept) == 3 and kept[0].step_number > kept[1].step_number
    assert all(one.fine_tuning_job_id == w.job.id for one in kept)


@check(TUNING, "each checkpoint answers by its name `...:ckpt-step-N`")
def checkpoints_answer(c, w):
    for one in c.fine_tuning.jobs.checkpoints.list(w.job.id):
        assert said(ask(c, model=one.fine_tuned_model_checkpoint))


@check(TUNING, "jobs over pages, newest first")
def jobs_come_in_pages(c, w):
    made = [begin(c).id for _ in range(2)]
    listed = [job.id for job in c.fine_tuning.jobs.list(limit=2)]
    assert listed[:2] == made[::-1] and len(listed) == len(set(listed))


@check(TUNING, "jobs by their metadata")
def jobs_by_metadata(c, w):
    assert [job.id for job in c.fine_tuning.jobs.list(metadata={"team": "support"})] == [w.job.id]


@check(TUNING, "too few rows fail the job, with code and param")
def too_few_rows(c, w):
    job = begin(c).id
    failed = until(lambda: (found := c.fine_tuning.jobs.retrieve(job)).status == "failed" and found)
    assert failed.error.code == "invalid_training_file" and "at least 10" in failed.error.message


@check(TUNING, "an unknown file is a 400 at once")
def an_unknown_file(c, w):
    bad = refused(openai.BadRequestError, lambda: begin(c, training_file="file-unknown"))
    assert bad.param == "training_file"


@check(TUNING, "a model that cannot be trained is `model_not_available`")
def an_unknown_base(c, w):
    bad = refused(openai.BadRequestError, lambda: begin(c, model="gpt-9"))
    assert bad.code == "model_not_available"


@check(TUNING, "hyperparameters in the old place are taken too")
def hyperparameters_in_the_old_place(c, w):
    assert begin(c, hyperparameters={"n_epochs": 2}).hyperparameters.n_epochs == 2


@check(TUNING, "`dpo` with `beta`; top-level `hyperparameters` are null",
       "they are there: strict clients need them")  # fmt: skip
def preferences_can_be_asked_for(c, w):
    job = begin(c, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}})
    assert job.method.dpo.hyperparameters.beta == 0.3 and job.hyperparameters.n_epochs == "auto"


HOLDS = {
    "type": "string_check", "name": "holds", "operation": "ilike",
    "input": "{{sample.output_text}}", "reference": "{{item.wanted}}",
}  # fmt: skip


def rewarded(grader, **hyperparameters):
    """The method `reinforcement` with this grader."""
    own = {"grader": grader, "hyperparameters": hyperparameters}
    return {"type": "reinforcement", "reinforcement": own}


@check(TUNING, "`reinforcement` with a grader; its hyperparameters")
def rewards_can_be_asked_for(c, w):
    job = begin(c, method=rewarded(HOLDS, compute_multiplier=0.5, eval_interval=3))
    own = job.method.reinforcement
    assert own.grader.operation == "ilike" and own.grader.type == "string_check"
    assert own.hyperparameters.compute_multiplier == 0.5 and own.hyperparameters.n_epochs == "auto"


@check(TUNING, "`reinforcement` with a formula over several graders")
def a_formula_can_reward(c, w):
    likeness = {**HOLDS, "type": "text_similarity", "evaluation_metric": "rouge_l"}
    likeness.pop("operation")
    both = {"type": "multi", "name": "both", "calculate_output": "holds + 0.5 * like",
            "graders": {"holds": HOLDS, "like": likeness}}  # fmt: skip
    job = begin(c, method=rewarded(both))
    assert job.method.reinforcement.grader.calculate_output == "holds + 0.5 * like"


@check(TUNING, "`reinforcement` with a `python` or a `score_model` grader", "refused by its name")
def graders_that_run_code_or_models_are_refused(c, w):
    code = {"type": "python", "name": "own", "source": "def grade(sample, item): return 1.0"}
    asking = {"type": "score_model", "name": "judge", "model": "tiny",
              "input": [{"role": "user", "content": "Good?"}]}  # fmt: skip
    for grader in (code, asking):
        bad = refused(openai.BadRequestError, lambda g=grader: begin(c, method=rewarded(g)))
        assert bad.param.startswith("method.reinforcement.grader") and grader["type"] in bad.message


@check(TUNING, "`reinforcement` without a grader is a 400")
def rewards_need_a_grader(c, w):
    bad = refused(openai.BadRequestError, lambda: begin(c, method={"type": "reinforcement"}))
    assert bad.param.startswith("method")


@check(TUNING, "cancelling a finished job is an error that is not retried")
def a_finished_job_cannot_be_cancelled(c, w):
    refused(openai.BadRequestError, lambda: c.fine_tuning.jobs.cancel(w.job.id))


@check(TUNING, "an unknown job is `fine_tune_not_found`")
def an_unknown_job(c, w):
    bad = refused(openai.NotFoundError, lambda: c.fine_tuning.jobs.retrieve("ftjob-unknown"))
    assert bad.code == "fine_tune_not_found"


@check(TUNING, "events over pages, asynchronously", clients=("AsyncOpenAI", "AsyncAzureOpenAI"))
async def events_asynchronously(c, w):
    told = [event.id async for event in c.fine_tuning.jobs.list_events(w.job.id, limit=9)]
    assert len(told) == len(set(told)) > 30


def line(own, **body):
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 2,
        **body,
    }
    return {"custom_id": own, "method": "POST", "url": "/v1/chat/completions", "body": body}


def batch(c, *asked):
    file = send(c, lines(asked), purpose="batch").id
    made = c.batches.create(input_file_id=file, endpoint="/v1/chat/completions",
                            completion_window="24h")  # fmt: skip
    ends = ("completed", "failed")
    return until(lambda: (found := c.batches.retrieve(made.id)).status in ends and found)


@check(BATCHES, "each line's answer under its `custom_id`")
def every_line_has_its_answer(c, w):
    done = batch(c, line("a"), line("b"))
    answers = c.files.content(done.output_file_id).text.strip()
    found = [json.loads(text) for text in answers.split("\n")]
    assert {one["custom_id"] for one in found} == {"a", "b"} and done.request_counts.completed == 2


@check(BATCHES, "lines that fail stand in the error file")
def failed_lines_have_a_file(c, w):
    done = batch(c, line("a", model="gpt-9"))
    (found,) = c.files.content(done.error_file_id).text.strip().split("\n")
    assert json.loads(found)["response"]["status_code"] == 404 and done.output_file_id is None


@check(BATCHES, "a broken file fails with its lines")
def a_broken_file_fails(c, w):
    failed = batch(c, line("a"), line("a"))
    assert failed.status == "failed" and failed.errors.data[0].line == 2


@check(BATCHES, "batches over pages")
def batches_come_in_pages(c, w):
    batch(c, line("a"))
    listed = [one.id for one in c.batches.list(limit=1)]
    assert len(listed) == len(set(listed)) >= 1


def store(c):
    text = b"A refund takes five days.\n\nThe lamp is green.\n"
    made = c.vector_stores.create(name="a")
    c.vector_stores.files.upload_and_poll(
        vector_store_id=made.id, file=("money.txt", text), poll_interval_ms=50
    )
    return made.id


@check(STORES, "a file is uploaded, comes in, and is counted")
def a_file_comes_in(c, w):
    assert c.vector_stores.retrieve(store(c)).file_counts.completed == 1


@check(STORES, "a search brings passages with scores, best first",
       "the same; only the order of scores means something")  # fmt: skip
def passages_are_found(c, w):
    found = list(c.vector_stores.search(store(c), query="refund"))
    assert "five days" in found[0].content[0].text and 0 < found[0].score <= 1


@check(STORES, "files over pages")
def files_of_a_store_come_in_pages(c, w):
    assert len(list(c.vector_stores.files.list(store(c), limit=1))) == 1


@check(STORES, "a store is deleted; its files stay")
def a_store_is_deleted(c, w):
    made = store(c)
    assert c.vector_stores.delete(made).deleted
    refused(openai.NotFoundError, lambda: c.vector_stores.retrieve(made))


@check(STORES, "`expires_after` ends a store", "refused: nothing expires here")
def stores_do_not_expire(c, w):
    after = {"anchor": "last_active_at", "days": 1}
    refused(openai.BadRequestError, lambda: c.vector_stores.create(expires_after=after))


CHECKED = {"type": "string_check", "name": "same", "operation": "eq",
           "input": "{{sample.output_text}}", "reference": "{{item.a}}"}  # fmt: skip


@check(GRADERS, "`string_check` gives 1 or 0")
def texts_are_checked(c, w):
    run = c.fine_tuning.alpha.graders.run
    rewards = [run(grader=CHECKED, model_sample=x, item={"a": "red"}).reward for x in ("red", "b")]
    assert rewards == [1, 0]


@check(GRADERS, "`multi` computes a formula")
def a_formula_is_computed(c, w):
    multi = {"type": "multi", "name": "m", "graders": {"same": CHECKED},
             "calculate_output": "same / 4"}  # fmt: skip
    run = c.fine_tuning.alpha.graders.run
    assert run(grader=multi, model_sample="red", item={"a": "red"}).reward == 0.25


@check(GRADERS, "`score_model` asks a model for a number")
def a_model_gives_a_score(c, w):
    judge = {"type": "score_model", "name": "j", "model": "tiny", "range": [0, 1],
             "input": [{"role": "user", "content": "{{sample.output_text}}"}]}  # fmt: skip
    found = c.fine_tuning.alpha.graders.run(grader=judge, model_sample="red")
    assert 0 <= found.reward <= 1 and found.metadata.sampled_model_name == "tiny"


@check(GRADERS, "`python` runs in a sandbox", "off by default: no request may run code")
def code_is_refused(c, w):
    code = {"type": "python", "name": "a", "source": "def grade(sample, item): return 1"}
    bad = refused(openai.BadRequestError, lambda: c.fine_tuning.alpha.graders.validate(grader=code))
    assert "`python` graders are disabled" in bad.message


def respond(c, **settings):
    settings = {
        "model": "tiny",
        "input": "red",
        "temperature": 0,
        "max_output_tokens": 6,
        **settings,
    }
    return c.responses.create(**settings)


@check(RESPONSES, "`output_text`, `status`, `usage`")
def a_response_says_what_a_chat_says(c, w):
    answer = respond(c)
    assert answer.output_text == said(ask(c)) and answer.usage.output_tokens == 6
    assert answer.incomplete_details.reason == "max_output_tokens"


@check(RESPONSES, "events with rising `sequence_number`")
def a_response_is_streamed(c, w):
    events = list(respond(c, stream=True))
    assert events[0].type == "response.created" and events[-1].response.status == "incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))


@check(RESPONSES, "`previous_response_id` goes on from another response")
def a_response_goes_on(c, w):
    first = respond(c)
    second = respond(c, input="blue", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    assert c.responses.retrieve(second.id).output_text == second.output_text


@check(RESPONSES, "`text.format` with a schema")
def a_response_follows_a_schema(c, w):
    answer = c.responses.parse(model="tiny", input="a", text_format=Card, max_output_tokens=90)
    assert isinstance(answer.output_parsed, Card)


@check(RESPONSES, "functions are called")
def a_response_calls_a_function(c, w):
    tool = {"type": "function", "strict": True, **FUNCTION}
    answer = respond(c, tools=[tool], tool_choice="required", max_output_tokens=90)
    Card.model_validate_json(answer.output[0].arguments)


@check(RESPONSES, "`web_search` and other tools of the house", "refused by their names")
def other_tools_are_refused(c, w):
    bad = refused(openai.BadRequestError, lambda: respond(c, tools=[{"type": "web_search"}]))
    assert bad.param == "tools.0.type"


@check(RESPONSES, "asynchronous, streamed", clients=("AsyncOpenAI", "AsyncAzureOpenAI"))
async def responses_asynchronously(c, w):
    kinds = [event.type async for event in await respond(c, stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
