"""A student cut from a larger model."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from burnish.core.errors import BadRecipe
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.recipe import make_recipe
from burnish.distill.pruning import prune_layers
from burnish.distill.student import prepare_student
from burnish.models.load import load_model
from burnish.models.local_models import find_model, list_models
from burnish.train.run import train

SHAPE = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 7,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def test_first_and_last_layer_stay_and_the_others_are_evenly_apart():
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    layers = list(model.model.layers)

    kept = prune_layers(model, 3)

    assert kept == [0, 3, 6] and model.config.num_hidden_layers == 3
    assert list(model.model.layers) == [layers[place] for place in kept]


def test_all_layers_kept_is_the_same_model_and_kinds_of_layers_follow():
    config = Qwen3Config(**SHAPE, head_dim=8, use_sliding_window=True, sliding_window=4,
                         max_window_layers=3)  # fmt: skip
    kinds = list(config.layer_types)
    model = Qwen3ForCausalLM(config)

    assert len(set(kinds)) == 2 and prune_layers(model, 4) == [0, 2, 4, 6]
    assert model.config.layer_types == [kinds[place] for place in (0, 2, 4, 6)]


@pytest.mark.parametrize("of", ["model", "teacher"])
def test_a_student_is_a_model_like_any_other_and_is_cut_once(own_models, ticket_recipe, of):
    taught = train(ticket_recipe("train.max_steps=3"))
    recipe = make_recipe(
        {"model": {"name": "tiny"}},
        ["distill.layers=2", f"distill.layers_of={of}", f"distill.teacher.model={taught.run}"],
    )

    name = prepare_student(recipe)

    student = load_model(find_model(name), torch.float32)
    assert name in [model.name for model in list_models()]
    plain = load_model(find_model("tiny"), torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    same = torch.allclose(student(ids).logits, plain(ids).logits, atol=1e-5)
    assert same == (of == "model"), "two of two layers; the teacher has learnt something"
    before = (own_models / name / "model.json").stat().st_mtime_ns
    assert prepare_student(recipe) == name
    assert (own_models / name / "model.json").stat().st_mtime_ns == before


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(BadRecipe, match=r"has 7 layers.*\n.*layers=7"):
        prune_layers(LlamaForCausalLM(LlamaConfig(**SHAPE)), 8)


@pytest.mark.parametrize("of", ["model", "teacher"])
def test_a_student_may_be_narrower_and_learns_like_any_other(own_models, ticket_recipe, of, capsys):
    taught = train(ticket_recipe("train.max_steps=3")).run
    recipe = ticket_recipe(
        "distill.layers=2", "distill.neurons=0.5", "distill.heads=1", f"distill.layers_of={of}",
        f"distill.teacher.model={taught}",
    )  # fmt: skip
    set_reporter(LineReporter())

    name = prepare_student(recipe)

    told = capsys.readouterr().err.splitlines()
    student = load_model(find_model(name), torch.float32)
    config = student.config
    assert name.startswith("tiny-2-layers-0.5-neurons-1-heads-")
    assert (config.intermediate_size, config.num_key_value_heads) == (64, 1)
    assert (config.num_attention_heads, config.head_dim, config.hidden_size) == (2, 16, 64)
    assert [line.split() for line in told if line.startswith("neurons")] == [
        ["neurons", "a", "layer", "128", "64", "50.0%"]
    ]
    assert prepare_student(recipe) == name, "the same rows leave the same"
    other = ticket_recipe(*changes_of(recipe), "data.max_rows=40")
    assert prepare_student(other) != name, "other rows may leave others"
    learns = ticket_recipe(
        f"model.name={name}", "train.method=full", "train.learning_rate=3e-3", "train.max_steps=3",
        f"train.objective={{kind: distill, teacher: {taught}, attention: {{weight: 1}}}}",
    )  # fmt: skip
    assert train(learns).losses[-1] > 0


def changes_of(recipe):
    kept = recipe.distill
    return (
        f"distill.layers={kept.layers}", f"distill.neurons={kept.neurons}",
        f"distill.heads={kept.heads}", f"distill.layers_of={kept.layers_of}",
        f"distill.teacher.model={kept.teacher.model}",
    )  # fmt: skip


def test_the_width_is_measured_by_questions_too_and_by_nothing_not_at_all(
    own_models, ticket_recipe, write_rows
):
    asked = write_rows("asked.jsonl", [{"prompt": f"where is parcel {n}"} for n in range(20)])
    changes = ("distill.neurons=0.25", "distill.teacher.model=tiny")

    name = prepare_student(ticket_recipe(f"data.train=[{asked}]", *changes))

    assert load_model(find_model(name), torch.float32).config.intermediate_size == 32
    with pytest.raises(BadRecipe, match="no training rows to choose"):
        prepare_student(make_recipe({"model": {"name": "tiny"}}, changes))


def test_only_a_tokenizer_of_word_pieces_can_do_with_fewer(own_models, ticket_recipe):
    with pytest.raises(BadRecipe, match=r"this tokenizer is BPE.*\n.*distill.vocab_size out"):
        prepare_student(ticket_recipe("distill.vocab_size=300", "distill.teacher.model=tiny"))
    assert not list(own_models.glob("*pieces*"))
