"""Models that see: what they learn, kept, resumed, measured, asked."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from burnish import api
from burnish.compare.run import compare
from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt
from burnish.core.runs import Run, find_run
from burnish.data.load import load
from burnish.engines.local.open import open_local_engine
from burnish.models.artifact import open_artifact
from burnish.models.chat_template import encode_row, process_prompt
from burnish.models.local_models import find_model
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.vision import VisionTrainer
from tests.fixtures.vision_models import COLOURS, WRITERS, image_file, lines, row_of, shown


def recipe_of(folder, *changes, model="llava"):
    """Pictures and their colours; the rows are written into the folder."""
    files = {}
    for number, (name, count) in enumerate((("train", 24), ("validation", 6), ("test", 9))):
        files[name] = [str(folder / f"{name}.jsonl")]
        (folder / f"{name}.jsonl").write_text("\n".join(lines(count, seed=number)))
    values = {"model": {"name": model, "dtype": "float32"}, "data": files}
    usual = [
        "train.method=full", "train.learning_rate=3e-3", "train.epochs=4", "train.batch_size=6",
        "train.patience=0", "task.kind=generation", "evaluate.metric=exact_match",
    ]  # fmt: skip
    return make_recipe(values, [*usual, *changes])


@pytest.fixture
def recipe(seeing, tmp_path):
    return recipe_of(tmp_path)


@pytest.fixture(params=list(WRITERS))
def any_model(request, seeing):
    return request.param


def begin(recipe, run=None):
    """The plan of a recipe before its first step."""
    base = find_model(recipe.model.name)
    trainer = VisionTrainer(TrainContext.create(recipe, load(recipe), base))
    rows, validation = trainer.tokenize()
    return trainer.build(run, rows, validation)


def test_loss_and_gradients_are_those_of_the_model_itself(any_model, tmp_path):
    plan = begin(recipe_of(tmp_path, model=any_model))
    plan.model.eval()
    weights = list(plan.model.parameters())
    for example in plan.rows[:3]:
        ids, learnt = example.tokenized.ids, example.tokenized.weights
        labels = [token if weight else -100 for token, weight in zip(ids, learnt, strict=True)]
        given = process_prompt(plan.tokenizer, example.row.prompt).inputs(ids, plan.model)
        mean = plan.model(**given, labels=torch.tensor([labels])).loss
        own = mean * example.tokenized.target_count
        loss = plan._loss(example)

        assert float(loss.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
        ours, theirs = (torch.autograd.grad(one, weights, allow_unused=True) for one in (loss, own))
        for a, b in zip(ours, theirs, strict=True):
            assert a is b is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_pictures_are_learnt_kept_and_answered(recipe, tmp_path):
    report = train(recipe)
    artifact = open_artifact(find_run(report.run).artifact)
    engine = open_local_engine(report.run)

    assert artifact.kind == "vision"
    assert (artifact.path / "preprocessor_config.json").exists()
    answers = engine.answer([Prompt((shown(one, seed="new"),), 4) for one in COLOURS])
    assert [answer.text for answer in answers] == list(COLOURS)
    bound = [Prompt((shown(one, seed="new"),), 4, tuple(COLOURS)) for one in COLOURS]
    assert [answer.text for answer in engine.answer(bound)] == list(COLOURS)
    recipe.save(tmp_path / "recipe.yaml")
    found = api.evaluate(tmp_path / "recipe.yaml", source=report.run)
    assert found.as_dict()["value"] == 1.0


def test_an_adapter_is_in_the_language_model_only(seeing, tmp_path):
    recipe = recipe_of(tmp_path, "train.method={kind: lora, rank: 4}", "train.max_steps=2")

    report = train(recipe)

    folder = find_run(report.run).artifact
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert names
    assert all(".language_model." in name for name in names)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "llava"
    engine = open_local_engine(report.run)
    assert engine.answer([Prompt((shown("red"),), 2)])[0].tokens_in > 4


def test_a_killed_run_goes_on_to_the_same_weights(recipe, tmp_path, monkeypatch):
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"max_steps": 4, "checkpoint_every": 2})}
    )
    whole = train(recipe, out=tmp_path / "whole")
    from burnish.train.loop import loop

    kept = loop.save_and_prune

    def dies(plan, run, state):
        kept(plan, run, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_and_prune", dies)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path / "cut")
    monkeypatch.setattr(loop, "save_and_prune", kept)
    train(recipe, resume=tmp_path / "cut")

    one, other = (load_file(Run(tmp_path / name).artifact / "model.safetensors")
                  for name in ("whole", "cut"))  # fmt: skip
    assert whole.steps == 4
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_compare_measures_the_routes_that_see(recipe):
    labels = ["task.kind=classification", f"task.labels=[{', '.join(COLOURS)}]"]
    settings = make_recipe(recipe.model_dump(mode="json"), [*labels, "evaluate.metric=auto"])

    result = compare(settings)

    assert set(result.routes) == {"base", "few_shot", "fine_tuned"}
    assert result.routes["fine_tuned"].scores.interval.value == 1.0
    with pytest.raises(BadRecipe, match="would ignore"):
        compare(make_recipe(settings.model_dump(mode="json"), ["compare.routes=[base, encoder]"]))


def test_a_run_does_not_go_on_with_other_pictures(seeing, tmp_path):
    folder, rows = tmp_path / "pictures", tmp_path / "rows.jsonl"
    folder.mkdir()
    told = [{"prompt": f"Which? {n}", "completion": "red", "image": f"{n}.png"} for n in range(12)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in told))

    def paint(colour):
        for number in range(12):
            (folder / f"{number}.png").write_bytes(image_file(colour, seed=number))

    data = {"train": [str(rows)], "images": str(folder), "columns": {"image": "image"}}
    changes = ["model.name=llava", "train.max_steps=2", "task.kind=generation",
               "data.test_share=0"]  # fmt: skip
    recipe = make_recipe({"data": data}, changes)
    paint("red")
    train(recipe, out=tmp_path / "run")
    paint("blue")

    with pytest.raises(BadData, match=r"data .* changed"):
        train(recipe, resume=tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        "train.objective=dpo",
        "train.objective=classify",
        "train.method=qlora",
        "train.method={kind: lora, init: pissa}",
        "train.gradient_checkpointing=true",
        "train.quantization_aware=q4_0",
    ],
)
def test_what_models_that_see_are_not_trained_with_is_refused_by_name(seeing, tmp_path, change):
    with pytest.raises(BadRecipe, match="is a vision-language model, which doesn't go with"):
        train(recipe_of(tmp_path, change))

    assert not list((tmp_path / ".burnish").glob("runs/*"))


def test_a_picture_behind_the_last_learnt_answer_is_seen_all_the_same(any_model, tmp_path):
    recipe = recipe_of(tmp_path, model=any_model)
    turns = [shown("red"), Message("assistant", "red"), shown("blue", "And this?")]
    row = {"messages": [turn.as_wire() for turn in turns]}
    row["messages"].append({"role": "assistant", "content": "blue", "weight": 0})
    (tmp_path / "train.jsonl").write_text((json.dumps(row) + "\n") * 2)

    plan = begin(recipe)

    assert plan.rows[0].tokenized.target_count == plan.rows[1].tokenized.target_count > 0
    assert plan._compute_metrics(plan.rows, learns=True)["loss"] > 0


def test_rows_without_pictures_are_learnt_too(recipe):
    plan = begin(recipe)
    row = row_of("red")
    plain = replace(row, messages=(Message("user", "Say red."), row.messages[1]))
    example = replace(plan.rows[0], tokenized=encode_row(plan.tokenizer, plain, 64), row=plain)

    assert plan._compute_metrics([example], learns=True)["loss"] > 0
