"""The example's mixed questions keep what they promise: types, and no fact learnt beforehand."""

import json
import runpy
from pathlib import Path

from burnish.core.recipe.recipe import load_recipe
from burnish.data.load import load

DESK = Path(__file__).parents[2] / "examples" / "support-desk"


def test_the_mixed_rows_are_what_the_script_makes():
    made = runpy.run_path(str(DESK / "mix.py"))

    rows = [*made["questions"](), *made["letters"]()]

    lines = (DESK / "mixed.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_no_fact_of_the_test_is_learnt_and_each_type_is_asked_often_enough():
    dataset = load(load_recipe(DESK / "mixed.yaml"))

    asked, learnt = dataset.split.test, dataset.split.train
    pages = {row.group for row in asked if row.group}
    assert pages and not pages & {row.group for row in learnt}
    types = [row.type for row in asked]
    assert min(types.count(kind) for kind in ("fact", "style", "both")) >= 30
    facts = {row.answer.split("\n")[-3] for row in asked if row.type == "both"}
    letters = [row.answer for row in learnt if row.type == "style"]
    assert not any(fact in letter for fact in facts for letter in letters)
