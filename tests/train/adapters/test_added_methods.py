"""What stands beside the base's weights: bottlenecks, virtual tokens."""

import json

import pytest
import torch
from peft import PeftModel

from burnish.core.errors import BadRecipe
from burnish.core.records import Message, Prompt
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.export.formats.registry import write_export
from burnish.models.adapters.bottleneck import add_bottlenecks
from burnish.models.adapters.soft_prompts import virtual_token_ids
from burnish.models.artifact import load_artifact_model, open_artifact
from burnish.models.load import load_model
from burnish.models.merge import CannotMerge
from burnish.train.batching.packed import pack
from burnish.train.loop.language_model import train_step
from burnish.train.run import train
from tests.fixtures.training import die_at_sync
from tests.fixtures.worker_process import in_child

KILLED = -9
METHODS = {
    "bottleneck": "{kind: bottleneck, size: 8}",
    "mlp": "{kind: bottleneck, size: 8, after: mlp}",
    "prompt": "{kind: prompt, num_virtual_tokens: 5}",
    "prefix": "{kind: prefix, num_virtual_tokens: 5}",
}
ASKED = Prompt((Message("system", "Sort the request."), Message("user", "parcel late")), 6)


def learnt(run):
    """The bytes of what was trained."""
    files = sorted((run / "artifact").glob("*.safetensors"))
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_in_the_same_bits(method, dataset, recipe_of, tmp_path):
    recipe = recipe_of(
        f"train.method={METHODS[method]}", "model.dtype=bfloat16",
        *(["train.learning_rate=0.2"] if "tokens" in METHODS[method] else []),
    )  # fmt: skip
    whole = train(recipe, dataset, out=tmp_path / "whole")
    assert sum(whole.losses[-4:]) < 0.99 * sum(whole.losses[:4])

    def first():
        die_at_sync(12)
        train(recipe, dataset, out=tmp_path / "killed")

    assert in_child(first) == KILLED
    train(recipe, dataset, resume=tmp_path / "killed")

    assert learnt(tmp_path / "killed") == learnt(tmp_path / "whole")


@pytest.mark.parametrize("method", METHODS)
def test_the_base_stays_what_it_was(method, dataset, tiny, plan_of):
    plan = plan_of(dataset.split.train, f"train.method={METHODS[method]}")
    before = load_model(tiny, torch.float32).state_dict()

    after = plan.model.state_dict()

    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert set(plan.optimizer.weights).isdisjoint(before)


def test_new_bottlenecks_change_nothing(tiny_model):
    ids = torch.tensor([[5, 6, 7]])
    before = tiny_model(ids).logits

    add_bottlenecks(tiny_model, 4, "both")

    assert torch.equal(tiny_model(ids).logits, before)
    assert len([m for m in tiny_model.modules() if hasattr(m, "bottleneck")]) == 4


def test_a_model_without_known_projections_is_refused(tiny_model):
    tiny_model.model.layers[0].mlp.down_proj = torch.nn.Identity()
    tiny_model.config.num_hidden_layers = 3

    with pytest.raises(BadRecipe, match="Bottleneck adapters don't support"):
        add_bottlenecks(tiny_model, 4, "mlp")


@pytest.mark.parametrize("method", METHODS)
def test_served_beside_its_base_each_answers_for_itself(method, dataset, recipe_of, tmp_path):
    train(recipe_of(f"train.method={METHODS[method]}"), dataset, out=tmp_path / "run")

    fleet = open_model_pool(["tiny", str(tmp_path / "run")])

    ours, base = (fleet.find(name).answer([ASKED])[0].text for name in ("run", "tiny"))
    assert ours == open_local_engine(tmp_path / "run" / "artifact").answer([ASKED])[0].text
    assert base == open_local_engine("tiny").answer([ASKED])[0].text != ours


@pytest.mark.parametrize("method", METHODS)
def test_it_is_exported_as_it_is_and_never_merged(method, dataset, recipe_of, tmp_path):
    recipe = recipe_of(f"train.method={METHODS[method]}", "train.max_steps=2")
    train(recipe, dataset, out=tmp_path / "run")
    artifact = open_artifact(tmp_path / "run" / "artifact")

    for to, quant in (("merged", "f32"), ("gguf", "q8_0"), ("gguf-lora", "q8_0")):
        with pytest.raises(CannotMerge, match="beside the base"):
            write_export(tmp_path / to, artifact, to, quant)
        assert not (tmp_path / to).exists()

    written = write_export(tmp_path / "out", artifact, "adapter", "as trained")
    assert written.kind == artifact.kind
    facts = json.loads((tmp_path / "out" / "artifact.json").read_text())
    assert (tmp_path / "out" / facts["export"]["file"]).exists()
    assert open_local_engine(tmp_path / "out").answer([ASKED]) is not None


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_peft_answers_the_same_from_the_same_folder(method, dataset, recipe_of, tiny, tmp_path):
    recipe = recipe_of(f"train.method={METHODS[method]}", "model.dtype=float32")
    train(recipe, dataset, out=tmp_path / "run")
    ours, _ = load_artifact_model(open_artifact(tmp_path / "run" / "artifact"), torch.float32)
    theirs = PeftModel.from_pretrained(
        load_model(tiny, torch.float32), tmp_path / "run" / "artifact"
    )
    ids = torch.tensor([[9, 8, 7, 6]])

    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -4:]
        found = ours(torch.cat([torch.tensor([virtual_token_ids(5)]), ids], 1)).logits[:, -4:]

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_batch_behind_virtual_tokens_gives_the_gradients_of_its_rows(method, dataset, plan_of):
    """Gradient checkpointing included: it computes the layers a second time."""
    plan = plan_of(
        dataset.split.train[:4],
        f"train.method={METHODS[method]}",
        "train.gradient_checkpointing=true",
    )
    train_step(plan, plan.rows)
    together = {name: m.grad.clone() for name, m in plan.optimizer.masters.items()}
    assert all(grad.any() for grad in together.values())
    plan.optimizer.reset()

    whole = plan.objective.weight(plan.rows)
    for row in plan.rows:
        judge = plan.objective.make_loss(plan.language, [row], 128)
        (judge(plan.language, pack([row])).loss / whole).backward()
        plan.optimizer.accumulate()

    for name, master in plan.optimizer.masters.items():
        torch.testing.assert_close(master.grad, together[name], rtol=1e-4, atol=1e-6)


def test_a_student_with_virtual_tokens_learns_from_a_teacher_without(dataset, recipe_of, tmp_path):
    recipe = recipe_of(
        f"train.method={METHODS['prompt']}", "train.objective=distill",
        "train.objective.teacher=tiny", "train.objective.weight=0.1", "train.learning_rate=0.05",
    )  # fmt: skip
    report = train(recipe, dataset, out=tmp_path / "run")

    assert report.losses[-1] < report.losses[0]
