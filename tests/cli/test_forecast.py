"""`burnish forecast` as a person and as a machine read it."""

import json

import pytest
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadRecipe


def said(*words):
    done = CliRunner().invoke(app, ["forecast", *words])
    if done.exception:
        raise done.exception
    return done.stdout


def test_the_overview_has_a_line_for_each_way_and_marks_what_fits():
    lines = said("--memory", "80GB").splitlines()

    found = {tuple(line.split("  ")[0:1]) for line in lines}
    assert ("Llama 3.1 70B",) in found
    small = next(line for line in lines if line.startswith("Llama 3.2 1B") and "full" in line)
    large = next(line for line in lines if line.startswith("Llama 3.1 70B") and "full" in line)
    assert small.count("*") == 4 and "*" not in large
    assert "* fits into 80 GB" in lines[-2]


def test_one_model_is_told_in_parts_that_sum_up():
    cells = json.loads(said("llama 3.1 8b", "--json"))

    assert {cell["model"] for cell in cells} == {"Llama 3.1 8B"}
    for cell in cells:
        parts = ("parameters", "gradients", "optimizer", "activations")
        assert cell["total_bytes"] == pytest.approx(sum(cell[f"{p}_bytes"] for p in parts), abs=4)
        assert cell["fits"] == (cell["total_bytes"] <= 0.9 * 24e9)
    assert "zero3     8     7.08        11.10      12.05" in said("llama 3.1 8b")


def test_a_memory_that_is_none_is_refused():
    with pytest.raises(BadRecipe, match="24GB"):
        said("--memory", "much")
