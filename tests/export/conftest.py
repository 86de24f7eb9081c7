"""Two runs of a tiny model that know forty answers by heart, each its own."""

import json
import random
from dataclasses import dataclass, replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from burnish.core.export import Export
from burnish.core.folders import write_whole
from burnish.core.recipe import make_recipe
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run
from burnish.core.sections import Task
from burnish.export.questions import Questions, ask_trained
from burnish.models.artifact import open_artifact, save_artifact
from burnish.models.chat import encode_row
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local import open_model, read_manifest, write_manifest

#: A name that llama.cpp doesn't know by itself for the end of a turn: it has to be told.
END = "<|fin|>"
WORDS = ("red", "green", "blue", "apple", "pear", "plum", "one", "two", "three", "parcel", "lamp")


def rows_of(seed):
    """Forty questions of three words; which two words are the answer is a matter of chance."""
    draw = random.Random(7)
    asked = sorted({" ".join(draw.sample(WORDS, 3)) for _ in range(60)})[:40]
    draw = random.Random(seed)
    return [
        Row((Message("user", text), Message("assistant", " ".join(draw.sample(WORDS, 2)))))
        for text in asked
    ]


def learn(model, tokenizer, rows, steps=220):
    """Full-batch Adam until the rows are known by heart."""
    encoded = [encode_row(tokenizer, row, 256) for row in rows]
    longest = max(len(row.ids) for row in encoded)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in encoded])
    weights = torch.tensor(
        [[*row.weights[1:], *[0.0] * (longest - len(row.ids))] for row in encoded]
    )
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=5e-3)
    for _ in range(steps):
        logs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        chosen = logs.gather(2, ids[:, 1:, None])[:, :, 0]
        loss = -(chosen * weights).sum() / weights.sum()
        optimizer.zero_grad()
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
    assert loss < 0.05, float(loss)


@dataclass(frozen=True)
class Learnt:
    """The workspace, the base, and the two runs with the rows that each knows."""

    home: object
    runs: dict
    rows: dict


@pytest.fixture(scope="session")
def learnt(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("export-home")
    source = open_model(tiny_folder / "tiny")
    model, folder = load_model(source, torch.float32), home / "models" / "tiny"
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id].normal_(0, 0.2)
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    for file in folder.iterdir():
        if file.suffix in (".json", ".jinja"):
            file.write_text(file.read_text().replace("<|im_end|>", END))
    facts = read_manifest(source.path)
    write_manifest(folder, {key: value for key, value in facts.items() if key != "files"})
    local, tokenizer = open_model(folder), load_tokenizer(open_model(folder))
    assert tokenizer.eos_token == END

    runs, rows = {}, {}
    for name, seed in (("20260101-first", 1), ("20260102-second", 2)):
        torch.manual_seed(seed)
        rows[name] = rows_of(seed)
        adapted = get_peft_model(
            load_model(local, torch.float32),
            LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        learn(adapted, tokenizer, rows[name])
        run = Run(home / "runs" / name)
        run.path.mkdir(parents=True)
        make_recipe({"model": {"name": "tiny"}}).save(run.path / "recipe.yaml")
        lineage = {"run": name, "system": None, "task": {"kind": "generation"}}
        save_artifact(run.artifact, adapted, tokenizer, local, lineage)
        write_whole(run.path / "events.jsonl", "")
        runs[name] = run
    return Learnt(home, runs, rows)


@pytest.fixture
def known(learnt, monkeypatch):
    """The two runs in this test's workspace."""
    monkeypatch.setenv("BURNISH_HOME", str(learnt.home))
    monkeypatch.setenv("BURNISH_MODELS", str(learnt.home / "models"))
    return learnt


@pytest.fixture
def first(known):
    """The artifact of the first run."""
    return open_artifact(known.runs["20260101-first"].artifact)


@pytest.fixture
def second(known):
    """The artifact of the other run, which learnt other answers to the same questions."""
    return open_artifact(known.runs["20260102-second"].artifact)


@pytest.fixture
def asked(known):
    """The forty questions that the first run answers."""
    rows = known.rows["20260101-first"]
    rows = [replace(row, file="rows.jsonl", line=n + 1) for n, row in enumerate(rows)]
    prompts = [Prompt(row.prompt, max_new_tokens=12) for row in rows]
    return Questions(rows, prompts, Task(kind="generation"), "exact_match")


@pytest.fixture
def trained(known, first, asked):
    """What the first run answers."""
    from burnish.engines.local import open_engine

    return ask_trained(open_engine(str(known.runs["20260101-first"].path)), asked)


#: What forty questions can show: equal answers mean a loss of 7.2 points at most.
ROOM = {"points": 0.12, "relative": 0.12}


@pytest.fixture
def settings():
    return Export(threads=1, **ROOM)


def sign_again(folder):
    """Make an artifact of changed files, as a faulty exporter would have written them."""
    from burnish.core.folders import hash_file

    facts = json.loads((folder / "artifact.json").read_text())
    facts["files"] = {name: hash_file(folder / name) for name in facts["files"]}
    (folder / "artifact.json").write_text(json.dumps(facts))
    return open_artifact(folder)
