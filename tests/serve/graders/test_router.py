"""`client.fine_tuning.alpha.graders` of the unmodified client."""

import openai
import pytest

from burnish.evaluate.grader_formula import BadFormula, compute
from burnish.evaluate.graders import SIMILARITIES, gleu

CHECK = {
    "type": "string_check", "name": "same", "operation": "eq",
    "input": "{{sample.output_text}}", "reference": "{{ item.answer }}",
}  # fmt: skip


def similar(metric, name="alike"):
    return {
        "type": "text_similarity", "name": name, "evaluation_metric": metric,
        "input": "{{sample.output_text}}", "reference": "{{item.answer}}",
    }  # fmt: skip


def run(client, grader, sample="red pear", item=None):
    item = {"answer": "red pear"} if item is None else item
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)


@pytest.mark.parametrize(
    ("operation", "sample", "reward"),
    [("eq", "Red", 0), ("eq", "red", 1), ("ne", "Red", 1), ("like", "a red one", 1),
     ("like", "a Red one", 0), ("ilike", "a Red one", 1), ("ilike", "a pear", 0)],
)  # fmt: skip
def test_texts_are_checked(either, operation, sample, reward):
    assert (
        run(either, {**CHECK, "operation": operation}, sample, {"answer": "red"}).reward == reward
    )


METRICS = [
    "fuzzy_match", "bleu", "gleu", "cosine", "rouge_1", "rouge_2", "rouge_5", "rouge_l"
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_text_is_wholly_alike_and_another_one_less(server, metric):
    words = {"answer": "one two three four five six"}

    same = run(server.client, similar(metric), words["answer"], words)
    other = run(server.client, similar(metric), "one two blue four green red", words)

    assert same.reward == pytest.approx(1, abs=1e-5)
    assert 0 <= other.reward < 0.99
    assert same.metadata.type == "text_similarity" and not same.metadata.errors.other_error


@pytest.mark.parametrize("measure", sorted(set(SIMILARITIES) - {"cosine"}))
@pytest.mark.parametrize(
    "said", ["Η επιστροφή έγινε χθες, στις πέντε.", "Возврат денег был вчера в пять часов.",
             "退款昨天已经办好了。", "คืนเงินเมื่อวานนี้แล้ว", "ההחזר כבר בוצע אתמול בשעה חמש",
             "تم رد المبلغ أمس في الساعة الخامسة"],
)  # fmt: skip
def test_a_sentence_is_wholly_alike_itself_in_every_script(measure, said):
    assert SIMILARITIES[measure](said, said) == pytest.approx(1)
    assert SIMILARITIES[measure](said, "nothing alike here, at all") < 0.5


def test_texts_that_would_fill_the_memory_are_not_compared(server):
    graded = run(server.client, similar("rouge_l"), "a " * 20_000, {"answer": "b " * 20_000})

    assert graded.reward == 0 and graded.metadata.errors.other_error


def test_gleu_is_the_lesser_of_precision_and_recall():
    assert gleu("a b", "a b c") == pytest.approx(3 / 6)
    assert gleu("", "a") == gleu("", "") == 0


def test_a_model_gives_a_number_in_its_range(server):
    asked = {"role": "user", "content": "How good is {{sample.output_text}}?"}
    grader = {"type": "score_model", "name": "judge", "model": "tiny", "range": [2, 5],
              "input": [asked]}  # fmt: skip

    graded = run(server.client, grader)
    missing = run(server.client, {**grader, "model": "unknown"})

    assert 2 <= graded.reward <= 5
    assert graded.model_grader_token_usage_per_model["tiny"] > 10
    assert graded.metadata.token_usage > 10 and graded.metadata.sampled_model_name == "tiny"
    assert missing.reward == 0 and missing.metadata.errors.model_grader_server_error


def test_several_graders_are_put_together_by_a_formula(either):
    grader = {
        "type": "multi", "name": "both", "calculate_output": "0.5 * (same + max(alike, 0)) ^ 2",
        "graders": {"same": CHECK, "alike": similar("rouge_1")},
    }  # fmt: skip

    graded = run(either, grader)

    assert graded.reward == pytest.approx(2) and graded.sub_rewards == {"same": 1, "alike": 1}
    assert either.fine_tuning.alpha.graders.validate(grader=grader).grader.name == "both"
    alone = {**grader, "graders": CHECK, "calculate_output": "same * 3"}
    assert run(either, alone).reward == 3


def test_fields_of_json_can_be_named(server):
    grader = {**CHECK, "input": "{{sample.output_json.a.1.b}}", "reference": "7"}

    assert run(server.client, grader, '{"a": [0, {"b": 7}]}').reward == 1


@pytest.mark.parametrize(
    ("sample", "item"), [("not json", {}), ('{"a": []}', {}), ('{"a": "text"}', {})]
)
def test_what_is_not_there_is_an_error_of_the_sample_and_not_of_the_request(server, sample, item):
    graded = run(server.client, {**CHECK, "input": "{{sample.output_json.a.1}}"}, sample, item)

    assert graded.reward == 0 and graded.metadata.errors.invalid_variable_error


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({"type": "python", "name": "a", "source": "def grade(s, i): return 1"}, "grader"),
        ({**CHECK, "operation": "regex"}, "grader.string_check.operation"),
        (similar("meteor"), "grader.text_similarity.evaluation_metric"),
        ({"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "a + b"},
         "grader.calculate_output"),
        ({"type": "multi", "name": "m", "graders": {"a": CHECK},
          "calculate_output": "__import__('os').system('true')"}, "grader.calculate_output"),
    ],
)  # fmt: skip
def test_a_grader_that_cannot_be_run_is_refused(server, grader, param):
    graders = server.client.fine_tuning.alpha.graders
    for call in (lambda: run(server.client, grader), lambda: graders.validate(grader=grader)):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.param == param
        assert (
            grader["type"] != "python" or "`python` graders are disabled" in refused.value.message
        )


@pytest.mark.parametrize(
    "formula",
    ["a.b", "a[0]", "open('x')", "lambda: 1", "1/0", "9^9^9^9", "exp(9999)", "sqrt(-1)", "",
     "(" * 900, "a if 1 else a", "True", "max()", "'a'", "min(a=1)", "log(0)"],
)  # fmt: skip
def test_a_formula_is_arithmetic_and_nothing_else(formula):
    with pytest.raises(BadFormula):
        compute(formula, {"a": 1.0})
