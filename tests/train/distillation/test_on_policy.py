"""Learning from a teacher on the student's own answers."""

import math

import pytest
import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Row
from burnish.core.runs import find_run
from burnish.engines.local.open import open_local_engine
from burnish.train.batching.packed import pack
from burnish.train.distillation.on_policy import OnPolicyAnswers
from burnish.train.distillation.teacher_logits import TeacherLogits
from burnish.train.forward.path import target_states
from burnish.train.loop.language_model import train_step
from burnish.train.run import train

OWN = ("train.objective.kind=distill", "train.objective.weight=1.0", "train.objective.on_policy=1")


@pytest.fixture
def teacher(recipe_of, dataset):
    """A run of the tiny model that has learnt the rows."""
    return train(recipe_of("train.epochs=4"), dataset).run


def drawing_plan(plan_of, dataset, tokenizer, teacher, *changes):
    named = f"train.objective.teacher={teacher}"
    plan = plan_of(dataset.split.train, *OWN, named, *changes, validation=dataset.split.validation)
    settings = plan.settings.objective
    plan = TeacherLogits(settings).add_to(plan, tokenizer)
    return OnPolicyAnswers(settings).add_sampler(plan, tokenizer)


def both_logits(plan, teacher, row):
    """What student and teacher say before each learnt token of a row, over the vocabulary."""
    answer = row.answers[0]
    places = torch.tensor([at for at, weight in enumerate(answer.weights) if weight > 0]) - 1
    hidden, head = target_states(plan.language, pack([row]))
    logits = open_local_engine(teacher).model(input_ids=torch.tensor([answer.ids])).logits
    return (hidden @ head.T)[: len(places)], logits[0, places]


def formula(student, teacher, beta):
    """Generalised JSD (equation 1 of the paper), summed over tokens."""
    ours, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = torch.logaddexp(theirs + math.log(beta), ours + math.log(1 - beta))

    def kl(p, q):
        return (p.exp() * (p - q)).sum()

    return beta * kl(theirs, mixture) + (1 - beta) * kl(ours, mixture)


def of_trl(student, teacher, beta):
    gkd = pytest.importorskip("trl.experimental.gkd")
    loss = gkd.GKDTrainer.generalized_jsd_loss
    return loss(student[None], teacher[None], beta=beta, reduction="sum")


@pytest.mark.parametrize(
    "judge", [formula, pytest.param(of_trl, marks=pytest.mark.long)], ids=["paper", "trl"]
)
def test_the_loss_of_drawn_answers_is_that_of_gkd(plan_of, dataset, tiny_tokenizer, teacher, judge):
    plan = drawing_plan(
        plan_of, dataset, tiny_tokenizer, teacher, "train.objective.divergence=jsd",
        "train.objective.beta=0.3", "train.objective.top_k=100000",
    )  # fmt: skip
    rows = list(plan.rows[:6])

    drawn, measured = plan.example_source.examples_for_step(rows, 3)
    loss = train_step(plan, drawn)["loss"]

    assert measured["on_policy"] == 1 and measured["answer_tokens"] >= 1
    for row, before in zip(drawn, rows, strict=True):
        begin = before.row.weights.index(1.0)
        assert row.row.ids[:begin] == before.row.ids[:begin] and not any(row.row.weights[:begin])
    assert [row.row.ids for row in drawn] != [row.row.ids for row in rows]
    with torch.no_grad():
        wanted = sum(judge(*both_logits(plan, teacher, row), 0.3) for row in drawn)
    tokens = sum(len(row.tokens) for row in drawn)
    assert loss == pytest.approx(float(wanted) / tokens, rel=1e-3)


def test_the_same_step_draws_the_same_and_a_share_draws_some(
    plan_of, dataset, tiny_tokenizer, teacher
):
    plan = drawing_plan(plan_of, dataset, tiny_tokenizer, teacher, "train.objective.on_policy=0.5")
    rows = list(plan.rows)

    once, again, later = (plan.example_source.examples_for_step(rows, step) for step in (2, 2, 3))

    ids = [[row.row.ids for row in some] for some, _ in (once, again, later)]
    assert ids[0] == ids[1] != ids[2]
    assert 0.2 < once[1]["on_policy"] < 0.8
    kept = sum(one is other for one, other in zip(once[0], rows, strict=True))
    assert kept == round((1 - once[1]["on_policy"]) * len(rows))


def test_a_student_comes_nearer_to_its_teacher_on_its_own_answers(
    recipe_of, dataset, teacher, tmp_path
):
    recipe = recipe_of(*OWN, f"train.objective.teacher={teacher}", "train.epochs=6")

    train(recipe, dataset, out=tmp_path / "one")

    lines = read_journal(find_run(str(tmp_path / "one")).path / "metrics.jsonl")
    near = [line["validation_divergence"] for line in lines if "validation_divergence" in line]
    assert near[-1] < 0.5 * near[0]
    assert all(line["on_policy"] == 1 for line in lines if "loss" in line)


def test_what_has_no_question_or_learns_its_own_words_is_refused(
    recipe_of, dataset, plan_of, tiny_tokenizer
):
    with pytest.raises(BadRecipe, match="set weight 1"):
        make_recipe({}, ["train.objective.kind=distill", "train.objective.on_policy=0.5"])
    plan = plan_of([Row(text="only a text", file="t", line=1)], *OWN,
                   "train.objective.teacher=tiny")  # fmt: skip
    with pytest.raises(BadData, match="plain text"):
        OnPolicyAnswers(plan.settings.objective).add_sampler(plan, tiny_tokenizer)
