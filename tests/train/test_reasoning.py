"""A base that thinks by itself is asked not to, but where thoughts are learnt or wanted."""

import copy
import shutil
from dataclasses import replace

import pytest

from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message
from burnish.engines.answerers.local import LocalAnswerer
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.scoring import perplexity
from burnish.models.chat_template import render_prompt
from burnish.models.local_models import find_model, write_manifest
from burnish.train.batching.sampler import group_rows
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.causal_lm import CausalLMTrainer
from tests.fixtures.training import FACTS
from tests.models.test_chat_template import SWITCHABLE

ASK = (Message("user", "parcel late"),)


@pytest.fixture
def thinker(tiny, tiny_tokenizer, tmp_path, monkeypatch):
    """The tiny model with the template of one that thinks."""
    folder = tmp_path / "models" / "thinker"
    shutil.copytree(tiny.path, folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = SWITCHABLE
    tokenizer.save_pretrained(folder)
    write_manifest(folder, {"name": "thinker", "source": "tests", **FACTS})
    monkeypatch.setenv("BURNISH_MODELS", str(folder.parent))
    return "thinker"


def asked(engine):
    return render_prompt(engine.tokenizer, ASK).partition("assistant\n")[2]


def with_thought(row):
    said = replace(row.messages[-1], reasoning="red?")
    return replace(row, messages=(*row.messages[:-1], said))


def learning(dataset, rows):
    return replace(dataset, split=replace(dataset.split, train=tuple(rows)))


@pytest.mark.parametrize("thinks", [False, True])
def test_what_is_trained_is_asked_as_it_has_learnt(thinker, dataset, tmp_path, thinks):
    if thinks:
        dataset = learning(dataset, map(with_thought, dataset.split.train))
    recipe = make_recipe({"model": {"name": thinker}}, ["train.max_steps=2", "train.epochs=1"])

    report = train(recipe, dataset, out=tmp_path / "run")

    assert report.steps
    assert asked(open_local_engine(thinker)) == "<think>\n\n</think>\n\n", (
        "a base is measured like this"
    )
    engine = open_local_engine(tmp_path / "run")
    assert asked(engine) == ("" if thinks else "<think>\n\n</think>\n\n")
    saved = (tmp_path / "run/artifact/chat_template.jinja").read_text()
    assert saved == f"{{% set enable_thinking = {str(thinks).lower()} %}}{SWITCHABLE}"


@pytest.mark.parametrize("change", [with_thought, lambda row: row])
def test_a_conversation_with_its_thoughts_is_learnt_answer_by_answer(
    thinker, dataset, tmp_path, change
):
    singles = [change(row) for row in dataset.split.train]
    talks = [
        replace(one, messages=(*one.messages, *other.messages[-2:]))
        for one, other in zip(singles[::2], singles[1::2], strict=True)
    ]
    recipe = make_recipe({"model": {"name": thinker}}, ["train.max_steps=1"])
    given = TrainContext.create(recipe, learning(dataset, talks), find_model(thinker))

    rows = given.dataset.split.train
    assert [row.trained_turns for row in rows] == [(len(row.messages) - 1,) for row in rows]
    said = [(m.content, m.reasoning) for row in rows for m in (row.messages[-1],)]
    assert said == [(m.content, m.reasoning) for row in singles for m in (row.messages[-1],)]
    pairs = {frozenset((place, place + 1)) for place in range(0, len(rows), 2)}
    units = group_rows(CausalLMTrainer(given).tokenize()[0], recipe.train)
    assert set(map(frozenset, units)) == pairs, "what they have in common is computed once"
    assert train(recipe, learning(dataset, talks), out=tmp_path / "run").steps == 1
    engine = open_local_engine(tmp_path / "run")
    assert perplexity(engine, talks) == perplexity(engine, rows[1::2]), "of the last answer"


def test_a_teacher_whose_thoughts_are_wanted_is_asked_to_think(thinker):
    cut, kept = LocalAnswerer(thinker, 4), LocalAnswerer(thinker, 4, thinks=True)

    assert asked(cut.engine) and not asked(kept.engine)
    assert cut.identity != kept.identity, "what one said isn't taken for the other's"
