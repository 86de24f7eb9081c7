"""Every family is trained and answers as `transformers` computes it, whatever path it takes."""

import copy

import pytest
import torch

from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.open import open_local_engine
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.packed import pack
from burnish.train.forward.path import batches_of, forward_path
from burnish.train.forward.proof import choose_forward_path
from burnish.train.objectives.sft import sft_loss
from burnish.train.run import train
from tests.fixtures.families import FAMILIES, make_family, save_family

#: Families that are trained on the packed path: no change may lose one of them unseen.
PACKED = {
    "apertus", "arcee", "biogpt", "bitnet", "cohere", "cohere2", "ctrl", "deepseek_v2",
    "deepseek_v3", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3", "gemma3n", "gemma4",
    "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granite4_dense", "granitemoe",
    "helium", "hunyuan", "llama", "ministral", "mistral", "mixtral", "nanochat", "olmo",
    "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
}  # fmt: skip

#: Families whose requests can't be answered in one batch.
SINGLE = {
    "bamba", "falcon_h1", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "minimax",
    "qwen3_next", "recurrent_gemma", "rwkv", "zamba2",
}  # fmt: skip


def rows_of_tokens():
    """Rows with common beginnings, the longest many times as long as a window."""
    draw = torch.Generator().manual_seed(3)
    lengths = (70, 12, 31, 25)
    begin, question = ([5, 6, 7, 8], torch.randint(3, 400, (20,), generator=draw).tolist())
    rows = []
    for number, length in enumerate(lengths):
        own = torch.randint(3, 400, (length,), generator=draw).tolist()
        ids = (*begin, *(question if number > 1 else ()), *own)
        weights = tuple(float(place % 3 > 0) for place in range(len(ids)))
        rows.append(TokenizedRow(ids, weights))
    return rows


def own_loss(model, row):
    """The summed loss of a row by the model's own forward pass."""
    ids = torch.tensor([row.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return (losses * torch.tensor(row.weights[1:])).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_those_of_the_model_itself(name):
    model = make_family(name)
    reference, rows = copy.deepcopy(model), rows_of_tokens()
    expected = sum(own_loss(reference, row) for row in rows)
    expected.backward()

    choose_forward_path(model, model, name, longest=100)
    loss = sum(sft_loss(model, pack(some)) for some in batches_of(model, rows, 400))
    loss.backward()

    assert forward_path(model).is_packed == (name in PACKED)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    largest = max(float(w.grad.norm()) for w in reference.parameters() if w.grad is not None)
    for (key, weight), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        if other.grad is not None and bool(other.grad.any()):
            error = float((weight.grad - other.grad).norm())
            assert error <= 2e-3 * (float(other.grad.norm()) + 0.05 * largest), key


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_generate(name, tiny_tokenizer):
    model = make_family(name)
    reference = copy.deepcopy(model)
    texts = ("a red lamp", "the order of my parcel is late and the lamp is broken again", "pear")
    prompts = [Prompt((Message("user", text),), max_new_tokens=5) for text in texts]

    engine = LocalEngine(MultiLoraModel(model), tiny_tokenizer, name)
    found = engine.answer(prompts)

    assert (engine.path.requests != "batched") == (name in SINGLE)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([engine.build_request(prompt).ids])
        whole = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5
        )
        expected = tiny_tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == expected


@pytest.mark.parametrize("name", ["gemma2", "granite", "lfm2", "gpt_oss", "mamba"])
def test_a_run_says_on_which_path_it_trained_and_its_adapter_is_served(
    name, tmp_path, monkeypatch, dataset, tiny_tokenizer
):
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path))
    save_family(name, tmp_path / name, tiny_tokenizer)
    said = []
    monkeypatch.setattr("burnish.train.forward.path.say", said.append)
    # PEFT has no adapters for all linear layers of Mamba.
    method = "full" if name == "mamba" else "lora"
    recipe = make_recipe(
        {"model": {"name": name, "dtype": "float32"}},
        [
            "train.batch_size=8",
            "train.epochs=1",
            "train.max_length=200",
            "train.threads=1",
            f"train.method={method}",
        ],
    )

    report = train(recipe, dataset, out=tmp_path / "run")

    events = read_journal(tmp_path / "run" / "events.jsonl")
    path = next(event for event in events if event["event"] == "forward_path")
    assert path["rows"] == ("packed" if name in PACKED else "padded")
    assert ("its own forward pass, padded rows" in " ".join(said)) == (name not in PACKED)
    (row, *_) = dataset.split.validation
    engine = open_local_engine(tmp_path / "run" / "artifact")
    scored = engine.log_likelihood(dataset.split.validation)
    loss = -sum(log for log, _ in scored) / sum(tokens for _, tokens in scored)
    assert loss == pytest.approx(report.best_validation_loss, rel=1e-3)
    assert engine.answer([Prompt(row.prompt, max_new_tokens=4)])
