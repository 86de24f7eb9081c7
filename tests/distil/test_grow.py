"""New questions after the ones that are there, without copies."""

import json

from burnish.distil.collect import Asking
from burnish.distil.grow import grown
from tests.distil.conftest import questions

NEW = ["My lamp flickers at night", "Who pays the postage", "where is parcel 3"]


def test_new_questions_are_answered_and_copies_are_not(stub, collector_of):
    lines = [json.dumps({"question": text}) for text in NEW]
    made = "\n".join(["Here they are:", *lines, '{"question": "broken o'])
    stub.answer = lambda text: made if "Write 8 new ones" in text else f"re: {text}"
    collector = collector_of()
    distil = collector.recipe.distil.model_copy(update={"grow": 10})
    recipe = collector.recipe.model_copy(update={"distil": distil})

    lessons = grown(collector, questions(20), Asking("", 16), recipe)

    kept = [one for one in lessons if not one.dropped]
    assert [one.row.answer for one in kept] == [f"re: {text}" for text in NEW[:2]]
    assert [one.dropped for one in lessons if one.dropped] == [
        "the question is nearly one that is there"
    ]
    requests = [body for body in stub.bodies if "Write 8" in body["messages"][-1]["content"]]
    shown = [body["messages"][-1]["content"] for body in requests]
    assert len(set(shown)) == 2, "ten questions are two requests, with other examples"
    assert all("where is parcel" in text for text in shown)
    assert "where is parcel 3" not in stub.asked
