"""Checks of `file_search` in responses."""

from tests.serve.conformance.jobs import RESPONSES, respond
from tests.serve.conformance.registry import check


@check(RESPONSES, "`file_search` finds passages when the model asks; the answer cites them",
       "always searches for the user's last words; `[1]` in the text is cited")  # fmt: skip
def a_response_searches_files(c, w):
    store = c.vector_stores.create(name="searched")
    file = c.files.create(file=("money.md", b"# Money\n\nA refund takes five days.\n"),
                          purpose="assistants").id  # fmt: skip
    c.vector_stores.files.create_and_poll(file, vector_store_id=store.id, poll_interval_ms=50)
    said_so = {"type": "json_schema", "name": "a", "schema": {"const": "five days [1]"}}
    answer = respond(
        c,
        input="how long does a refund take?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
        include=["file_search_call.results"],
        text={"format": said_so},
        max_output_tokens=60,
    )
    search, message = answer.output
    assert search.results[0].filename == "money.md"
    assert message.content[0].annotations[0].file_id == file
