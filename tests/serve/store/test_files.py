"""`client.files` of the unmodified client."""

import http.client
import io

import openai
import pytest

from tests.fixtures.fine_tuning_server import KEY, begin, rows, upload, wait


@pytest.fixture
def files(client):
    return client.files


def test_what_is_uploaded_comes_back_byte_by_byte(files):
    content = bytes(range(256)) * 5000

    made = files.create(file=("a ü.bin", content), purpose="user_data")

    assert made.id.startswith("file-") and made.object == "file"
    assert made.bytes == len(content) and made.filename == "a ü.bin"
    assert made.status == "processed" and made.purpose == "user_data"
    assert files.retrieve(made.id) == made
    assert files.content(made.id).read() == content
    assert files.wait_for_processing(made.id) == made


def test_a_nameless_stream_is_taken(files):
    made = files.create(file=io.BytesIO(rows(3)), purpose="fine-tune")

    assert files.content(made.id).read() == rows(3) and made.filename == "upload"


def test_files_are_listed_by_pages_orders_and_purposes(files):
    made = [
        upload_small(files, purpose) for purpose in ("evals", "batch", "evals", "batch", "evals")
    ]

    listed = [file.id for file in files.list(limit=2)]

    assert listed[:5] == made[::-1] and len(listed) == len(set(listed))
    assert [file.id for file in files.list(limit=2, order="asc")][-5:] == made
    assert [file.id for file in files.list(purpose="evals", limit=1)][:3] == made[::2][::-1]
    page = files.list(limit=1)
    assert page.has_more and page.data[0].id == made[-1]
    with pytest.raises(openai.BadRequestError) as unknown:
        files.list(after="file-unknown")
    assert unknown.value.param == "after"


def upload_small(files, purpose):
    return files.create(file=("small.jsonl", b"{}"), purpose=purpose).id


def test_a_deleted_file_is_gone(files, canary_home):
    made = upload_small(files, "batch")

    assert files.delete(made).deleted

    for call in (files.retrieve, files.content, files.delete):
        with pytest.raises(openai.NotFoundError) as gone:
            call(made)
        assert gone.value.param == "id" and made in gone.value.message
    assert not list((canary_home[0] / "files").glob(f"*{made}*"))


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": "fine-tune-results"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3600}}, "expires_after"),
    ],
)
def test_what_cannot_be_kept_is_refused(files, settings, param):
    with pytest.raises(openai.BadRequestError) as refused:
        files.create(**{"file": ("a", b"a"), "purpose": "batch", **settings})

    assert refused.value.param == param


def test_a_file_that_a_job_needs_stays(server):
    client = server.client
    file = upload(client, rows(20))
    job = begin(client, training_file=file, hyperparameters={"n_epochs": 50, "batch_size": 1})

    with pytest.raises(openai.BadRequestError, match="cancel the job first"):
        client.files.delete(file)

    client.fine_tuning.jobs.cancel(job)
    assert wait(client, job) and client.files.delete(file).deleted


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(house):
    host = house.address.removeprefix("http://")
    for path, size, status in (("files", 600 * 2**20, 413), ("completions", 9 * 2**20, 413)):
        sent = http.client.HTTPConnection(host, timeout=30)
        sent.putrequest("POST", f"/v1/{path}")
        sent.putheader("authorization", f"Bearer {KEY}")
        sent.putheader("content-length", str(size))
        sent.endheaders()
        answer = sent.getresponse()
        assert answer.status == status and b"Maximum content size" in answer.read()
        sent.close()
