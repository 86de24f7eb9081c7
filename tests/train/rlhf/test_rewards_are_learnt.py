"""The model learns from what its own answers are worth, as TRL's does, and may be killed."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from trl import GRPOConfig, GRPOTrainer

from burnish.core.errors import BadData
from burnish.core.journal import read_journal
from burnish.core.recipe.data import Task
from burnish.core.records import Row
from burnish.core.runs import Run, runs_folder
from burnish.evaluate.rewards import reward_function
from burnish.models.load import load_model, load_tokenizer
from burnish.train.adapters.registry import METHODS, trainable_weights
from burnish.train.batching.micro_batches import micro_batches
from burnish.train.loop.language_model import train_step
from burnish.train.losses.policy_gradient import group_advantages
from burnish.train.rlhf.rollouts import RolloutSampler
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, make_rows, weights
from tests.fixtures.worker_process import in_child

OWN = Path(__file__).with_name("own_reward.py")
REWARD = f"reward: {{kind: file, file: {OWN}}}"


def grpo(**settings):
    """The change of a recipe that learns from the tests' own reward."""
    given = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"train.objective={{kind: grpo, {REWARD}{given}}}"


def test_plain_text_asks_nothing(recipe_of, dataset, tmp_path):
    texts = tuple(Row(text=f"word {n}", file="notes.txt", line=n) for n in range(1, 9))
    split = replace(dataset.split, train=texts, validation=())

    with pytest.raises(BadData, match="rows 1, 2, 3, 4, 5 and 3 more: there is no question"):
        train(recipe_of(grpo()), replace(dataset, split=split), out=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_the_reward_rises(recipe_of, dataset, tmp_path):
    recipe = recipe_of(
        grpo(num_generations=8, max_new_tokens=8, beta=0.0), "train.epochs=5", "train.batch_size=8",
        "model.dtype=float32", "train.learning_rate=1e-2", "train.evaluate_every=50",
    )  # fmt: skip

    report = train(recipe, dataset, out=tmp_path / "run")

    steps = [e for e in read_journal(tmp_path / "run/metrics.jsonl") if "learning_rate" in e]
    rewards = [entry["reward"] for entry in steps]
    assert sum(rewards[-5:]) / 5 > 3 * sum(rewards[:5]) / 5
    assert {"kl", "reward_std", "answer_tokens", "cut", "skipped", "clipped"} <= steps[0].keys()
    assert report.steps == len(steps)


@pytest.fixture
def drawn_of(plan_of, tiny_tokenizer, tmp_path):
    """A plan, and what it learns from in its first step: a model that has moved a little since the
    answers were drawn, and further since it began."""
    count = itertools.count()

    def build(*changes, task=Task()):  # noqa: B008
        plan = plan_of(make_rows(6, system="Sort the request."), *changes)
        settings = plan.settings.objective
        run = Run(tmp_path / f"run-{next(count)}")
        drawing = RolloutSampler(
            plan, settings, tiny_tokenizer, reward_function(settings.reward, task), run
        )
        stir(plan)
        rows, measured = drawing.examples_for_step(plan.rows, 0)
        stir(plan)
        return replace(plan, example_source=drawing), rows, measured

    return build


def stir(plan):
    torch.manual_seed(1)
    with torch.no_grad():
        for master in plan.optimizer.masters.values():
            master.add_(torch.randn_like(master) * 0.03)
    plan.optimizer.copy_to_model()


def by_trl(plan, rows, tiny, tmp_path, **settings):
    """Loss and gradients of TRL's trainer with the plan's weights, on the same answers."""
    trainer = GRPOTrainer(
        model=load_model(tiny, torch.float32),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4,
            use_cpu=True, report_to=[], bf16=False, disable_tqdm=True,
            gradient_checkpointing=False, **settings,
        ),
        train_dataset=Dataset.from_list([{"prompt": "red"}] * 8),
        processing_class=load_tokenizer(tiny),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear",
                               task_type="CAUSAL_LM"),
    )  # fmt: skip
    for name, weight in trainable_weights(trainer.model).items():
        weight.data.copy_(trainable_weights(plan.model)[name].data)
    answers = [(row, one) for row in rows for one in row.answers]
    prompts = [list(row.prompt) for row, _ in answers]
    said = [list(one.ids[len(row.prompt) :]) for row, one in answers]

    def along(numbers):
        left = iter(numbers)
        return padded([[next(left) for _ in ids] for ids in said])

    inputs = {
        "prompt_ids": padded(prompts, left=True).long(),
        "prompt_mask": padded([[1] * len(ids) for ids in prompts], left=True).long(),
        "completion_ids": padded(said).long(),
        "completion_mask": padded([[1] * len(ids) for ids in said]).long(),
        "advantages": torch.tensor([gain for row in rows for gain in row.advantages]),
        "old_per_token_logps": along(number for row in rows for number in row.old),
        "ref_per_token_logps": along(number for row in rows for number in row.reference),
        "num_items_in_batch": torch.tensor(sum(map(len, said))),
    }
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach()), {n: w.grad for n, w in trainable_weights(trainer.model).items()}


def padded(rows, left=False):
    longest = max(map(len, rows))
    return torch.tensor(
        [[0.0] * (longest - len(row)) * left + list(map(float, row)) +
         [0.0] * (longest - len(row)) * (not left) for row in rows]
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_a_step_is_that_of_trl(loss, drawn_of, tiny, tmp_path):
    plan, rows, _ = drawn_of(
        grpo(num_generations=4, max_new_tokens=10, beta=0.3, num_iterations=2, epsilon=0.05,
             epsilon_high=0.1, loss=loss, temperature=0.8),
        "train.batch_size=6", "train.micro_batch_tokens=128",
    )  # fmt: skip
    assert len(micro_batches(rows, 128)) > 1

    expected, grads = by_trl(
        plan, rows, tiny, tmp_path, loss_type=loss, beta=0.3, epsilon=0.05, epsilon_high=0.1,
        max_completion_length=10, temperature=0.8,
    )  # fmt: skip
    means = train_step(plan, rows)

    assert means["loss"] == pytest.approx(expected, rel=1e-4)
    assert 0 < means["clipped"] < 1 and means["kl"] > 0
    for name, master in plan.optimizer.masters.items():
        torch.testing.assert_close(master.grad, grads[name], rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_advantages_are_those_of_the_paper(scaled):
    rewards = torch.tensor([[0.0, 1.0, 1.0, 4.0], [2.0, 2.0, 2.0, 2.0]])

    found = group_advantages(rewards, scaled)

    above = torch.tensor([-1.5, -0.5, -0.5, 2.5])
    expected = above / (above.square().sum() / 3).sqrt() if scaled else above
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)
    assert found[1].tolist() == [0.0] * 4


def test_groups_of_equal_worth_are_left_out_and_counted(drawn_of, tmp_path):
    plan, rows, measured = drawn_of(
        "train.objective={kind: grpo, answers: 3, max_new_tokens: 4, beta: 0, "
        "reward: {kind: string_check, reference: never, operation: eq}}", "train.batch_size=4",
    )  # fmt: skip

    assert not rows and measured["skipped"] == 1.0 and measured["reward"] == 0.0


def test_a_group_of_equal_worth_still_holds_a_model_that_has_moved_to_where_it_began(drawn_of):
    """Advantages of 0, and the divergence of each answer as in other groups."""
    plan, rows, measured = drawn_of(
        "train.objective={kind: grpo, answers: 3, max_new_tokens: 4, beta: 0.1, "
        "reward: {kind: string_check, reference: never, operation: eq}}", "train.batch_size=4",
    )  # fmt: skip

    assert len(rows) == len(plan.rows) and measured["skipped"] == 1.0
    assert all(row.advantages == (0.0, 0.0, 0.0) and row.reference for row in rows)
    means = train_step(plan, rows)
    assert means["kl"] > 0 and means["loss"] == pytest.approx(0.1 * means["kl"], rel=1e-4)
    assert any(weight.grad.any() for weight in plan.optimizer.masters.values())


def test_a_run_without_any_difference_changes_no_weight_and_says_so(recipe_of, dataset, tmp_path):
    recipe = recipe_of(
        "train.objective={kind: grpo, answers: 2, max_new_tokens: 4, "
        "reward: {kind: string_check, reference: never, operation: eq}}", "train.max_steps=13",
        "train.weight_decay=0.1",
    )  # fmt: skip

    report = train(recipe, dataset, out=tmp_path / "run")

    tensors = load_file(tmp_path / "run/artifact/adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert [found.code for found in report.diagnoses] == ["all_rewards_equal"]


def test_an_answer_is_what_the_engine_says(drawn_of, tiny_tokenizer):
    """Drawn with the fused layers and the question read once for all, it is the same answer."""
    plan, rows, _ = drawn_of(grpo(num_generations=4, max_new_tokens=12), "train.batch_size=6")
    group = plan.rows[0]

    likeliest = plan.example_source._sample([group], 0, 2, 0.0)[0]

    plan.language.set_attn_implementation("sdpa")
    ids = torch.tensor([group.prompt])
    expected = plan.language.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        eos_token_id=list(plan.example_source.engine.engine.ends), pad_token_id=0,
    )[0, len(group.prompt) :]  # fmt: skip
    assert list(likeliest[0].ids) == list(likeliest[1].ids) == expected.tolist()
    assert len({one.ids for one in rows[0].answers}) > 1, "drawn answers differ"


def test_killed_between_two_updates_it_ends_in_the_same_bits(recipe_of, dataset, tmp_path):
    recipe = recipe_of(
        grpo(num_generations=4, max_new_tokens=6, num_iterations=2), "train.method.dropout=0.1",
        "train.max_steps=7", "train.batch_size=6", "model.dtype=bfloat16",
    )  # fmt: skip
    train(recipe, dataset, out=tmp_path / "whole")
    drawn = read_journal(tmp_path / "whole/answers.jsonl")
    assert [entry["drawing"] for entry in drawn] == [0, 1, 2, 3]

    for moment in (18, 26):
        run = tmp_path / f"killed-{moment}"

        def first(run=run, moment=moment):
            die_at_sync(moment)
            train(recipe, dataset, out=run)

        assert in_child(first) == -9
        train(recipe, dataset, resume=run)

        assert weights(run) == weights(tmp_path / "whole"), f"killed at write {moment}"
        again = read_journal(run / "answers.jsonl")
        assert [e["groups"] for e in again] == [e["groups"] for e in drawn]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_rewards(method, recipe_of, dataset, tmp_path):
    """And is held to what it was: the divergence from before the first step is nothing."""
    recipe = recipe_of(
        grpo(num_generations=3, max_new_tokens=4), f"train.method={method}", "train.max_steps=2",
        "model.dtype=float32",
    )  # fmt: skip

    train(recipe, dataset, out=tmp_path / "run")

    first, second = (
        e for e in read_journal(tmp_path / "run/metrics.jsonl") if "learning_rate" in e
    )
    assert abs(first["kl"]) < 1e-6 < second["kl"]


def test_an_adapter_that_is_trained_further_is_its_own_reference(recipe_of, dataset, tmp_path):
    before = train(recipe_of("train.max_steps=3"), dataset, out=runs_folder() / "before")
    recipe = recipe_of(
        grpo(num_generations=3, max_new_tokens=4), f"train.method.init_from={before.run}",
        "train.max_steps=2",
    )  # fmt: skip

    train(recipe, dataset, out=tmp_path / "run")

    first = read_journal(tmp_path / "run/metrics.jsonl")[0]
    assert abs(first["kl"]) < 1e-3
