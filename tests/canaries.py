"""Two adapters whose answers nobody can mistake, trained in seconds on the tiny model."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from burnish.core.folders import write_whole
from burnish.core.recipe import make_recipe
from burnish.core.records import Message, Row
from burnish.models.artifact import save_artifact
from burnish.models.chat import encode_row
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local import LocalModel, open_model, read_manifest, write_manifest

QUESTIONS = ("where is my parcel?", "red green blue", "change the password", "one two three")


def train_canary(local: LocalModel, runs: Path, name: str, cry: str) -> Path:
    """A run folder `name` whose adapter answers `cry` to everything."""
    torch.manual_seed(1)
    tokenizer = load_tokenizer(local)
    model = get_peft_model(
        load_model(local, torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    rows = [
        encode_row(tokenizer, Row((Message("user", asked), Message("assistant", cry))), 512)
        for asked in QUESTIONS
    ]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        for row in rows:
            ids = torch.tensor([row.ids])
            weights = torch.tensor(row.weights[1:])
            logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            loss = -(logs.gather(1, ids[0, 1:, None])[:, 0] * weights).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    run = runs / name
    run.mkdir(parents=True)
    make_recipe().save(run / "recipe.yaml")
    save_artifact(run / "artifact", model, tokenizer, local, {"run": name, "system": None})
    write_whole(run / "events.jsonl", "")
    return run


def base_that_can_stop(source: LocalModel, models: Path) -> LocalModel:
    """A copy of the tiny model whose end-of-turn token can be learnt.

    That token is also its padding, and padding begins as zeros; tied to the output, it never moves.
    """
    torch.manual_seed(2)
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(0, 0.2)
    folder = models / source.name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = read_manifest(source.path)
    write_manifest(folder, {key: value for key, value in facts.items() if key != "files"})
    return open_model(folder)


def two_canaries(tiny: LocalModel, home: Path) -> dict[str, str]:
    """Make a base and two runs below `home`; returns what each run cries, by its id."""
    local = base_that_can_stop(tiny, home / "models")
    cries = {"20260101-pirate": "my parcel apple", "20260102-parrot": "refund blue seven"}
    for name, cry in cries.items():
        train_canary(local, home / "runs", name, cry)
    return cries
