"""Rows, recipes and a plan of the tiny model; training in a child process that may be killed."""

import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.core.recipe import make_recipe
from burnish.core.records import Message, Row, Split
from burnish.core.sections import Task
from burnish.models.local import write_manifest
from tests.child import in_child

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


#: What the manifest says of a language model that a test makes.
FACTS = {"kind": "causal", "licence": "", "context_length": 1024, "has_template": True}

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


def logged(talks, turns=4, again=False):
    """Every turn of some talks as a row with all turns before it, as servers log them; shuffled.
    Its last answer is learnt, or all of them `again`."""
    single = make_rows(talks * turns, system="Sort the request.")
    rows = []
    for begin in range(0, len(single), turns):
        said = single[begin].messages[:1]
        for one in single[begin : begin + turns]:
            said = (*said, *one.messages[1:])
            row = replace(one, messages=said)
            rows.append(row if again else row.until(len(said) - 1))
    random.Random(2).shuffle(rows)
    return rows


def on_passages(passages, questions=5, longest=30):
    """Questions, each behind its passage; shuffled."""
    said = [
        " ".join(draw.choices(WORDS, k=longest)) for draw in map(random.Random, range(passages))
    ]
    return [
        replace(
            one,
            messages=(
                Message("user", f"{said[place % passages]} {one.messages[0].content}"),
                one.messages[1],
            ),
        )
        for place, one in enumerate(make_rows(passages * questions))
    ]


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


def weights_after(settings, folder):
    """Train once undisturbed and once killed at its first watched step and resumed: both reports,
    and the hash of each one's weights."""
    from burnish.train.run import train

    whole = train(settings, out=folder / "whole")

    def die(step, loss):
        raise SystemExit(9)

    assert in_child(lambda: train(settings, out=folder / "cut", watch=die)) != 0
    assert not (folder / "cut" / "artifact").exists()
    resumed = train(settings, resume=folder / "cut")
    facts = [folder / name / "artifact" / "artifact.json" for name in ("whole", "cut")]
    files = [json.loads(file.read_text())["files"] for file in facts]
    return whole, resumed, [own["model.safetensors"] for own in files]


@pytest.fixture
def models_beside_tiny(tiny, tiny_tokenizer, tmp_path, monkeypatch):
    """Makes a models folder with `tiny` and a random teacher of its tokens, of other sizes."""

    def make(name, **sizes):
        models = tmp_path / "models"
        shutil.copytree(tiny.path, models / "tiny")
        torch.manual_seed(1)
        config = LlamaConfig.from_pretrained(tiny.path)
        for size, value in {"hidden_size": 48, "head_dim": 12, **sizes}.items():
            setattr(config, size, value)
        config.layer_types = None
        LlamaForCausalLM(config).save_pretrained(models / name)
        tiny_tokenizer.save_pretrained(models / name)
        write_manifest(models / name, {"name": name, "source": "tests", **FACTS})
        monkeypatch.setenv("BURNISH_MODELS", str(models))
        return models

    return make
