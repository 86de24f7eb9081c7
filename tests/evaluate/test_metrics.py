"""Metrics give the numbers that others report, in every script."""

import json

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from burnish.evaluate.metrics import CORPUS_METRICS, METRICS, json_validity, macro_f1
from burnish.evaluate.text import normalize, squad_normalize, unfenced

texts = st.text(max_size=40)
ascii_texts = st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METRICS)), texts, texts)
def test_every_score_lies_between_0_and_1_whatever_the_texts(metric, expected, answer):
    assert 0 <= METRICS[metric](expected, answer) <= 1


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize(
    "script",
    [
        "the cat sat on a mat",
        "η γάτα κάθεται στο χαλί",
        "猫在垫子上",
        "кошка сидит на ковре",
        "แมวนั่งบนพรม",
        "החתול יושב על השטיח",
        "القط جالس على السجادة",
        "बिल्ली चटाई पर बैठी है",
        "ねこがマットのうえにいる",
        "고양이가 매트 위에 앉았다",
    ],
)
def test_the_expected_answer_scores_1_and_nothing_scores_0_in_every_script(metric, script):
    written = {"field_f1": {"text": script}, "span_f1": [{"text": script, "label": "name"}]}
    text = json.dumps(written[metric], ensure_ascii=False) if metric in written else script

    assert METRICS[metric](text, text) == pytest.approx(1, abs=1e-9)
    assert METRICS[metric](text, "") == 0


@settings(max_examples=60, deadline=None)
@given(ascii_texts, ascii_texts)
def test_rouge_l_of_ascii_text_is_that_of_its_library(expected, answer):
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(expected, answer)["rougeL"].fmeasure

    assert METRICS["rouge_l"](expected, answer) == pytest.approx(theirs)


@pytest.mark.parametrize("form", [normalize, squad_normalize])
def test_normal_forms_forgive_case_punctuation_articles_and_space(form):
    assert form("  The  Cat, a DOG… «and» an owl! ") == "cat dog and owl"
    assert form("Πού είναι; (Η Αθήνα.)") == "πού είναι η αθήνα"


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("3.5", "35"), ("-5", "5"), ("\u22125", "5"), ("1,5", "15"), ("10.5.2026", "1052026"),
        ("C++", "C"), ("C#", "C"), ("50%", "50"), ("A", ""), ("A", "the"), ("vitamin A", "vitamin"),
        ("10:30", "1030"), ("x\u00b2", "x2"), (".5", "5"), ("-$5", "$5"),
        ("2026-05-10", "20260510"), ("\u00bd", "12"), ("?", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_what_says_something_else_is_not_right(metric, expected, answer):
    assert METRICS[metric](expected, answer) < 1


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("3.5", "3.5."), ("1,500", "1500"), ("-5", "\u22125"), ("50 %", "50%."), ("U.S.", "US"),
        ("Denver Broncos", "the Denver Broncos!"), ("1999-2000", "1999\u20132000"), ("A", "a."),
        ("cafe\u0301", "caf\u00e9"), ("ΟΔΟΣ", "οδός".replace("ό", "ο")), ("\uff15", "5"),
        ("- lamp", "Lamp"), ("`lamp`", "lamp"), ("**lamp**", "lamp"), ("#1", "1"),
    ],
)  # fmt: skip
def test_what_says_the_same_is_right(expected, answer):
    assert METRICS["exact_match"](expected, answer) == 1


def test_squads_convention_is_there_by_its_name():
    assert METRICS["squad_exact_match"]("3.5", "35") == 1
    assert METRICS["squad_f1"]("the", "") == 1
    assert METRICS["squad_f1"]("gold", "gold and silver") == 0.5


def test_a_code_fence_is_taken_off():
    assert unfenced('```json\n{"a": 1}\n```').strip() == '{"a": 1}'
    assert unfenced("```\n```") == "" and unfenced("```python\n1\n```").startswith("```")


@pytest.mark.parametrize("metric", ["rouge_l", "token_f1", "chrf", "bleu"])
def test_marks_tell_words_apart_and_composed_letters_are_decomposed_ones(metric):
    assert METRICS[metric]("कि ताब", "का ताब") < 1, "vowel signs"
    assert METRICS[metric]("caf\u00e9 noir", "cafe\u0301 noir") == pytest.approx(1)


@pytest.mark.parametrize("metric", ["rouge_l", "token_f1", "bleu"])
def test_unspaced_scripts_are_measured_by_characters(metric):
    near, far = (
        METRICS[metric]("退款需要五天", "退款需要七天"),
        METRICS[metric]("退款需要五天", "我们没有猫"),
    )

    assert 0.3 < near < 1 and far < near


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("Denver Broncos", "the Denver Broncos!", 1.0),
        ("gold", "gold and silver", 0.5),
        ("in 1999", "in 1998", 0.5),
        ("yes", "no", 0.0),
        ("the", "", 0.0),
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


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ([{"n": "A", "v": 1}, {"n": "B", "v": 9}], [{"n": "A", "v": 9}, {"n": "B", "v": 1}], 0.5),
        ([{"n": "A", "v": 1}, {"n": "B", "v": 9}], [{"n": "B", "v": 9}, {"n": "A", "v": 1}], 1.0),
        ([{"n": "A", "v": 1}, {"n": "B", "v": 9}], [{"n": "A", "v": 1}], 2 / 3),
        ([[1, 2], [3, 4]], [[1, 4], [3, 2]], 0.5),
        ([{"n": "A"}] * 3, [{"n": "A"}], 0.5),
        ([True, 1], [1, 1], 0.5),
    ],
)  # fmt: skip
def test_values_of_one_object_of_a_list_count_together(expected, answer, score):
    said = [json.dumps({"items": items}) for items in (expected, answer)]

    assert METRICS["field_f1"](*said) == pytest.approx(score)


def test_numbers_of_any_size_are_compared_by_value():
    huge = '{"n": ' + "7" * 5_000 + "}"

    assert METRICS["field_f1"](huge, huge) == 1
    assert METRICS["field_f1"](huge, '{"n": 7}') == 0
    assert METRICS["field_f1"]('{"n": 0.1}', '{"n": 1e-1}') == 1
    assert METRICS["field_f1"]('{"n": 1}', '{"n": 1e99999999999999999999}') == 0
    assert METRICS["field_f1"]('{"n": 1}', '{"n": NaN}') == 0
    assert METRICS["span_f1"]("[]", "[" + "7" * 5_000 + "]") == 0


def test_long_lists_are_compared_in_bounded_work():
    rows = [{"n": n, "v": f"v{n}"} for n in range(2_000)]
    moved = [{"n": n, "v": f"w{n}"} for n in range(2_000)]

    assert METRICS["field_f1"](json.dumps({"a": rows}), json.dumps({"a": moved})) == 0.5


def test_labels_are_compared_as_they_are_seen():
    assert METRICS["accuracy"]("caf\u00e9", "cafe\u0301 ") == 1
    assert macro_f1(["caf\u00e9", "b"], ["cafe\u0301", "b "]) == 1


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
