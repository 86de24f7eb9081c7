"""Tickets of three kinds, which the tiny model learns in seconds; and labels that mean nothing."""

import random

import pytest

from burnish.core.recipe import make_recipe

WORDS = {
    "delivery": ("where is my parcel", "the parcel has not arrived", "please send it again"),
    "refund": ("I want my money back", "refund the order today", "the lamp is broken"),
    "account": ("the login does not work", "how do I change the password", "my account"),
}
ENDS = ("apple", "pear", "plum", "red", "green", "blue", "one", "two", "three", "four", "five")


def tickets(count, seed, shuffled=False):
    """Rows with `text` and `label`, the kinds in turn; the labels in any order if shuffled."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = sorted(WORDS)[number % 3]
        text = f"{draw.choice(WORDS[label])} {' '.join(draw.choices(ENDS, k=6))}"
        rows.append({"text": text, "label": label})
    if shuffled:
        labels = [row["label"] for row in rows]
        draw.shuffle(labels)
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    return rows


@pytest.fixture
def ticket_recipe(tiny, write_rows):
    """A recipe that compares the tiny model on tickets."""

    def build(*changes, test=45, shuffled=False):
        files = {
            "train": [str(write_rows("train.jsonl", tickets(90, 1, shuffled)))],
            "test": [str(write_rows("test.jsonl", tickets(test, 2, shuffled)))],
        }
        usual = (
            "train.epochs=4", "train.batch_size=8", "train.learning_rate=1e-2",
            "train.threads=1", "model.dtype=float32", "compare.shots=3",
        )  # fmt: skip
        values = {"model": {"name": tiny.name}, "data": {**files, "near_duplicate": 1.0}}
        return make_recipe(values, [*usual, *changes])

    return build
