"""Metrics give the numbers that others report, in every script."""

import json

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from burnish.evaluate.metrics import CORPUS_METRICS, METRICS, json_validity, macro_f1
from burnish.evaluate.text import normalize

texts = st.text(max_size=40)
ascii_texts = st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METRICS)), texts, texts)
def test_every_score_lies_between_0_and_1_whatever_the_texts(metric, expected, answer):
    assert 0 <= METRICS[metric](expected, answer) <= 1


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize(
    "script", ["the cat sat on a mat", "η γάτα κάθεται στο χαλί", "猫在垫子上"]
)
def test_the_expected_answer_scores_1_and_nothing_scores_0_in_every_script(metric, script):
    written = {"field_f1": {"text": script}, "span_f1": [{"text": script, "label": "name"}]}
    text = json.dumps(written[metric], ensure_ascii=False) if metric in written else script
    if metric == "bleu" and " " not in text:
        pytest.skip("BLEU counts words, and this script doesn't separate them")

    assert METRICS[metric](text, text) == pytest.approx(1, abs=1e-9)
    assert METRICS[metric](text, "") == 0


@settings(max_examples=60, deadline=None)
@given(ascii_texts, ascii_texts)
def test_rouge_l_of_ascii_text_is_that_of_its_library(expected, answer):
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(expected, answer)["rougeL"].fmeasure

    assert METRICS["rouge_l"](expected, answer) == pytest.approx(theirs)


def test_squads_normal_form():
    assert normalize("  The  Cat, a DOG… «and» an owl! ") == "cat dog and owl"
    assert normalize("Πού είναι; (Η Αθήνα.)") == "πού είναι η αθήνα"


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("Denver Broncos", "the Denver Broncos!", 1.0),
        ("gold", "gold and silver", 0.5),
        ("in 1999", "in 1998", 0.5),
        ("yes", "no", 0.0),
        ("the", "", 1.0),
    ],
)
def test_token_f1_by_hand(expected, answer, score):
    assert METRICS["token_f1"](expected, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"name": "Ada", "items": ["pen", "ink"], "paid": 3}', 1.0),
        ('{"paid": 3.0, "items": ["ink", "pen"], "name": "Ada"}', 1.0),
        ('```json\n{"name": "Ada", "items": ["pen", "ink"], "paid": 3}\n```', 1.0),
        ('{"name": "Ada"}', 0.4),
        ('{"name": "Bob", "items": ["pen"], "paid": 3}', 4 / 7),
        ("{}", 0.0),
        ('["Ada"]', 0.0),
        ("Ada bought a pen", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_field_f1_counts_fields_with_their_paths(answer, score):
    expected = '{"name": "Ada", "items": ["pen", "ink"], "paid": 3}'

    assert METRICS["field_f1"](expected, answer) == pytest.approx(score)


def test_an_empty_list_is_a_field_too():
    assert METRICS["field_f1"]('{"items": []}', '{"items": ["pen"]}') == 0
    assert METRICS["field_f1"]('{"items": []}', '{"items": []}') == 1


def test_validity_is_the_share_of_answers_that_are_objects():
    assert json_validity(["{}"] * 4, ["{}", "no", '{"a": 1}', "[1]"]) == 0.5


def test_macro_f1_gives_a_rare_label_the_same_weight():
    expected, answers = ["a"] * 9 + ["b"], ["a"] * 10

    assert macro_f1(expected, answers) == pytest.approx((18 / 19 + 0) / 2)


def test_bleu_and_chrf_are_sacrebleus():
    expected, answer = "the cat sat on the mat today", "the cat lay on the mat"

    assert METRICS["bleu"](expected, answer) == pytest.approx(
        sacrebleu.sentence_bleu(answer, [expected]).score / 100
    )
    assert METRICS["chrf"](expected, answer) == pytest.approx(
        sacrebleu.sentence_chrf(answer, [expected]).score / 100
    )
    assert CORPUS_METRICS["generation"]["corpus_bleu"](
        [expected] * 2, [answer] * 2
    ) == pytest.approx(sacrebleu.corpus_bleu([answer] * 2, [[expected] * 2]).score / 100)
