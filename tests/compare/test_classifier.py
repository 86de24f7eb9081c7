"""The route that makes no text: a linear classifier on sentence vectors, and its engine."""

import json
import math

import numpy as np
import pytest

from burnish.compare.routes import ROUTES, ComparisonSetup, similar_examples
from burnish.compare.run import compare
from burnish.core.errors import BadData, BadRecipe, NotFound
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.records import Message, Prompt, Row
from burnish.data.load import load
from burnish.engines.registry import open_engine
from burnish.evaluate import latency
from burnish.evaluate.run import evaluate_source
from burnish.models.heads.embedder import Embedder
from burnish.models.heads.linear import LinearHead
from burnish.train.trainers.logistic_regression import fit_head
from tests.stubs.rule_engine import RuleEngine, row


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(latency, "_QUESTIONS", 3)


@pytest.fixture
def recipe(ticket_recipe, tiny_embedder):
    def build(*changes):
        return ticket_recipe(
            f"rag.embedder={tiny_embedder.name}", "compare.forgetting=false", *changes
        )

    return build


def test_it_is_a_rival_that_the_fine_tune_has_to_beat(recipe):
    result = compare(recipe("train.max_steps=1"))

    values = {name: route.scores.interval.value for name, route in result.routes.items()}
    assert list(values) == ["base", "few_shot", "classifier", "fine_tuned"]
    assert values["classifier"] > 0.5 > values["fine_tuned"]
    assert (result.verdict.decision, result.verdict.winner) == ("dont_fine_tune", "classifier")
    assert "a linear classifier on embeddings" in result.verdict.reason
    assert f"burnish serve {result.classifier}" in result.as_text()
    page = (result.run.path / "report.html").read_text(encoding="utf-8")
    assert "classifier" in page


def test_it_is_fitted_once_and_can_be_measured_by_its_name(recipe, workspace):
    settings = recipe("compare.routes=[base, classifier]")
    first = compare(settings)
    (folder,) = workspace.glob("runs/classifier-*")
    before = (folder / "artifact" / "head.safetensors").stat().st_mtime_ns
    compare(settings)

    found = evaluate_source(settings, folder.name)

    assert (folder / "artifact" / "head.safetensors").stat().st_mtime_ns == before
    assert found.scores.interval.value == first.routes["classifier"].scores.interval.value
    assert found.perplexity > 1
    assert json.loads((found.run.path / "report.json").read_text())["tokens_out"] == 0


def test_without_the_embedding_model_the_other_routes_are_measured_and_it_is_said(
    ticket_recipe, capsys
):
    set_reporter(LineReporter())
    result = compare(ticket_recipe("train.max_steps=1", "compare.forgetting=false"))

    assert list(result.routes) == ["base", "few_shot", "fine_tuned"]
    assert "burnish pull all-minilm-l6-v2" in capsys.readouterr().err
    with pytest.raises(NotFound, match="all-minilm"):
        compare(ticket_recipe("compare.routes=[base, classifier]"))


def test_answers_that_are_no_labels_are_refused(recipe):
    with pytest.raises(BadRecipe, match="needs labels"):
        compare(recipe("compare.routes=[base, classifier]", "task.kind=generation"))


def test_only_the_labels_asked_for_are_chosen(tiny_embedder, recipe):
    settings = recipe()
    dataset = load(settings)
    head = fit_head(Embedder(tiny_embedder), dataset.split.train, dataset.split.validation)
    from burnish.engines.heads.classifier import ClassifierEngine, LinearClassifier

    engine = ClassifierEngine(LinearClassifier(Embedder(tiny_embedder), head), "c")
    asked = (Message("system", "sort"), Message("user", "where is my parcel"))

    free, bound = engine.answer([Prompt(asked), Prompt(asked, choices=("refund", "account"))])

    assert free.text == "delivery" and bound.text in ("refund", "account")
    assert free.tokens_out == 0 < free.tokens_in
    with pytest.raises(BadData, match="none of the requested labels"):
        engine.answer([Prompt(asked, choices=("nothing",))])
    (known, _), (unknown, _) = engine.log_likelihood(
        [row("where is my parcel", "delivery"), row("where is my parcel", "nothing")]
    )
    assert -1 < known < 0 and unknown == -math.inf


def test_two_labels_have_the_odds_of_scikit_learns_model(tiny_embedder):
    from sklearn.linear_model import LogisticRegression

    labels = "xyxyyx"
    rows = [row(f"the lamp is {word}", y) for word, y in zip("abcdef", labels, strict=True)]
    embedder = Embedder(tiny_embedder)
    vectors = embedder.encode([item.prompt[-1].content for item in rows])

    head = fit_head(embedder, rows, [])

    theirs = LogisticRegression(C=10.0, max_iter=1000).fit(vectors, list(labels))
    assert head.labels == ("x", "y")
    np.testing.assert_allclose(
        head.log_probs(vectors), theirs.predict_log_proba(vectors), atol=1e-5
    )


def test_one_label_alone_is_refused(tiny_embedder):
    with pytest.raises(BadData, match="nothing to classify"):
        fit_head(Embedder(tiny_embedder), [row("a", "x"), row("b", "x")], [])


def test_log_probabilities_sum_to_one_even_where_scores_are_large():
    head = LinearHead(("a", "b"), np.array([[1e4], [-1e4]], np.float32), np.zeros(2, np.float32))

    assert np.exp(head.log_probs(np.ones((1, 1), np.float32))).sum() == pytest.approx(1.0)


def test_a_classifier_does_not_chat(recipe, workspace):
    from burnish.engines.local.open import open_local_engine

    compare(recipe("compare.routes=[base, classifier]"))
    (folder,) = workspace.glob("runs/classifier-*")

    assert open_engine(folder.name).name == folder.name
    with pytest.raises(BadRecipe, match="classifying student"):
        open_local_engine(folder.name)


def test_similar_examples_are_each_questions_own_with_the_nearest_beside_it(recipe, tiny_embedder):
    settings = recipe("compare.examples=similar", "compare.shots=2")
    dataset = load(settings)
    rows = dataset.split.train[:3]
    setting = ComparisonSetup(settings, dataset, rows)

    prompts = ROUTES["few_shot"].make_prompts(setting, RuleEngine(lambda prompt: ""))

    for asked, prompt in zip(rows, prompts, strict=True):
        shown = [turn.content for turn in prompt.messages if turn.role == "user"]
        assert len(shown) == 3 and shown[-1] == asked.prompt[-1].content
        assert shown[-2] == shown[-1], "a training row is nearest to itself"


def test_answers_that_are_marked_as_bad_are_no_similar_examples(tiny_embedder):
    good, bad = row("the lamp", "x"), row("the lamp", "y", 2)
    bad = Row(bad.messages, file=bad.file, line=2, desirable=False)

    (found,) = similar_examples([bad, good], [row("the lamp", "?", 3)], 5, tiny_embedder.name)

    assert found == [good]


def test_a_fine_tuned_encoder_is_a_route_of_its_own_trained_once(recipe, workspace, monkeypatch):
    monkeypatch.setattr("burnish.compare.encoder._LEAST_STEPS", 60)
    monkeypatch.setattr("burnish.compare.encoder._RATE", 1e-3)
    settings = recipe("compare.routes=[base, classifier, encoder]")
    result = compare(settings)
    files = list(workspace.glob("runs/train-*/artifact/model.safetensors"))

    again = compare(settings)

    assert result.routes["encoder"].scores.interval.value > 0.5
    assert result.routes["encoder"].memory_bytes > 0
    assert again.encoder == result.encoder == files[0].parts[-3]
    assert list(workspace.glob("runs/train-*/artifact/model.safetensors")) == files
    assert f"burnish serve {result.encoder}" in result.as_text()
    with pytest.raises(BadRecipe, match="needs labels"):
        compare(recipe("compare.routes=[base, encoder]", "task.kind=generation"))


@pytest.mark.parametrize("objective", ["classify", "embed"])
def test_a_recipe_that_trains_no_language_model_is_not_compared(recipe, objective):
    with pytest.raises(BadRecipe, match=f"train.objective is {objective}"):
        compare(recipe(f"train.objective={objective}"))
