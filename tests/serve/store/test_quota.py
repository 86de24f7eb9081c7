"""Limits of what an organisation may keep and train at once."""

import contextlib
import re
import time

import httpx
import openai
import pytest

from burnish.serve.auth.keys import ApiKey, ApiKeys
from tests.fixtures import fine_tuning_server as tuning


@pytest.fixture
def client_of(server):
    """A client of an organisation, with a key that has these limits."""
    keys = ApiKeys(server.home / "keys.json")

    @contextlib.contextmanager
    def made(organization, **limits):
        value = keys.add(ApiKey("limited", "", organization=organization, **limits))
        try:
            yield openai.OpenAI(base_url=server.address, api_key=value, max_retries=0)
        finally:
            keys.remove("limited")

    return made


def full(call):
    """The words of a refusal for want of room."""
    with pytest.raises(openai.PermissionDeniedError) as refused:
        call()
    assert refused.value.code == "quota_exceeded"
    return refused.value.message


def test_an_organisation_keeps_so_many_bytes_and_no_more(server, client_of):
    def announce(size):
        return client.uploads.create(
            bytes=size, filename="a.jsonl", mime_type="text/jsonl", purpose="batch"
        )

    with client_of("stored", most_bytes=100) as client:
        kept = tuning.upload(client, b"x" * 60, "batch")
        files = set((server.home / "files").iterdir())

        assert "60 that are stored" in full(lambda: tuning.upload(client, b"x" * 41, "batch"))
        assert set((server.home / "files").iterdir()) == files, "nothing is half there"
        upload = announce(40)
        full(lambda: tuning.upload(client, b"x", "batch"))
        part = client.uploads.parts.create(upload.id, data=b"y" * 40)
        done = client.uploads.complete(upload.id, part_ids=[part.id])
        assert done.file.bytes == 40, "what was announced is not counted twice"
        full(lambda: announce(1))
        client.files.delete(kept)
        announce(60)
    assert tuning.upload(server.client, b"x" * 200, "batch"), "nobody else is bound"


def test_stored_responses_count_until_they_are_deleted(client_of):
    asked = {"model": "tiny", "input": "red", "max_output_tokens": 16, "temperature": 0}
    with client_of("talking", most_bytes=5000) as client:
        kept = []
        with pytest.raises(openai.PermissionDeniedError) as refused:
            for _ in range(20):
                kept.append(client.responses.create(**asked).id)
        assert refused.value.code == "quota_exceeded" and len(kept) > 1
        last = list(client.responses.create(**asked, stream=True))[-1]
        assert (last.type, last.code) == ("error", "quota_exceeded")
        assert client.responses.create(**asked, store=False).output_text
        full(lambda: tuning.upload(client, b"x" * 4000, "batch"))
        for own in kept:
            client.responses.delete(own)
        assert tuning.upload(client, b"x" * 4000, "batch")


def test_what_vector_stores_hold_counts(client_of):
    text = b"The parcel has not arrived yet. " * 4
    with client_of("searching", most_bytes=2000) as client:
        file = tuning.upload(client, text, "assistants", "a.txt")
        store = client.vector_stores.create()
        other = tuning.upload(client, b"x" * 900, "assistants", "b.txt")
        full(lambda: client.vector_stores.files.create(store.id, file_id=other))
        done = client.vector_stores.files.create_and_poll(
            file, vector_store_id=store.id, poll_interval_ms=50
        )
        assert done.status == "completed" and done.usage_bytes > 100
        refusal = full(lambda: tuning.upload(client, b"x" * 1900, "batch"))
        stored = int(re.search(r"to the (\d+) that are stored", refusal)[1])
        assert stored > len(text) + 900 + done.usage_bytes
        room = 2000 - stored
        full(lambda: tuning.upload(client, b"x" * (room + 1), "batch"))
        client.vector_stores.delete(store.id)
        assert tuning.upload(client, b"x" * (room + 1), "batch")


def test_an_organisation_has_so_many_unfinished_jobs_and_no_more(client_of):
    with client_of("training", most_jobs=1) as client:
        first = tuning.begin(client)
        assert "as many as this key allows" in full(lambda: tuning.begin(client))
        client.fine_tuning.jobs.cancel(first)
        second = tuning.begin(client)
        client.fine_tuning.jobs.cancel(second)


def test_metadata_attributes_and_batches_count(client_of):
    labels = {f"key{n}": "x" * 500 for n in range(16)}
    with client_of("labels", most_bytes=20_000) as client:
        file = tuning.upload(client, b"{}", "batch")
        for create in (
            lambda: client.vector_stores.create(metadata=labels),
            lambda: client.batches.create(
                input_file_id=file, endpoint="/v1/completions", completion_window="24h",
                metadata=labels,
            ),
        ):  # fmt: skip
            full(lambda create=create: [create() for _ in range(4)])


def test_a_deployment_keeps_no_unknown_fields_and_counts(server, client_of):
    path = server.address.removesuffix("/v1") + (
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
        "/deployments/big?api-version=2024-10-01"
    )
    model = {"format": "OpenAI", "name": "tiny"}
    with client_of("deploying", most_bytes=1000) as client:
        body = {"properties": {"model": model, "notes": "x" * 100_000}, "tags": ["x"] * 1000}
        answer = httpx.put(path, json=body, headers={"api-key": client.api_key})
        assert answer.status_code in (200, 201)
        assert tuning.upload(client, b"x" * 500, "batch"), "what is unknown was not kept"


def test_answers_of_a_batch_count_and_end_at_the_quota(client_of):
    body = {"model": "tiny", "prompt": "red", "max_tokens": 16}
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": body}
        for n in range(80)
    ]
    content = tuning.lines(rows)
    with client_of("batching", most_bytes=len(content) + 8000) as client:
        made = client.batches.create(
            input_file_id=tuning.upload(client, content, "batch"),
            endpoint="/v1/completions", completion_window="24h",
        )  # fmt: skip
        while (done := client.batches.retrieve(made.id)).status != "completed":
            time.sleep(0.05)
        errors = client.files.content(done.error_file_id).text

    assert 0 < done.request_counts.completed < 80 and "quota_exceeded" in errors
