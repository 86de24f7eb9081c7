"""An artifact is the model that was trained, or it is refused."""

import pytest
import torch

from burnish.core.errors import BadData, NotFound
from burnish.core.recipe.methods import Lora
from burnish.models.artifact import find_base, load_artifact_model, open_artifact, save_artifact
from burnish.models.load import load_model
from burnish.train.adapters.registry import add_lora


@pytest.fixture
def saved(tiny, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    model = add_lora(load_model(tiny, torch.float32), Lora(rank=4)).model
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    artifact = save_artifact(tmp_path / "artifact", model, tiny_tokenizer, tiny, {"system": "Hi"})
    return model, artifact


def test_a_saved_adapter_answers_like_the_trained_model(saved):
    model, artifact = saved
    ids = torch.tensor([[5, 6, 7, 8]])

    loaded, _ = load_artifact_model(artifact, torch.float32)

    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert (artifact.kind, artifact.base, artifact.system) == ("adapter", "tiny", "Hi")


def test_a_changed_file_is_noticed(saved):
    _, artifact = saved
    file = artifact.path / "chat_template.jinja"
    file.write_text(file.read_text() + " ")

    with pytest.raises(BadData, match=r"chat_template\.jinja"):
        open_artifact(artifact.path)


def test_another_base_of_the_same_name_is_refused(saved, tiny):
    _, artifact = saved
    manifest = tiny.path / "model.json"
    before = manifest.read_text()
    try:
        manifest.write_text(before + "\n")
        with pytest.raises(BadData, match="not the model that the adapter was trained on"):
            find_base(artifact)
    finally:
        manifest.write_text(before)


def test_no_path_of_this_machine_is_in_an_artifact(saved, tmp_path):
    _, artifact = saved
    for file in artifact.path.glob("*.json"):
        assert str(tmp_path.parent) not in file.read_text()


def test_an_empty_folder_is_no_artifact(tmp_path):
    with pytest.raises(NotFound, match="no trained model"):
        open_artifact(tmp_path)
