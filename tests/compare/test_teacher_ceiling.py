"""The teacher as a ceiling: asked once, left out of the verdict, and a measure of the distance."""

import pytest

from burnish.compare.run import compare
from burnish.compare.teacher_ceiling import TeacherEngine, ceiling_coverage
from burnish.compare.verdict import compare_with_incumbent, decide
from burnish.core.errors import BadRecipe, TeacherStopped
from burnish.core.recipe.compare import Compare
from burnish.core.recipe.distill import TeacherEndpoint
from burnish.core.records import Message, Prompt
from burnish.engines.answerers import remote
from burnish.engines.answerers.remote import RemoteAnswerer
from burnish.evaluate import latency
from tests.compare.test_verdict import hits
from tests.fixtures.tickets import WORDS
from tests.stubs.teacher import Stub, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three single requests are enough here, and tries follow each other at once."""
    monkeypatch.setattr(latency, "_QUESTIONS", 3)
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def stub():
    """A teacher that knows the tickets, and says more than the label."""

    def answer(text):
        found = [label for label, starts in WORDS.items() if text.startswith(starts)]
        return f"The label is: {found[0].upper()}."

    with serving(Stub(answer=answer)) as running:
        yield running


def test_a_teacher_elsewhere_is_a_ceiling_asked_once_and_priced_by_its_tokens(
    stub, ticket_recipe, tmp_path, tiny
):
    # It has the name of the base here, which isn't asked in its stead.
    changes = [
        "compare.forgetting=false", "compare.routes=[base, few_shot, teacher]",
        f"distill.teacher.endpoint={stub.url}", f"distill.teacher.model={tiny.name}",
        "distill.teacher.price_in=100", "distill.teacher.price_out=1000",
    ]  # fmt: skip
    result = compare(ticket_recipe(*changes), out=tmp_path / "run")

    teacher = result.as_dict()["routes"][2]
    assert teacher["value"] == 1 and teacher["cost_per_1000"] == pytest.approx(4.0)
    assert result.verdict.winner != "teacher" and result.verdict.rival != "teacher"
    base, few = (result.routes[name].scores.interval.value for name in ("base", "few_shot"))
    assert result.coverage["few_shot"].value == pytest.approx((few - base) / (1 - base))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "How far to the teacher" in page and "distance" in result.as_text()
    assert "account" in stub.bodies[0]["messages"][0]["content"], "it is told the labels"

    asked = sum(stub.asked.values())
    compare(ticket_recipe(*changes))
    assert asked == sum(stub.asked.values()) == 45


def test_a_model_of_this_machine_can_be_the_teacher(ticket_recipe, tiny):
    result = compare(
        ticket_recipe("compare.routes=[base, teacher]", f"distill.teacher.model={tiny.name}")
    )

    assert result.routes["teacher"].memory_bytes > 0
    assert result.coverage == {}, "it is no better than itself, so there is no distance"


def test_a_teacher_that_isnt_named_stops_it_before_the_first_question(ticket_recipe, workspace):
    with pytest.raises(BadRecipe, match="No teacher"):
        compare(ticket_recipe("compare.routes=[base, teacher]"))

    assert not (workspace / "cache").exists()


def test_a_question_without_an_answer_is_no_wrong_answer(stub):
    stub.fault = lambda text, count: (400, {}) if text == "two" else None
    engine = TeacherEngine(
        RemoteAnswerer(TeacherEndpoint(model="big", endpoint=stub.url, retries=0))
    )
    stub.answer = lambda text: "yes"

    with pytest.raises(TeacherStopped, match="1 of 3 questions"):
        engine.answer([Prompt((Message("user", text),)) for text in ("one", "two", "three")])


def test_a_reply_counts_as_the_one_choice_that_it_names(stub):
    engine = TeacherEngine(RemoteAnswerer(TeacherEndpoint(model="big", endpoint=stub.url)))
    said = {"a": "Label: Card Lost!", "b": "card or card lost", "c": "card or pin", "d": "nothing"}
    stub.answer = said.get
    prompts = [Prompt((Message("user", q),), choices=("card", "card lost", "pin")) for q in said]

    answers = [answer.text for answer in engine.answer(prompts)]

    assert answers == ["card lost", "card lost", "card or pin", "nothing"]


def test_the_ceiling_decides_nothing_and_makes_no_p_value_stricter():
    routes = {"base": hits(80), "few_shot": hits(90), "fine_tuned": hits(140)}
    above = {**routes, "teacher": hits(190)}

    assert decide(above, Compare()) == decide(routes, Compare())
    with_it, without = (compare_with_incumbent(some, Compare(), 0.95) for some in (above, routes))
    assert {name: with_it[name] for name in without} == without


def test_the_share_of_the_distance_has_its_interval():
    shares = ceiling_coverage(
        {"base": hits(80), "fine_tuned": hits(140), "teacher": hits(160)}, "base"
    )

    assert shares["fine_tuned"].value == pytest.approx(60 / 80)
    assert 0.6 < shares["fine_tuned"].low < 0.75 < shares["fine_tuned"].high < 0.9
    assert (
        ceiling_coverage({"base": hits(80), "few_shot": hits(90), "teacher": hits(81)}, "base")
        == {}
    )
