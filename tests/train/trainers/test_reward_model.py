"""A reward model: learnt from pairs, resumed, measured with an interval, and learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from burnish import api
from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Split
from burnish.core.runs import Run, find_run
from burnish.data.load import Dataset
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.rewards import reward_function
from burnish.evaluate.run import evaluate_source
from burnish.models.artifact import open_artifact
from burnish.models.heads.reward_model import load_reward_model
from burnish.models.local_models import find_model
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.reward_model import RewardModelTrainer
from tests.fixtures.training import WORDS, make_rows


def pairs(count, seed=0):
    """Questions whose better answer holds `parcel`; all else is noise."""
    return tuple(
        replace(
            row,
            messages=(*row.prompt, Message("assistant", f"{row.answer} parcel")),
            rejected=Message("assistant", f"{row.answer} {WORDS[number % 5 + 1]}"),
        )
        for number, row in enumerate(make_rows(count, seed))
    )


def lines(rows):
    """The rows as a file has them."""
    return [
        {
            "prompt": [{"role": one.role, "content": one.content} for one in row.prompt],
            "chosen": row.answer,
            "rejected": row.rejected.content,
        }
        for row in rows
    ]


@pytest.fixture
def recipe(tiny, write_rows):
    def build(*changes, model=tiny.name):
        files = {
            "train": [str(write_rows("train.jsonl", lines(pairs(60))))],
            "test": [str(write_rows("test.jsonl", lines(pairs(40, seed=7))))],
        }
        usual = (
            "train.objective=reward", "train.method=full", "train.learning_rate=3e-3",
            "train.epochs=6", "train.batch_size=8", "train.threads=1", "model.dtype=float32",
            "train.patience=0",
        )  # fmt: skip
        values = {"model": {"name": model}, "data": {**files, "near_duplicate": 1.0}}
        return make_recipe(values, [*usual, *changes])

    return build


@pytest.mark.parametrize("method, rate", [("full", "3e-3"), ("lora", "1e-2")])
def test_what_makes_an_answer_better_is_learnt_and_measured_on_pairs(
    recipe, tmp_path, method, rate
):
    asked = recipe(f"train.method={method}", f"train.learning_rate={rate}")

    done = train(asked, out=tmp_path / "run")
    found = evaluate_source(asked, str(tmp_path / "run"), tmp_path / "measured")

    scores = found.scores
    assert scores.metric == "pair_accuracy" and scores.interval.n == 40
    assert scores.interval.low > 0.5 and scores.interval.value >= 0.9, scores.interval
    assert done.losses[-1] < done.losses[0]
    report = json.loads((tmp_path / "measured" / "report.json").read_text())
    assert report["value"] == scores.interval.value and report["perplexity"] is None
    right = next(item for item in scores.predictions if item.score)
    assert right.answer == right.expected and right.answer.endswith("parcel")


def test_loss_and_gradients_are_those_of_bradley_and_terry(recipe, tmp_path):
    asked = recipe("train.micro_batch_tokens=32")
    dataset = Dataset(Split(pairs(8), (), ()), asked.task, (), (), {})
    base = find_model(asked.model.name)
    trainer = RewardModelTrainer(TrainContext.create(asked, dataset, base))
    rows, _ = trainer.tokenize()
    plan = trainer.build(Run(Path()), rows, [])
    whole = 0.0
    for row in rows:
        better, worse = (
            plan.model(input_ids=torch.tensor([text])).logits[0, 0] for text in row.texts
        )
        whole = whole - torch.log(torch.sigmoid(better - worse)) / len(rows)
    weight = next(iter(plan.optimizer.weights.values()))
    (expected,) = torch.autograd.grad(whole, weight)

    learnt = plan.training_step(rows, 0)

    assert learnt.metrics["loss"] == pytest.approx(float(whole.detach()), abs=1e-5)
    name = next(iter(plan.optimizer.weights))
    torch.testing.assert_close(plan.optimizer.masters[name].grad, expected, atol=1e-5, rtol=1e-4)


def test_a_run_that_stops_goes_on_to_the_same_weights(recipe, tmp_path):
    asked = recipe("train.epochs=2", "train.checkpoint_every=2")
    train(asked, out=tmp_path / "whole")

    def stop(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, out=tmp_path / "halved", on_validation=stop)
    train(asked, resume=tmp_path / "halved")

    whole, halved = (
        load_reward_model(open_artifact(tmp_path / name / "artifact")).model.state_dict()
        for name in ("whole", "halved")
    )
    assert all(torch.equal(whole[name], halved[name]) for name in whole)


def test_answers_are_drawn_towards_what_a_reward_model_likes(recipe, tiny, tmp_path):
    run = train(recipe()).run
    grpo = {"kind": "grpo", "reward": {"kind": "model", "run": run}, "num_generations": 4}
    worth = reward_function(
        make_recipe({"train": {"objective": grpo}}).train.objective.reward, recipe().task
    )
    row = make_rows(1)[0]
    assert worth(row, "late parcel") > worth(row, "late money")

    changes = (
        "train.max_steps=2", "train.method=lora", "train.objective=" + json.dumps(grpo),
    )  # fmt: skip
    done = train(recipe(*changes), out=tmp_path / "run")

    assert done.steps == 2
    answers = (tmp_path / "run" / "answers.jsonl").read_text()
    text, reward, *_ = json.loads(answers.splitlines()[0])["groups"][0]["answers"][0]
    found = load_reward_model(open_artifact(find_run(run).artifact))
    first = json.loads(answers.splitlines()[0])["groups"][0]["row"]
    assert first and isinstance(text, str) and isinstance(reward, float)
    assert found.score([[Message("user", "a"), Message("assistant", "b")]])[0] == pytest.approx(
        found.score([[Message("user", "a"), Message("assistant", "b")]] * 3)[2], abs=1e-5
    )


def test_single_answers_are_refused_and_so_is_a_chat(recipe, write_rows, tmp_path):
    single = str(write_rows("single.jsonl", [{"prompt": "a", "completion": "b"}] * 4))
    with pytest.raises(BadData, match="a reward model learns from two"):
        train(recipe(f"data.train=[{single}]", "data.test=[]", "data.test_share=0"))
    assert not list(tmp_path.glob(".burnish/runs/*"))
    run = train(recipe("train.max_steps=1")).run

    with pytest.raises(BadRecipe, match="it says what an answer is worth"):
        open_local_engine(run)
    with pytest.raises(BadData, match="measured on pairs"):
        evaluate_source(recipe(f"data.test=[{single}]"), run)
    with pytest.raises(BadRecipe, match="makes no text"):
        api.chat(run)


def test_an_encoder_is_no_beginning(recipe, tiny_embedder):
    with pytest.raises(BadRecipe, match="trained from a language model"):
        train(recipe(model=tiny_embedder.name))


def test_of_a_long_conversation_the_end_counts(recipe, tmp_path):
    run = train(recipe("train.max_steps=1", "train.max_length=16")).run
    found = load_reward_model(open_artifact(find_run(run).artifact))
    one, other = (
        (Message("user", text + "red " * 40), Message("assistant", "late parcel"))
        for text in ("lamp ", "money ")
    )

    assert len(found.encode(one)) == 16
    assert found.encode(one) == found.encode(other)
    assert found.encode(one) != found.encode((*one[:1], Message("assistant", "late money")))
