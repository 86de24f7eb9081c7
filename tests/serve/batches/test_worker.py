"""`client.batches` of the unmodified client, from the file to the answers, through kills."""

import json
import time

import openai
import pytest

from burnish.serve.auth.keys import ApiKey, ApiKeys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.batches.worker import BatchWorker
from burnish.serve.store.schema import StoredObject
from tests.fixtures import fine_tuning_server as tuning
from tests.fixtures.embedder import WIDTH
from tests.fixtures.fine_tuning_server import lines, upload

CHAT = "/v1/chat/completions"


def chat(own, asked="red", **settings):
    body = {"model": "tiny", "messages": [{"role": "user", "content": asked}], "max_tokens": 4}
    return {"custom_id": own, "method": "POST", "url": CHAT, "body": {**body, **settings}}


def begin(client, rows, endpoint=CHAT):
    file = upload(client, lines(rows), purpose="batch")
    return client.batches.create(
        input_file_id=file, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


def wait(client, batch, *states):
    ends = {"completed", "failed", "cancelled", "expired", *states}
    for _ in range(600):
        if (found := client.batches.retrieve(batch)).status in ends:
            return found
        time.sleep(0.05)
    raise AssertionError(found.status)


def read(client, file):
    return [json.loads(line) for line in client.files.content(file).text.strip().split("\n")]


def test_every_line_is_answered_as_if_it_were_asked_alone(either):
    rows = [chat(f"q{n}", asked, temperature=0) for n, asked in enumerate(tuning.WORDS * 2)]
    rows += [chat("wrong", model="unknown"), chat("bad", temperature=9)]

    done = wait(either, begin(either, rows).id)

    assert done.status == "completed" and done.metadata == {"a": "b"}, done.errors
    assert (done.request_counts.total, done.request_counts.completed) == (22, 20)
    assert done.request_counts.failed == 2 and done.completed_at >= done.in_progress_at
    answers = {line["custom_id"]: line["response"] for line in read(either, done.output_file_id)}
    assert set(answers) == {f"q{n}" for n in range(20)}
    alone = either.chat.completions.create(**rows[3]["body"])
    assert answers["q3"]["status_code"] == 200
    assert answers["q3"]["body"]["choices"][0]["message"]["content"] == said(alone)
    failed = {line["custom_id"]: line["response"] for line in read(either, done.error_file_id)}
    assert failed["wrong"]["status_code"] == 404
    assert failed["bad"]["body"]["error"]["param"] == "temperature"
    assert either.files.retrieve(done.output_file_id).purpose == "batch_output"


def test_a_separator_that_stands_in_a_text_ends_no_line(either):
    row = json.dumps(chat("a", "one\u2028two\x85three", temperature=0), ensure_ascii=False)
    file = upload(either, row.encode(), purpose="batch")
    made = either.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")

    done = wait(either, made.id)

    assert (done.status, done.request_counts.completed) == ("completed", 1), done.errors


def said(answer):
    return answer.choices[0].message.content


def test_embeddings_come_in_batches_too(server):
    client = server.client
    body = {"model": "tiny-embedder", "input": "red"}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}

    done = wait(client, begin(client, [row], "/v1/embeddings").id)

    (answer,) = read(client, done.output_file_id)
    assert len(answer["response"]["body"]["data"][0]["embedding"]) == WIDTH
    assert done.error_file_id is None


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (lines([chat("a"), chat("a")]), "duplicate_custom_id", 2),
        (lines([chat("\ud800")]), "invalid_json_line", 1),
        (lines([chat("a")]) + b"{broken\n", "invalid_json_line", 2),
        (lines([{**chat("a"), "url": "/v1/embeddings"}]), "invalid_url", 1),
        (lines([{"custom_id": "a", "method": "POST", "url": CHAT}]),
         "missing_required_parameter", 1),
        (b"\n", "invalid_input_file", None),
        (b"\xff\xfe", "invalid_input_file", None),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_asked_fails_with_its_lines(server, content, code, line):
    client = server.client
    file = upload(client, content, purpose="batch")

    made = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    failed = wait(client, made.id)

    assert failed.status == "failed" and failed.output_file_id is None
    assert (failed.errors.data[0].code, failed.errors.data[0].line) == (code, line)


def test_a_bad_request_is_refused_at_once(server):
    client = server.client
    good, wrong = upload(client, lines([chat("a")]), purpose="batch"), upload(client, b"x")
    for settings, param in (
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"input_file_id": wrong}, "input_file_id"),
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
    ):
        asked = {"input_file_id": good, "endpoint": CHAT, "completion_window": "24h", **settings}
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(**asked)
        assert refused.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_unknown")


def test_a_cancelled_batch_keeps_what_was_answered(server):
    client = server.client
    batch = begin(client, [chat(str(n), max_tokens=200) for n in range(400)])
    wait(client, batch.id, "in_progress")

    assert client.batches.cancel(batch.id).status == "cancelling"

    done = wait(client, batch.id)
    assert done.status == "cancelled" and done.cancelled_at >= done.cancelling_at
    answered = len(read(client, done.output_file_id)) if done.output_file_id else 0
    assert answered == done.request_counts.completed < 400
    with pytest.raises(openai.BadRequestError, match="too late"):
        client.batches.cancel(batch.id)
    listed = [one.id for one in client.batches.list(limit=2)]
    assert listed[0] == batch.id and len(listed) == len(set(listed)) > 2


def test_a_batch_goes_on_after_a_kill_and_asks_nothing_twice(tiny_folder, tmp_path):
    server = tuning.Server(tmp_path / "home", tiny_folder)
    try:
        batch = begin(server.client, [chat(str(n), max_tokens=40) for n in range(64)]).id
        journal = tmp_path / "home" / "batches" / batch / "answers.jsonl"
        for _ in range(600):
            if journal.exists() and journal.read_bytes().count(b"\n") >= 16:
                break
            time.sleep(0.05)
        before = journal.read_bytes().splitlines()[:16]
        server.restart()

        done = wait(server.client, batch)

        assert done.status == "completed" and done.request_counts.completed == 64
        answers = read(server.client, done.output_file_id)
        assert len({answer["custom_id"] for answer in answers}) == len(answers) == 64
        kept = {answer["id"] for answer in answers}
        assert {json.loads(line)["id"] for line in before} <= kept
    finally:
        server.end()


def test_lines_count_in_the_rate_of_their_key_and_wait_for_it(server):
    keys = ApiKeys(server.home / "keys.json")
    client = openai.OpenAI(
        base_url=server.address, api_key=keys.add(ApiKey("slow", "", per_minute=12)), max_retries=0
    )
    try:
        # Twelve at once and one each five seconds: two went to upload and begin.
        made = begin(client, [chat(f"q{n}", temperature=0) for n in range(11)])
        done = wait(server.client, made.id)
    finally:
        keys.remove("slow")

    assert (done.status, done.request_counts.completed) == ("completed", 11)


def test_a_batch_gets_no_more_turns_than_its_key_has(tmp_path):
    keys, rates = ApiKeys(tmp_path / "keys.json"), RateLimiter()
    keys.add(ApiKey("slow", "", per_minute=5))
    keys.add(ApiKey("free", ""))
    work = BatchWorker(None, None, keys, rates, None)
    slow, free, gone = (StoredObject(body={"key": name}) for name in ("slow", "free", "gone"))

    assert [work._take_allowance(slow, 16), work._take_allowance(slow, 16)] == [5, 0]
    assert work._take_allowance(free, 16) == work._take_allowance(gone, 16) == 16
    assert "retry-after" in rates.take(keys.find_by_name("slow"))


def test_a_key_without_allowance_keeps_no_other_batch_waiting(server):
    keys = ApiKeys(server.home / "keys.json")
    slow = keys.add(ApiKey("crawling", "", per_minute=4, organization="slow"))
    other = keys.add(ApiKey("other", "", organization="other"))
    slow_client, client = (
        openai.OpenAI(base_url=server.address, api_key=key, max_retries=0) for key in (slow, other)
    )
    try:
        held = begin(slow_client, [chat(f"q{n}") for n in range(40)])
        while server.home.joinpath("batches", held.id).exists() is False:
            time.sleep(0.05)
        done = wait(client, begin(client, [chat("a")]).id)
    finally:
        keys.remove("crawling")
        keys.remove("other")

    assert done.status == "completed"


def test_poisoned_lines_fail_alone_or_with_their_batch(server):
    client = server.client
    half = json.dumps(chat("half", "\ud800")).encode()
    endless = {"allOf": [{"pattern": f".*a.{{{n}}}b.*"} for n in range(24)]}
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": endless}}
    deep = {"custom_id": "deep", "method": "POST", "url": CHAT, "body": {"model": [{}] * 99_000}}

    made = client.batches.create(
        input_file_id=upload(client, half, purpose="batch"),
        endpoint=CHAT, completion_window="24h",
    )  # fmt: skip
    failed = wait(client, made.id)
    done = wait(client, begin(client, [chat("hard", response_format=format), deep, chat("a")]).id)

    assert failed.status == "failed" and failed.errors.data[0].code == "invalid_json_line"
    assert (done.status, done.request_counts.completed) == ("completed", 1)
    answers = {one["custom_id"]: one["response"] for one in read(client, done.error_file_id)}
    assert {one["status_code"] for one in answers.values()} == {400}
