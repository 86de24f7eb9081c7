"""New questions after the ones that are there, without copies."""

import json

from burnish.distill.self_instruct import evol_instruct, self_instruct
from burnish.distill.teacher_answers import QuestionFormat
from tests.fixtures.distillation import questions

NEW = ["My lamp flickers at night", "Who pays the postage", "where is parcel 3"]


def test_new_questions_are_answered_and_copies_are_not(stub, collector_of):
    lines = [json.dumps({"question": text}) for text in NEW]
    made = "\n".join(["Here they are:", *lines, '{"question": "broken o'])
    stub.answer = lambda text: made if "Write 8 new ones" in text else f"re: {text}"
    collector = collector_of()
    settings = collector.recipe.distill.model_copy(update={"self_instruct": 10})
    recipe = collector.recipe.model_copy(update={"distill": settings})

    lessons = self_instruct(collector, questions(20), QuestionFormat("", 16), recipe)

    kept = [one for one in lessons if not one.dropped]
    assert [one.row.answer for one in kept] == [f"re: {text}" for text in NEW[:2]]
    assert [one.dropped for one in lessons if one.dropped] == [
        "the question nearly repeats an existing one"
    ]
    requests = [body for body in stub.bodies if "Write 8" in body["messages"][-1]["content"]]
    shown = [body["messages"][-1]["content"] for body in requests]
    assert len(set(shown)) == 2, "ten questions are two requests, with other examples"
    assert all("where is parcel" in text for text in shown)
    assert "where is parcel 3" not in stub.asked


def harder(text):
    """The stub's rewriting: the question with one more word, or the same, or no JSON."""
    asked = text.split("\n")[2]
    if "parcel 3 " in f"{asked} ":
        return "I would rather not."
    if "parcel 4 " in f"{asked} ":
        return json.dumps({"question": asked})
    kind = "fish" if "colour" in asked else "colour"
    number = asked.split()[3]
    words = " ".join(f"{kind}{number}{place}" for place in range(9))
    return f"```json\n{json.dumps({'question': f'{asked} and {words}'}, indent=2)}\n```"


def with_evolve(collector, count):
    settings = collector.recipe.distill.model_copy(update={"evol_instruct": count})
    return collector.recipe.model_copy(update={"distill": settings})


def test_questions_get_harder_in_turn_and_copies_are_dropped(stub, collector_of):
    stub.answer = lambda text: harder(text) if "Rewrite it." in text else f"re: {text}"
    collector = collector_of()

    lessons = evol_instruct(
        collector, questions(6), QuestionFormat("", 16), with_evolve(collector, 12)
    )

    kept = [one.row.messages[-2].content for one in lessons if not one.dropped]
    once = [text for text in kept if "colour" in text and "fish" not in text]
    assert len(once) == 4, "one of six is not rewritten, one comes back as it was"
    assert len([text for text in kept if "fish" in text]) == 4, "the harder ones in turn"
    assert "where is parcel 4" not in kept
    assert {one.dropped for one in lessons if one.dropped} == {
        "the question nearly repeats an existing one"
    }
    told = [text for text in stub.asked if "Rewrite it." in text]
    ways = {text.partition("Rewrite it. ")[2].partition(".")[0] for text in told}
    assert len(ways) > 2


def test_fewer_are_asked_for_where_fewer_are_wanted_and_a_silent_teacher_ends_it(
    stub, collector_of
):
    stub.answer = lambda text: "no" if "Rewrite it." in text else f"re: {text}"
    collector = collector_of()

    assert (
        evol_instruct(collector, questions(6), QuestionFormat("", 16), with_evolve(collector, 4))
        == []
    )
    assert sum("Rewrite it." in text for text in stub.asked) == 4
