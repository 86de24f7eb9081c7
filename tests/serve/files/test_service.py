"""`client.uploads` of the unmodified client: a file in parts."""

import hashlib
import io

import openai
import pytest

from tests.fixtures.fine_tuning_server import rows

CONTENT = rows(40)
PURPOSE = "fine-tune"


def begin(client):
    return client.uploads.create(
        bytes=len(CONTENT), filename="rows.jsonl", mime_type="text/jsonl", purpose=PURPOSE
    )


def send(client, upload, *parts):
    return [client.uploads.parts.create(upload.id, data=part).id for part in parts]


def test_parts_become_a_file_in_the_order_that_is_named(either):
    upload = begin(either)
    assert upload.status == "pending" and upload.expires_at == upload.created_at + 3600
    second, first = send(either, upload, CONTENT[999:], CONTENT[:999])

    done = either.uploads.complete(
        upload.id, part_ids=[first, second], md5=hashlib.md5(CONTENT).hexdigest()
    )

    assert done.status == "completed" and done.file.purpose == PURPOSE
    assert done.file.bytes == len(CONTENT) and done.file.filename == "rows.jsonl"
    assert either.files.content(done.file.id).read() == CONTENT
    assert either.files.retrieve(done.file.id) == done.file


def test_the_clients_own_helper_cuts_and_joins(either):
    done = either.uploads.upload_file_chunked(
        file=CONTENT, filename="a.jsonl", bytes=len(CONTENT), mime_type="text/jsonl",
        purpose=PURPOSE, part_size=1000,
    )  # fmt: skip

    assert either.files.content(done.file.id).read() == CONTENT


def test_what_does_not_fit_together_is_refused_and_may_be_mended(server):
    client = server.client
    upload, other = begin(client), begin(client)
    (part,) = send(client, upload, CONTENT[:-1])
    (foreign,) = send(client, other, b"x")
    for parts, code in (([part], "wrong_size"), ([part, foreign], "invalid_part")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.uploads.complete(upload.id, part_ids=parts)
        assert refused.value.code == code and refused.value.param == "part_ids"
    (rest,) = send(client, upload, CONTENT[-1:])
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(upload.id, part_ids=[part, rest], md5="0" * 32)
    assert refused.value.code == "wrong_checksum"

    assert client.uploads.complete(upload.id, part_ids=[part, rest]).status == "completed"


def test_parts_are_kept_up_to_twice_what_was_announced(server):
    """A part may be sent again when a connection breaks; more would go round the quota."""
    upload = begin(server.client)
    send(server.client, upload, CONTENT, CONTENT)

    with pytest.raises(openai.BadRequestError) as refused:
        send(server.client, upload, b"x")
    assert refused.value.code == "too_many_bytes"


def test_an_ended_upload_takes_nothing_more(server):
    client = server.client
    upload = begin(client)
    send(client, upload, b"x")

    assert client.uploads.cancel(upload.id).status == "cancelled"

    assert not (server.home / "uploads" / upload.id).exists()
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.uploads.parts.create(upload.id, data=io.BytesIO(b"x"))
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.uploads.cancel(upload.id)
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_unknown")
