"""What an answer is worth, by each kind of reward."""

import pytest

from burnish.core.errors import BadRecipe
from burnish.core.recipe.data import Data, Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.rewards import Reward
from burnish.core.records import Message, Row
from burnish.data.read import read_files
from burnish.evaluate.rewards import REWARDS, reward_function

ROW = Row(
    messages=(Message("user", "Where is it?"), Message("assistant", "In Athens")),
    item={"wanted": {"city": "Athens"}},
    file="rows.jsonl",
    line=3,
)


def worth(reward, said, row=ROW, kind="qa"):
    recipe = make_recipe({"train": {"objective": {"kind": "grpo", "reward": reward}}})
    return reward_function(recipe.train.objective.reward, Task(kind=kind))(row, said)


@pytest.mark.parametrize(
    ("reward", "said", "expected"),
    [
        ("metric", "in athens", 1.0),
        ({"metric": "accuracy"}, "in athens", 0.0),
        ({"kind": "string_check"}, "In Athens", 1.0),
        ({"kind": "string_check", "operation": "ne"}, "In Athens", 0.0),
        ({"kind": "string_check", "operation": "ilike", "reference": "{{item.wanted.city}}"},
         "near ATHENS", 1.0),
        ({"kind": "string_check", "input": "{{sample.output_json.city}}", "reference": "Athens"},
         '{"city": "Athens"}', 1.0),
        ({"kind": "string_check", "input": "{{sample.output_json.city}}", "operation": "ne"},
         "no JSON at all", 0.0),
        ({"kind": "text_similarity", "evaluation_metric": "rouge_1"}, "Athens", 2 / 3),
    ],
)  # fmt: skip
def test_an_answer_is_worth_what_the_reward_says(reward, said, expected):
    assert worth(reward, said) == pytest.approx(expected)


def test_a_formula_counts_its_graders_together():
    several = {
        "kind": "multi",
        "graders": {
            "right": {"kind": "string_check", "operation": "like", "reference": "Athens"},
            "like": {"kind": "text_similarity", "evaluation_metric": "rouge_1"},
        },
        "calculate_output": "right - 0.5 * like",
    }

    assert worth(several, "In Athens") == pytest.approx(0.5)
    with pytest.raises(BadRecipe, match="names wrong"):
        worth({**several, "calculate_output": "right + wrong"}, "")


def test_what_a_row_lacks_is_told_with_its_number():
    with pytest.raises(BadRecipe, match=r"rows.jsonl:3: \{\{item.price\}\} is not there"):
        worth({"kind": "string_check", "reference": "{{item.price}}"}, "12")
    with pytest.raises(BadRecipe, match="the row has no answer"):
        worth("metric", "x", Row(messages=ROW.messages[:1], file="rows.jsonl", line=1))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def reward(answer, row): return len(row.answer) / 10", ""),
        ("def reward(answer, row): return float('nan')", "returned nan"),
        ("def reward(answer, row): return row.nothing", "failed on rows.jsonl:3"),
        ("def other(answer, row): return 1", "no function"),
        ("def reward(", "doesn't load"),
    ],
)
def test_an_own_function_is_asked_and_its_faults_are_told(code, words, tmp_path):
    (tmp_path / "own.py").write_text(code)
    reward = {"kind": "file", "file": str(tmp_path / "own.py")}

    if not words:
        assert worth(reward, "x") == pytest.approx(0.9)
        return
    with pytest.raises(BadRecipe, match=words):
        worth(reward, "x")


def test_rows_of_questions_keep_the_keys_that_graders_name(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}], "wanted": 1}\n')
    other = tmp_path / "more.jsonl"
    other.write_text('{"prompt": "a", "wanted": 1}\n')

    rows = read_files([file, other], Data(), Task()).rows

    assert [dict(row.item) for row in rows] == [{"wanted": 1}] * 2
    assert [row.question[-1].content for row in rows] == ["a"] * 2


def test_every_reward_of_the_recipe_is_known():
    kinds = {kind.model_fields["kind"].default for kind in Reward.__args__}
    assert kinds == set(REWARDS)


def test_what_was_thought_before_an_answer_is_seen_by_an_operators_own_file_only(tmp_path):
    said = "<think>\nRome?\n</think>\n\nIn Athens"
    file = tmp_path / "reward.py"
    file.write_text("def reward(said, row):\n    return '<think>' in said\n")

    assert worth({"kind": "string_check"}, said) == worth("metric", said) == 1.0
    assert worth({"kind": "file", "file": str(file)}, said) == 1.0
