"""Rows, recipes and a plan of the tiny model; training in a child process that may be killed."""

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from burnish.core.recipe import make_recipe
from burnish.core.records import Message, Row, Split
from burnish.core.sections import Task

WORDS = [
    "parcel",
    "refund",
    "lamp",
    "account",
    "password",
    "login",
    "order",
    "late",
    "broken",
    "money",
    "red",
    "green",
    "pear",
]


#: Objectives that learn from answers, and not from which one is better.
ANSWERS = ("sft", "distil", "custom")


def make_rows(count, seed=0, system="", longest=12):
    """Small conversations of unlike length, all behind the same system message if one is given."""
    draw = random.Random(seed)
    before = (Message("system", system),) if system else ()
    return tuple(
        Row(
            messages=(
                *before,
                Message("user", " ".join(draw.choices(WORDS, k=draw.randint(2, longest)))),
                Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))),
            ),
            file="rows.jsonl",
            line=line,
        )
        for line in range(1, count + 1)
    )


@pytest.fixture
def dataset():
    """26 rows to train, 6 to validate."""
    from burnish.data.load import Dataset

    rows = make_rows(32, system="Sort the request.")
    return Dataset(
        split=Split(rows[:26], rows[26:], ()),
        task=Task(),
        findings=(),
        notes=(),
        hashes={"rows.jsonl": "0"},
    )


def preferring(rows, kind="dpo"):
    """The same rows with another answer that is worse; for `kto`, every other answer is the worse
    one and marked so."""
    draw = random.Random(1)
    judged = []
    for place, row in enumerate(rows):
        worse = Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(1, 4))) + " no")
        if kind == "kto":
            answer = worse if place % 2 else row.messages[-1]
            judged.append(replace(row, messages=(*row.prompt, answer), desirable=place % 2 == 0))
        else:
            judged.append(replace(row, rejected=worse))
    return tuple(judged)


def chosen(kind):
    """The changes of a recipe that choose the objective `kind`; who teaches is the model itself."""
    own = Path(__file__).with_name("own_loss.py")
    return {
        "distil": ("train.objective={kind: distil, teacher: tiny, weight: 0.1}",),
        "custom": (f"train.objective={{kind: custom, file: {own}}}",),
    }.get(kind, (f"train.objective={kind}",))


def preferred(dataset, kind):
    """The dataset as the objective `kind` learns from it."""
    if kind in ANSWERS:
        return dataset
    parts = [preferring(part, kind) for part in (dataset.split.train, dataset.split.validation)]
    return replace(dataset, split=Split(*parts, ()))


@pytest.fixture
def recipe_of(tiny):
    """A recipe for the tiny model: 2 epochs of 7 steps, a checkpoint every 3."""

    def build(*changes):
        usual = (
            "train.batch_size=4", "train.epochs=2", "train.checkpoint_every=3", "train.threads=1",
            "train.micro_batch_tokens=128", "train.learning_rate=5e-3", "train.evaluate_every=5",
        )  # fmt: skip
        return make_recipe({"model": {"name": tiny.name}}, [*usual, *changes])

    return build


@pytest.fixture
def plan_of(tiny, tiny_tokenizer, recipe_of):
    """A plan ready to fit, in float32."""
    from burnish.train.language import encoded, prepare, seed_everything

    def build(rows, *changes, validation=()):
        recipe = recipe_of("model.dtype=float32", *changes)
        sides = [encoded(part, tiny_tokenizer, recipe) for part in (rows, validation)]
        seed_everything(0)
        return prepare(recipe, tiny, *sides)

    return build


def in_child(work):
    """Run `work` in a child process. Returns its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at_sync(number):
    """Kill this process, as a power cut would, in the middle of its `number`-th write to disk."""
    real, count = os.fsync, 0

    def fsync(descriptor):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def weights(run: Path):
    """The bytes of the trained adapter."""
    return (run / "artifact" / "adapter_model.safetensors").read_bytes()
