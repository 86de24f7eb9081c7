"""Learning from a teacher's distributions: the loss, its gradient, and lessons that are kept."""

import math

import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.core.recipe.objectives import Distillation
from burnish.core.recipe.recipe import make_recipe
from burnish.train.distillation import teacher_logits as lessons
from burnish.train.losses.divergence import LinearDivergence, top_k_logprobs
from burnish.train.run import train

VOCABULARY = 300


def dense(hidden, weight, learnt, teacher, settings):
    """The same loss, written down plainly, with whole distributions and autograd."""
    targets, scale = learnt
    logits = hidden @ weight.T
    entropies = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    heat = settings.temperature
    chosen = (teacher / heat).topk(min(settings.top_k, VOCABULARY)).indices

    def buckets(some):
        logs = (some / heat).log_softmax(-1)
        others = logs.scatter(1, chosen, -math.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logs.gather(1, chosen), others.clamp_min(math.log(1e-20))], -1)

    ours, theirs = buckets(logits), buckets(teacher)

    def kl(p, q):
        return (p.exp() * (p - q)).sum(-1)

    if settings.divergence == "forward_kl":
        apart = kl(theirs, ours)
    elif settings.divergence == "reverse_kl":
        apart = kl(ours, theirs)
    else:
        mixture = (settings.beta * theirs.exp() + (1 - settings.beta) * ours.exp()).log()
        apart = settings.beta * kl(theirs, mixture) + (1 - settings.beta) * kl(ours, mixture)
    losses = (1 - settings.weight) * entropies + settings.weight * heat**2 * apart
    return (losses * scale).sum()


def case(seed=0, places=300, width=16):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(places, width, generator=draw, requires_grad=True)
    weight = torch.randn(VOCABULARY, width, generator=draw, requires_grad=True)
    teacher = 3 * torch.randn(places, VOCABULARY, generator=draw)
    targets = torch.randint(0, VOCABULARY, (places,), generator=draw)
    scale = (torch.rand(places, generator=draw) > 0.2).float()
    return hidden, weight, (targets, scale), teacher


@pytest.mark.parametrize("top_k", [1, 7, VOCABULARY])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_loss_and_gradients_are_those_of_the_plain_formula(divergence, temperature, top_k):
    settings = Distillation(
        divergence=divergence, temperature=temperature, top_k=top_k, weight=0.7,
        **({"beta": 0.3} if divergence == "jsd" else {}),
    )  # fmt: skip
    hidden, weight, learnt, teacher = case()
    plain = dense(hidden, weight, learnt, teacher, settings)
    wanted = torch.autograd.grad(plain, (hidden, weight))

    lesson = top_k_logprobs(teacher.clone(), temperature, top_k)
    loss, entropies, apart = LinearDivergence.apply(hidden, weight, learnt, lesson, settings)
    loss.backward()

    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    mixed = (0.3 * entropies + 0.7 * apart) @ learnt[1]
    torch.testing.assert_close(mixed, plain, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((hidden.grad, weight.grad), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_student_that_says_the_same_has_nothing_to_learn(divergence):
    settings = Distillation(divergence=divergence, top_k=5, weight=1.0)
    hidden, weight, learnt, _ = case()
    lesson = top_k_logprobs((hidden @ weight.T).detach().clone(), 1.0, 5)

    loss, _, apart = LinearDivergence.apply(hidden, weight, learnt, lesson, settings)
    loss.backward()

    assert apart.abs().max() < 1e-5 and hidden.grad.abs().max() < 1e-4


def test_a_sure_teacher_and_a_sure_student_give_finite_numbers():
    settings = Distillation(divergence="reverse_kl", top_k=3, weight=1.0)
    hidden, weight, learnt, teacher = case()
    loss, _, _ = LinearDivergence.apply(
        100 * hidden, weight, learnt, top_k_logprobs(1000 * teacher, 1.0, 3), settings
    )
    loss.backward()

    assert loss.isfinite() and hidden.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("divergence", "beta"), [("forward_kl", 0), ("jsd", 0.3), ("reverse_kl", 1)]
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_that_of_trl(divergence, beta, temperature):
    gkd = pytest.importorskip("trl.experimental.gkd")
    settings = Distillation(
        divergence=divergence, temperature=temperature, top_k=VOCABULARY, weight=1.0,
        **({"beta": beta} if divergence == "jsd" else {}),
    )  # fmt: skip
    hidden, weight, (targets, _), teacher = case()
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        hidden @ weight.T, teacher, beta=beta, temperature=temperature, reduction="sum"
    )
    wanted = torch.autograd.grad(theirs, (hidden, weight))

    lesson = top_k_logprobs(teacher.clone(), temperature, VOCABULARY)
    learnt = (targets, torch.ones(len(targets)))
    loss, _, _ = LinearDivergence.apply(hidden, weight, learnt, lesson, settings)
    (loss / temperature**2).backward()

    torch.testing.assert_close(loss / temperature**2, theirs, rtol=1e-4, atol=1e-4)
    for ours, other in zip((hidden.grad, weight.grad), wanted, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


DISTIL = ("train.objective.kind=distill", "train.objective.weight=1.0", "train.objective.top_k=20")


@pytest.fixture
def teacher(recipe_of, dataset):
    """A run of the tiny model that has learnt the rows."""
    return train(recipe_of("train.epochs=4"), dataset).run


def counting(monkeypatch):
    """How often a teacher is loaded."""
    real, loads = lessons.load_teacher, []
    monkeypatch.setattr(lessons, "load_teacher", lambda *words: loads.append(words) or real(*words))
    return loads


def test_a_student_comes_closer_to_its_teacher_who_is_asked_once(
    recipe_of, dataset, teacher, monkeypatch, tmp_path
):
    loads = counting(monkeypatch)
    recipe = recipe_of(*DISTIL, f"train.objective.teacher={teacher}", "train.method=full",
                       "train.epochs=6", "train.learning_rate=1e-3")  # fmt: skip

    report = train(recipe, dataset, out=tmp_path / "one")
    again = train(recipe, dataset, out=tmp_path / "two")

    assert report.losses[-1] < 0.3 * report.losses[0]
    assert len(loads) == 1 and again.losses == report.losses, (
        "found on the disk, nothing else moved"
    )
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    train(recipe_of(*DISTIL, f"train.objective.teacher={teacher}", "train.objective.top_k=5"),
          dataset)  # fmt: skip
    assert len(loads) == 2, "another number of tokens is another lesson"


def weights_of(run):
    return (run / "artifact" / "model.safetensors").read_bytes()


def test_the_kept_lessons_are_those_of_the_teacher_alone(
    plan_of, tiny, tiny_tokenizer, dataset, teacher
):
    from burnish.engines.local.open import open_local_engine

    named = f"train.objective.teacher={teacher}"
    plan = plan_of(dataset.split.train, *DISTIL, named, validation=dataset.split.validation)
    taught = lessons.TeacherLogits(plan.settings.objective).add_to(plan, tiny_tokenizer)
    model = open_local_engine(teacher).model

    for row, before in zip((*taught.rows, *taught.validation), (*plan.rows, *plan.validation),
                           strict=True):  # fmt: skip
        assert row.row is before
        places = [place for place, weight in enumerate(before.weights) if weight > 0]
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([before.ids])).logits[0].log_softmax(-1)
        wanted = logs[torch.tensor(places) - 1].topk(20)
        torch.testing.assert_close(
            torch.tensor(row.logprobs[:, :-1]), wanted.values, rtol=1e-4, atol=1e-4
        )
        total = torch.tensor(row.logprobs).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)


def test_what_makes_no_lesson_is_refused(recipe_of, dataset, teacher, tiny_folder, tmp_path):
    with pytest.raises(BadRecipe, match=r"train\.objective\.teacher"):
        train(recipe_of(*DISTIL), dataset)
    with pytest.raises(BadRecipe, match="beta is for"):
        make_recipe({}, ["train.objective.kind=distill", "train.objective.beta=0.2"])
