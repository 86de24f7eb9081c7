"""Preferences are learnt as each answer alone would be, and as TRL learns them."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from burnish.core.errors import BadData, BadRecipe
from burnish.core.runs import Run
from burnish.models.chat_template import TokenizedRow
from burnish.models.load import load_model, load_tokenizer
from burnish.train.adapters.registry import METHODS, trainable_weights
from burnish.train.batching.examples import PreferenceExample
from burnish.train.batching.micro_batches import count_computed_tokens, micro_batches
from burnish.train.batching.packed import pack
from burnish.train.distillation.teacher_logits import TeacherLogits
from burnish.train.forward.logprobs import answer_logprobs
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.language_model import compute_validation_metrics, train_step
from burnish.train.losses import preference as preferences
from burnish.train.losses.linear import LinearLogProbs
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.rlhf.reference import ReferenceLogprobs
from tests.fixtures.training import ANSWERS, chosen, make_rows, preferring
from tests.train.batching.test_packed import stir


@pytest.fixture
def referred(plan_of, tiny_tokenizer, tmp_path):
    """A plan whose rows know their reference or lesson, and whose model has moved since."""

    count = itertools.count()

    def build(rows, *changes):
        run = Run(tmp_path / f"run-{next(count)}")
        plan = plan_of(rows, *changes)
        for stage in plan.objective.stages:
            if isinstance(stage, TeacherLogits):
                plan = stage.add_to(plan, tiny_tokenizer)
            plan = stage.before_first_step(plan, run, TrainState())
        stir(plan.model)
        return plan

    return build


def alone(model, answer):
    """The log-probability of one answer by `transformers` itself."""
    logits = model(input_ids=torch.tensor([answer.ids]), use_cache=False).logits[0, :-1]
    targets = torch.tensor(answer.ids[1:]).clamp(min=0)
    chances = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return (chances * torch.tensor(answer.weights[1:])).sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("system", ["", "Sort the request into one of the known kinds."])
def test_answers_that_share_their_question_are_what_each_is_alone(method, system, plan_of):
    rows = preferring(make_rows(5, system=system))
    changes = ("train.objective=dpo", f"train.method={method}")
    plan, plain = plan_of(rows, *changes), plan_of(rows, *changes)
    plain.language.set_attn_implementation("sdpa")
    for layer in plain.model.modules():
        if not isinstance(layer, torch.nn.Embedding):
            layer.__dict__.pop("forward", None)
    for each in (plan, plain):
        stir(each.model)
    answers = [answer for row in plan.rows for answer in row.answers]

    found = answer_logprobs(plan.language, pack(plan.rows))
    expected = torch.stack([alone(plain.language, answer) for answer in answers])

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    shares = torch.linspace(-1, 1, len(answers))
    (found * shares).sum().backward()
    (expected * shares).sum().backward()
    grads = {name: weight.grad for name, weight in trainable_weights(plan.model).items()}
    for name, weight in trainable_weights(plain.model).items():
        torch.testing.assert_close(grads[name], weight.grad, rtol=1e-3, atol=5e-5)


def test_a_question_is_computed_once_and_pairs_are_never_torn():
    def pair(question, *answers):
        before = tuple(range(100, 100 + question))
        return PreferenceExample(
            tuple(
                TokenizedRow(
                    (*before, *range(10 * place, 10 * place + n)), (*[0.0] * question, *[1.0] * n)
                )
                for place, n in enumerate(answers)
            )
        )

    rows = [pair(30, 3, 5), pair(30, 9, 2), pair(20, 4, 4)]

    assert count_computed_tokens(rows[:1]) == 30 + 3 + 5
    assert count_computed_tokens(rows[:2]) == 30 + 3 + 5 + 9 + 2
    assert count_computed_tokens(rows) == 20 + (10 + 8) + 11 + 8, "two of them have one question"
    batch = pack(rows)
    assert sorted(set(batch.answer_index.tolist())) == [0, 1, 2, 3, 4, 5]
    assert batch.layout.gather[0, 0] == 20, "the longer questions go on behind the shared prefix"
    batches = micro_batches(rows, 50)
    assert sorted(len(some) for some in batches) == [1, 2]
    assert all(count_computed_tokens(some) <= 50 for some in batches)


def test_log_probabilities_in_chunks_are_log_softmax():
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)
    weight = (3 * torch.randn(50, 16)).requires_grad_()
    targets, shares = torch.randint(0, 50, (300,)), torch.randn(300)

    own = LinearLogProbs.apply(hidden, weight, targets)
    plain = (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]

    torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad((each * shares).sum(), (hidden, weight)) for each in (own, plain)]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def trained_by_trl(kind, plan, tiny, tmp_path, **settings):
    """A trainer of TRL with the plan's weights."""
    trainers = {"dpo": (DPOTrainer, DPOConfig), "kto": (KTOTrainer, KTOConfig)}
    trainer_of, config_of = trainers[kind]
    if kind == "dpo":
        rows = [{"prompt": "red", "chosen": "pear", "rejected": "lamp"}] * 2
    else:
        rows = [{"prompt": "red", "completion": "pear", "label": bool(n)} for n in range(2)]
    trainer = trainer_of(
        model=load_model(tiny, torch.float32),
        args=config_of(
            output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True, report_to=[],
            bf16=False, disable_tqdm=True, gradient_checkpointing=False, **settings,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(tiny),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear",
                               task_type="CAUSAL_LM"),
    )  # fmt: skip
    ours = trainable_weights(plan.model)
    for name, weight in trainable_weights(trainer.model).items():
        weight.data.copy_(ours[name].data)
    return trainer


def cut(answer):
    """(question, answer) of an encoded row."""
    place = next(place for place, weight in enumerate(answer.weights) if weight)
    return list(answer.ids[:place]), list(answer.ids[place:])


def last_metrics(trainer):
    return {name: values[-1] for name, values in trainer._metrics["train"].items()}


def assert_same_step(plan, trainer, inputs, names):
    """One step of ours and one of TRL's: loss, metrics, gradients."""
    loss = trainer._compute_loss(trainer.model, trainer.data_collator(inputs), False)
    loss.backward()

    means = train_step(plan, plan.rows)

    assert means["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    theirs = last_metrics(trainer)
    for own, name in names.items():
        assert means[own] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), own
    expected = {name: weight.grad for name, weight in trainable_weights(trainer.model).items()}
    for name, master in plan.optimizer.masters.items():
        torch.testing.assert_close(master.grad, expected[name], rtol=2e-3, atol=2e-6)


NAMES = {
    "rewards/chosen": "rewards/chosen",
    "rewards/rejected": "rewards/rejected",
    "rewards/margin": "rewards/margins",
}


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_a_step_of_dpo_is_that_of_trl(loss, referred, tiny, tmp_path):
    plan = referred(
        preferring(make_rows(6, system="Sort the request.")),
        "train.objective=dpo", f"train.objective.loss={loss}", "train.objective.beta=0.3",
        "train.batch_size=6", "train.micro_batch_tokens=100",
    )  # fmt: skip
    assert len(micro_batches(plan.rows, 100)) > 2
    trainer = trained_by_trl("dpo", plan, tiny, tmp_path, loss_type=loss, beta=0.3)
    inputs = [
        {
            "prompt_ids": cut(row.answers[0])[0],
            "chosen_ids": cut(row.answers[0])[1],
            "rejected_ids": cut(row.answers[1])[1],
        }
        for row in plan.rows
    ]

    assert_same_step(plan, trainer, inputs, {**NAMES, "rewards/accuracy": "rewards/accuracies"})


def test_a_step_of_kto_is_that_of_trl(referred, tiny, tmp_path):
    plan = referred(
        preferring(make_rows(6, system="Sort the request."), "kto"),
        "train.objective=kto", "train.objective.beta=0.3", "train.objective.desirable_weight=1.2",
        "train.objective.undesirable_weight=0.7", "train.batch_size=6",
        "train.micro_batch_tokens=100",
    )  # fmt: skip
    trainer = trained_by_trl(
        "kto", plan, tiny, tmp_path, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7
    )
    inputs = [
        {
            "prompt_ids": cut(row.answers[0])[0],
            "completion_ids": cut(row.answers[0])[1],
            "KL_completion_ids": cut(row.mismatched)[1],
            "label": row.desirable,
        }
        for row in plan.rows
    ]

    assert_same_step(plan, trainer, inputs, {**NAMES, "kl": "kl"})


def chances(seed=0):
    torch.manual_seed(seed)
    return [-torch.rand(7, dtype=torch.float64) * 3 - 0.01 for _ in range(2)]


def test_the_odds_of_orpo_and_the_loss_of_simpo_are_those_of_trl():
    chosen, rejected = chances()
    trainer = SimpleNamespace(
        beta=0.7, simpo_gamma=0.4, loss_type="simpo", label_smoothing=0.0, alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip

    odds = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]
    simpo = CPOTrainer.cpo_loss(trainer, chosen, rejected)[0]

    found = preferences.orpo(chosen, rejected, 0.7)
    torch.testing.assert_close((found + chosen).float(), -odds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(preferences.simpo(chosen, rejected, 0.7, 0.4), simpo)


def test_the_losses_are_the_formulas_of_their_papers():
    chosen, rejected = chances()
    likely, unlikely = chosen.exp(), rejected.exp()
    odds = (likely / (1 - likely)) / (unlikely / (1 - unlikely))
    margin = 4 * (chosen - rejected)
    right = 1 / (1 + torch.exp(-0.5 * margin))
    sigmoid = -(0.9 * right.log() + 0.1 * (1 - right).log())

    torch.testing.assert_close(
        preferences.orpo(chosen, rejected, 0.2), -chosen - 0.2 * (odds / (1 + odds)).log()
    )
    torch.testing.assert_close(preferences.dpo_sigmoid(margin, 0.5, 0.1), sigmoid)


@pytest.mark.parametrize("chance", [-1e-12, 0.0, -1e-3, -0.7, -80.0])
def test_the_odds_of_orpo_stay_numbers_at_both_ends(chance):
    chosen = torch.tensor([chance], requires_grad=True)

    loss = preferences.orpo(chosen, torch.tensor([-1.0]), 0.1)
    loss.sum().backward()

    assert torch.isfinite(loss).all() and torch.isfinite(chosen.grad).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_division_a_step_however_it_is_cut(objective, referred):
    rows = make_rows(8)
    rows = rows if objective in ANSWERS else preferring(rows, objective)

    found = []
    for tokens in (64, 4096):
        plan = referred(rows, *chosen(objective), f"train.micro_batch_tokens={tokens}")
        means = train_step(plan, plan.rows)
        found.append((means, {n: m.grad.clone() for n, m in plan.optimizer.masters.items()}))

    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4, abs=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-3, atol=1e-6)


def test_before_training_nothing_is_gained(plan_of, tmp_path):
    rows = preferring(make_rows(6))
    plan = plan_of(rows, "train.objective=dpo", "train.micro_batch_tokens=64")

    plan = ReferenceLogprobs().before_first_step(plan, Run(tmp_path / "run"), TrainState())

    means = compute_validation_metrics(plan, plan.rows)
    assert means["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert means["rewards/margin"] == pytest.approx(0, abs=1e-4)


def test_a_lost_reference_is_not_measured_from_a_model_that_has_moved(plan_of, tmp_path):
    plan = plan_of(preferring(make_rows(4)), "train.objective=dpo")

    with pytest.raises(BadData, match=r"reference\.jsonl isn't whole"):
        ReferenceLogprobs().before_first_step(plan, Run(tmp_path / "run"), TrainState(step=3))


def test_rows_of_another_shape_than_the_objective_learns_from_are_refused(plan_of):
    plain = make_rows(3)

    with pytest.raises(BadData, match="rows 1, 2, 3: there is no rejected answer"):
        plan_of(plain, "train.objective=dpo")
    with pytest.raises(BadData, match="nothing says whether"):
        plan_of(plain, "train.objective=kto")
    with pytest.raises(BadData, match="row 2: the answer is undesirable"):
        plan_of(preferring(plain, "kto"), "train.objective=sft")
    assert len(plan_of(preferring(plain), "train.objective=sft").rows) == 3


def test_kto_takes_pairs_apart_and_compares_with_the_answer_to_another_question(plan_of):
    rows = preferring(make_rows(3))

    plan = plan_of(rows, "train.objective=kto")

    assert [row.desirable for row in plan.rows] == [True, False] * 3
    assert all(cut(row.mismatched)[0] == cut(row.answers[0])[0] for row in plan.rows)
    assert cut(plan.rows[0].mismatched)[1] == cut(plan.rows[2].answers[0])[1]
    assert cut(plan.rows[1].mismatched)[1] == cut(plan.rows[2].answers[0])[1]


def test_a_question_that_leaves_no_room_has_no_mismatched_answer():
    from burnish.train.batching.examples import kto_examples

    rows = preferring(make_rows(2), "kto")
    encode = {
        rows[0].messages: TokenizedRow((1, 2), (0, 1)),
        rows[1].messages: TokenizedRow((3,), (1,)),
    }

    found = kto_examples(rows, lambda row: encode.get(row.messages, TokenizedRow((), ())))

    assert [row.mismatched for row in found] == [None, None]
    assert replace(found[0], reference=(0.0,)).answers_with_reference == found[0].answers


def test_an_option_that_would_do_nothing_is_refused(recipe_of):
    with pytest.raises(BadRecipe, match="label_smoothing is for loss sigmoid"):
        recipe_of(
            "train.objective=dpo", "train.objective.loss=ipo",
            "train.objective.label_smoothing=0.1",
        )  # fmt: skip
