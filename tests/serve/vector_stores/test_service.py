"""`client.vector_stores` of the unmodified client."""

import io
import zipfile

import httpx
import openai
import pytest

from tests.fixtures.vector_store import PAGES, send


def ask(client, store, query, **settings):
    return list(client.vector_stores.search(store, query=query, **settings))


def test_the_passage_that_answers_comes_first(either, filled):
    store, files = filled

    found = ask(either, store, "refund")

    assert found[0].file_id == files["money.md"] and found[0].filename == "money.md"
    assert "five days" in found[0].content[0].text and found[0].content[0].type == "text"
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    assert len(ask(either, store, ["refund", "lamp"], max_num_results=1)) == 1


def test_a_search_can_be_bound_to_files_and_scores(server, filled):
    client, store = server.client, filled[0]

    def names(filters):
        return {one.filename for one in ask(client, store, "days lamp", filters=filters)}

    text = {"type": "eq", "key": "kind", "value": "txt"}
    late = {"type": "gte", "key": "place", "value": 1}
    assert names(text) == {"lamps.txt"}
    assert names(late) == {"money.md", "lamps.txt"}
    assert names({"type": "and", "filters": [late, {**text, "type": "ne"}]}) == {"money.md"}
    assert names({"type": "or", "filters": [text, {**late, "type": "lt"}]}) == {
        "parcels.md", "lamps.txt",
    }  # fmt: skip
    assert names({"type": "in", "key": "kind", "value": ["pdf"]}) == set()
    assert names({"type": "gt", "key": "kind", "value": 3}) == set(), "no text is above a number"
    best = ask(client, store, "refund", ranking_options={"score_threshold": 0.99})
    assert all(one.score >= 0.99 for one in best)


def test_a_store_says_what_it_holds_and_is_renamed_and_deleted(either):
    client = either
    file = send(client, "money.md")
    store = client.vector_stores.create(name="a", file_ids=[file])
    assert store.file_counts.total == 1 and store.status in ("in_progress", "completed")
    client.vector_stores.files.poll(file, vector_store_id=store.id, poll_interval_ms=50)

    renamed = client.vector_stores.update(store.id, name="b", metadata={"x": "y"})

    assert renamed.name == "b" and renamed.metadata == {"x": "y"}
    full = client.vector_stores.retrieve(store.id)
    assert full.status == "completed" and full.file_counts.completed == 1
    assert full.usage_bytes > 0
    assert store.id in [one.id for one in client.vector_stores.list(limit=1)]
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)
    assert client.files.retrieve(file).id == file, "the file stays"


def test_files_are_listed_by_pages_relabelled_read_and_taken_out(server):
    client = server.client
    store = client.vector_stores.create(file_ids=[send(client, name) for name in PAGES]).id
    files = client.vector_stores.files

    listed = [file.id for file in files.list(store, limit=1)]

    assert len(listed) == len(set(listed)) == 3
    assert [file.id for file in files.list(store, limit=2, order="asc")] == listed[::-1]
    file = listed[-1]
    files.poll(file, vector_store_id=store, poll_interval_ms=50)
    changed = files.update(file, vector_store_id=store, attributes={"new": True})
    assert changed.attributes == {"new": True} and changed.status == "completed"
    (content,) = files.content(file, vector_store_id=store)
    assert "three days" in content.text
    assert files.delete(file, vector_store_id=store).deleted
    assert "parcels.md" not in {one.filename for one in ask(client, store, "parcel")}
    with pytest.raises(openai.NotFoundError):
        files.retrieve(file, vector_store_id=store)


def test_several_files_come_in_as_a_batch_and_a_broken_one_says_why(server):
    client = server.client
    store = client.vector_stores.create().id
    sent = [send(client, "money.md"), send(client, "broken.pdf", b"no pdf"),
            send(client, "what.xyz", b"text")]  # fmt: skip

    batch = client.vector_stores.file_batches.create_and_poll(
        vector_store_id=store, file_ids=sent, poll_interval_ms=50
    )

    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == (
        "completed", 1, 2,
    )  # fmt: skip
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store)
    states = {file.id: file for file in listed}
    assert set(states) == set(sent)
    assert states[sent[1]].last_error.code == "unsupported_file"
    assert "xyz" in states[sent[2]].last_error.message


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda c, s: c.vector_stores.create(file_ids=["file-unknown"]), "file_ids"),
        (lambda c, s: c.vector_stores.files.create(s, file_id="file-unknown"), "file_id"),
        (lambda c, s: c.vector_stores.search(s, query="a", max_num_results=51), "max_num_results"),
        (lambda c, s: c.vector_stores.search(s, query=[]), "query"),
        (lambda c, s: c.vector_stores.create(
            expires_after={"anchor": "last_active_at", "days": 1}), "expires_after"),
        (lambda c, s: c.vector_stores.create(metadata={"k": "v\0"}), "metadata"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(server, filled, call, param):
    with pytest.raises(openai.BadRequestError) as refused:
        call(server.client, filled[0])

    assert refused.value.param.startswith(param)


def corrupt_docx():
    """A document whose text is LZMA-compressed, and corrupt: zipfile raises LZMAError."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>" * 500)
        archive.writestr("word/document.xml", "<w/>" * 500)
    content = bytearray(packed.getvalue())
    content[60:90] = b"\xff" * 30
    return bytes(content)


def test_poisoned_files_fail_and_no_other_file_waits_for_them(server):
    client = server.client
    store = client.vector_stores.create().id
    names = {"..": b"a", "\U0001f600" * 60 + ".md": b"# a", "broken.docx": corrupt_docx(),
             "deep.jsonl": b"[" * 100_000, "half.jsonl": b'{"a": "\\ud800"}'}  # fmt: skip
    poisoned = [send(client, name, content) for name, content in names.items()]
    for file in poisoned:
        client.vector_stores.files.create(file_id=file, vector_store_id=store)

    good = client.vector_stores.files.create_and_poll(
        send(client, "money.md"), vector_store_id=store, poll_interval_ms=50
    )

    assert good.status == "completed"
    for file in poisoned:
        ended = client.vector_stores.files.poll(file, vector_store_id=store, poll_interval_ms=50)
        assert ended.status == "completed" or ended.last_error.message
    assert httpx.get(server.address.removesuffix("/v1") + "/readyz").json() == {"status": "ready"}
