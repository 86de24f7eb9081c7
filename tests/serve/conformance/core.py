"""Checks of errors, retries, models, files and uploads."""

import io

import httpx
import openai

from tests.fixtures.fine_tuning_server import rows
from tests.serve.conformance.chat import ask
from tests.serve.conformance.registry import check, refused

ERRORS, MODELS, FILES, UPLOADS = "Errors and retries", "Models", "Files", "Uploads"


@check(ERRORS, "a wrong key is 401 `invalid_api_key`")
def a_wrong_key(c, w):
    wrong = w.client(type(c).__name__, api_key="bk-wrong")
    bad = refused(openai.AuthenticationError, wrong.models.list)
    assert bad.code == "invalid_api_key" and "bk-wrong" not in bad.message


@check(ERRORS, "an unknown model is 404 `model_not_found`")
def an_unknown_model(c, w):
    bad = refused(openai.NotFoundError, lambda: ask(c, model="gpt-9"))
    assert bad.code == "model_not_found" and "does not exist or you do not have" in bad.message


@check(ERRORS, "a value out of range is 400 with `param`, never 422")
def a_value_out_of_range(c, w):
    assert refused(openai.BadRequestError, lambda: ask(c, temperature=3)).param == "temperature"


@check(ERRORS, "an unknown path is 404 as JSON")
def an_unknown_path(c, w):
    bad = refused(openai.NotFoundError, lambda: c.images.generate(prompt="a"))
    assert "Unknown request URL" in bad.message


@check(ERRORS, "`x-request-id` on every answer and every error")
def every_answer_has_a_request_id(c, w):
    assert (
        ask(c)._request_id and refused(openai.NotFoundError, lambda: ask(c, model="x")).request_id
    )


@check(ERRORS, "a wrong method is 405", clients=("OpenAI",))
def a_wrong_method(c, w):
    answer = httpx.get(f"{w.address}/chat/completions", headers={"api-key": w.key})
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"


@check(ERRORS, "a body that isn't JSON is 400", clients=("OpenAI",))
def a_body_that_is_no_json(c, w):
    auth = {"api-key": w.key, "content-type": "application/json"}
    answer = httpx.post(f"{w.address}/chat/completions", headers=auth, content=b"{")
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


@check(ERRORS, "no address is APIConnectionError, after its retries", clients=("OpenAI",))
def nobody_listens(c, w):
    nowhere = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="a", max_retries=1)
    try:
        nowhere.models.list()
    except openai.APIConnectionError:
        return
    raise AssertionError


@check(ERRORS, "an answer that takes too long is APITimeoutError; the server goes on")
def the_client_gives_up(c, w):
    impatient = c.with_options(timeout=0.001, max_retries=0)
    try:
        ask(impatient, max_tokens=400)
    except openai.APITimeoutError:
        assert ask(c)
        return
    raise AssertionError


@check(ERRORS, "400 and 404 are not retried")
def errors_of_the_request_are_not_retried(c, w):
    tries = []
    counting = w.client(
        type(c).__name__,
        max_retries=2,
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [tries.append]}),
    )
    refused(openai.NotFoundError, lambda: ask(counting, model="gpt-9"))
    assert len(tries) == 1


@check(ERRORS, "the key travels as `Authorization` or as `api-key`", clients=("OpenAI",))
def both_headers_open_the_door(c, w):
    for auth in ({"api-key": w.key}, {"authorization": f"Bearer {w.key}"}):
        assert httpx.get(f"{w.address}/models", headers=auth).status_code == 200


@check(ERRORS, "no key at all is 401", clients=("OpenAI",))
def no_key_at_all(c, w):
    assert httpx.get(f"{w.address}/models").json()["error"]["code"] == "invalid_api_key"


@check(ERRORS, "`AzureOpenAI(base_url=.../openai/v1)` works too", clients=("AzureOpenAI",))
def the_newer_azure_address(c, w):
    newer = openai.AzureOpenAI(base_url=f"{w.root}/openai/v1", api_key=w.key, api_version="preview")
    assert ask(newer).choices and newer.models.list().data


@check(ERRORS, "a client bound to a deployment asks that one", clients=("AzureOpenAI",))
def a_deployment_is_a_model(c, w):
    bound = openai.AzureOpenAI(azure_endpoint=w.root, azure_deployment=w.tuned, api_key=w.key,
                               api_version="2024-10-21")  # fmt: skip
    assert (
        ask(bound, model="whatever").choices[0].message == ask(c, model=w.tuned).choices[0].message
    )


@check(MODELS, "bases, tuned models and checkpoints are listed")
def all_models_are_listed(c, w):
    names = [model.id for model in c.models.list()]
    assert {"tiny", w.tuned} <= set(names) and any(":ckpt-step-" in name for name in names)


@check(MODELS, "one model by its id, with colons in it")
def one_model(c, w):
    found = c.models.retrieve(w.tuned)
    assert (found.id, found.object) == (w.tuned, "model") and found.created > 1.7e9


@check(MODELS, "a base cannot be deleted: 403")
def a_base_stays(c, w):
    refused(openai.PermissionDeniedError, lambda: c.models.delete("tiny"))


@check(MODELS, "an unknown one is 404")
def an_unknown_one(c, w):
    for call in (c.models.retrieve, c.models.delete):
        assert (
            refused(openai.NotFoundError, lambda call=call: call("a/b")).code == "model_not_found"
        )


def send(c, content=None, name="rows.jsonl", purpose="fine-tune"):
    return c.files.create(file=(name, rows(3) if content is None else content), purpose=purpose)


@check(FILES, "`id`, `bytes`, `created_at`, `filename`, `purpose`, `status`")
def an_uploaded_file(c, w):
    file = send(c)
    assert file.id.startswith("file-") and file.object == "file" and file.bytes == len(rows(3))
    assert (file.filename, file.purpose, file.status) == ("rows.jsonl", "fine-tune", "processed")


@check(FILES, "the content comes back byte by byte")
def the_bytes_come_back(c, w):
    assert c.files.content(send(c, bytes(range(256)), purpose="user_data").id).read() == bytes(
        range(256)
    )


@check(FILES, "a stream without a name is called `upload`")
def a_nameless_stream(c, w):
    made = c.files.create(file=io.BytesIO(rows(2)), purpose="fine-tune")
    assert made.filename == "upload" and c.files.wait_for_processing(made.id).id == made.id


@check(FILES, "lists go on over pages, `after` the last id; newest first")
def files_come_in_pages(c, w):
    made = [send(c, b"x", purpose="evals").id for _ in range(3)]
    listed = [file.id for file in c.files.list(limit=1, purpose="evals")]
    assert listed[:3] == made[::-1] and len(listed) == len(set(listed))


@check(FILES, "`order=asc` turns a list round")
def files_come_oldest_first(c, w):
    made = [send(c, b"x", purpose="evals").id for _ in range(2)]
    assert [file.id for file in c.files.list(order="asc", purpose="evals")][-2:] == made


@check(FILES, "an unknown `after` is a 400")
def an_unknown_place_in_a_list(c, w):
    bad = refused(openai.BadRequestError, lambda: c.files.list(after="file-unknown"))
    assert bad.param == "after"


@check(FILES, "a deleted file is gone")
def a_deleted_file(c, w):
    file = send(c).id
    assert c.files.delete(file).deleted
    assert "No such File object" in refused(
        openai.NotFoundError, lambda: c.files.retrieve(file)).message  # fmt: skip


@check(FILES, "a purpose that isn't known is a 400")
def an_unknown_purpose(c, w):
    assert refused(openai.BadRequestError, lambda: send(c, purpose="none")).param == "purpose"


@check(FILES, "`expires_after` deletes a file in time", "refused: nothing expires here")
def files_do_not_expire(c, w):
    after = {"anchor": "created_at", "seconds": 3600}
    refused(openai.BadRequestError,
            lambda: c.files.create(file=b"x", purpose="evals", expires_after=after))  # fmt: skip


@check(FILES, "asynchronous, over pages", clients=("AsyncOpenAI", "AsyncAzureOpenAI"))
async def files_over_pages_asynchronously(c, w):
    made = [(await send(c, b"x", purpose="evals")).id for _ in range(2)]
    listed = [file.id async for file in c.files.list(limit=1, purpose="evals")]
    assert listed[:2] == made[::-1] and len(listed) == len(set(listed))


@check(UPLOADS, "parts become a file in the order of `part_ids`")
def parts_become_a_file(c, w):
    upload = c.uploads.create(bytes=4, filename="a.jsonl", mime_type="text/jsonl", purpose="evals")
    parts = [c.uploads.parts.create(upload.id, data=data).id for data in (b"cd", b"ab")]
    done = c.uploads.complete(upload.id, part_ids=parts[::-1])
    assert done.status == "completed" and c.files.content(done.file.id).read() == b"abcd"


@check(UPLOADS, "other bytes than announced are a 400")
def bytes_that_were_not_announced(c, w):
    upload = c.uploads.create(bytes=9, filename="a.jsonl", mime_type="text/jsonl", purpose="evals")
    part = c.uploads.parts.create(upload.id, data=b"ab").id
    refused(openai.BadRequestError, lambda: c.uploads.complete(upload.id, part_ids=[part]))
    assert c.uploads.cancel(upload.id).status == "cancelled"


@check(UPLOADS, "`upload_file_chunked` does all of it")
def the_helper_for_large_files(c, w):
    done = c.uploads.upload_file_chunked(file=rows(9), filename="a.jsonl", bytes=len(rows(9)),
                                         mime_type="a", purpose="evals", part_size=99)  # fmt: skip
    assert c.files.content(done.file.id).read() == rows(9)


@check(ERRORS, "an organisation that isn't the key's is 401 `mismatched_organization`",
       "the same; an organisation is its own only project")  # fmt: skip
def another_organisation(c, w):
    known = {"OpenAI-Organization": "org-burnish", "OpenAI-Project": "proj_burnish"}
    assert c.models.list(extra_headers=known).data
    other = {"OpenAI-Organization": "org-other"}
    bad = refused(openai.AuthenticationError, lambda: c.models.list(extra_headers=other))
    assert bad.code == "mismatched_organization"
