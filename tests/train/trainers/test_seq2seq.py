"""Encoder-decoders: what they read, what they learn, kept, resumed, measured, asked, exported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
)

from burnish import api
from burnish.compare.routes import with_routes
from burnish.compare.run import compare
from burnish.core.errors import AuditFailed, BadData, BadRecipe
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run, find_run
from burnish.data.load import load
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import open_engine
from burnish.evaluate.run import evaluate_source
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.run import export
from burnish.export.search.run import search_formats
from burnish.models.artifact import open_artifact
from burnish.models.chat_template import encode_pair, encode_prompt, encode_row, target_prefix
from burnish.models.load import load_tokenizer
from burnish.models.pull import pull
from burnish.models.seq2seq import load_seq2seq
from burnish.models.token_audit import audit
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.seq2seq import Seq2SeqTrainer
from tests.fixtures.training import weights_after

TURNS = (
    Message("system", "Say it again."),
    Message("user", "red"),
    Message("assistant", "red"),
    Message("user", "blue pear"),
    Message("assistant", "blue pear"),
)


def test_the_encoder_reads_all_before_the_last_answer_joined_by_blank_lines(tiny_t5):
    tokenizer = load_tokenizer(tiny_t5)
    row = Row(messages=TURNS)
    source, target = encode_pair(tokenizer, row)

    assert tiny_t5.kind == "seq2seq" and tiny_t5.context_length == 128
    assert tokenizer.decode(source) == "Say it again.\n\nred\n\nred\n\nblue pear<|im_end|>"
    assert tokenizer.decode(target) == "blue pear<|im_end|>"
    encoded = encode_row(tokenizer, row, 1000)
    assert encoded.ids == (*source, *target)
    assert encoded.weights == (*[0.0] * len(source), *[1.0] * len(target))
    assert encode_prompt(tokenizer, row.prompt) == source, "what is asked is what was learnt"


def test_the_check_says_how_rows_are_read_and_finds_what_cannot_be_learnt(
    tiny_t5, write_rows, capsys
):
    rows = [{"prompt": "red", "completion": "red"}, {"prompt": "red " * 40, "completion": "red"}]
    file = write_rows("rows.jsonl", rows)
    set_reporter(LineReporter())
    report = api.check([file], model=tiny_t5.name, changes=["train.max_length=32"])

    found = {one.code: one.rows for one in report.findings if one.severity == "error"}
    assert found == {"answer_cut": (2,), "no_trained_token": (2,)}
    assert "joined by blank lines, without a chat template" in capsys.readouterr().err
    tokenizer = load_tokenizer(tiny_t5)
    assert not audit([Row(messages=TURNS)], tokenizer, 64)
    [finding] = audit([Row(text="red")], tokenizer, 64)
    assert finding.code == "no_trained_token"


def plan_of(settings, base):
    trainer = Seq2SeqTrainer(TrainContext.create(settings, load(settings), base))
    rows, validation = trainer.tokenize()
    return trainer.build(Run(base.path), rows, validation)


def test_its_loss_is_transformers_own_and_no_other_token_is_learnt(t5_recipe, tiny_t5):
    plan = plan_of(t5_recipe("train.micro_batch_tokens=24"), tiny_t5)
    rows = plan.rows[:7]
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row.texts[side]) for row in rows], True, padding_value=fill
        )
        for side, fill in ((0, plan.tokenizer.pad_token_id), (1, -100))
    )
    mask = (ids != plan.tokenizer.pad_token_id).long()

    theirs = plan.model(input_ids=ids, attention_mask=mask, labels=labels).loss
    theirs.backward()
    gradients = {n: w.grad.clone() for n, w in plan.model.named_parameters()}
    plan.model.zero_grad()
    assert plan.validation_step(rows)["loss"] == pytest.approx(float(theirs.detach()), rel=1e-5)

    plan.training_step(rows, 0)
    for name, master in plan.optimizer.masters.items():
        torch.testing.assert_close(master.grad, gradients[name], rtol=1e-3, atol=1e-5)
    # A row that weighs nothing is as if it weren't there.
    silent = [replace(row, weight=0.0) for row in plan.rows[7:9]]
    assert plan.validation_step([*rows, *silent])["loss"] == pytest.approx(
        float(theirs.detach()), rel=1e-5
    )


def test_it_learns_to_say_words_again_and_is_better_than_its_base(t5_recipe, learnt_t5):
    tuned = evaluate_source(t5_recipe(), learnt_t5.artifact)
    base = evaluate_source(t5_recipe())

    assert learnt_t5.losses[-1] < learnt_t5.losses[0] / 4
    assert tuned.scores.metric == "rouge_l"
    assert tuned.scores.interval.low > base.scores.interval.high
    assert tuned.perplexity < base.perplexity / 4
    artifact = open_artifact(Path(learnt_t5.artifact))
    assert artifact.kind == "seq2seq" and not (artifact.path / "adapter_config.json").exists()


def test_lora_leaves_an_adapter_that_answers_on_its_base(t5_recipe, tiny_t5, tmp_path):
    settings = t5_recipe("train.method=lora", "train.learning_rate=2e-2", "train.max_steps=20")
    report = train(settings)
    artifact = open_artifact(find_run(report.run).artifact)

    assert report.losses[-1] < report.losses[0] * 0.8
    assert (artifact.path / "adapter_model.safetensors").exists()
    assert not (artifact.path / "model.safetensors").exists()
    rows = load(settings).split.test
    tuned, base = (open_engine(name).log_likelihood(rows) for name in (report.run, tiny_t5.name))
    assert sum(log for log, _ in tuned) > sum(log for log, _ in base)
    assert [count for _, count in tuned] == [count for _, count in base]
    write_export(tmp_path / "x", artifact, "adapter", "as trained")
    assert open_engine(tmp_path / "x").log_likelihood(rows) == tuned


def test_killed_at_a_step_it_goes_on_to_the_same_weights(t5_recipe, tmp_path):
    settings = t5_recipe("train.checkpoint_every=2", "train.max_steps=7", "train.evaluate_every=5")
    whole, resumed, weights = weights_after(settings, tmp_path)

    assert resumed.steps == whole.steps == 7
    assert weights[0] == weights[1]


def prompts(*texts, **settings):
    return [Prompt((Message("user", text),), max_new_tokens=6, **settings) for text in texts]


def test_answers_are_those_of_transformers_whoever_asks_beside(t5_recipe, learnt_t5):
    engine = open_engine(learnt_t5.artifact)
    texts = ("red green blue", "one", "two pear apple", "plum red one", "blue two")
    together = [answer.text for answer in engine.answer(prompts(*texts))]

    tokenizer = AutoTokenizer.from_pretrained(learnt_t5.artifact)
    for text, answer in zip(texts, together, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        made = engine.model.generate(ids, max_new_tokens=6, do_sample=False)[0]
        assert answer == tokenizer.decode(made, skip_special_tokens=True)
        assert engine.answer(prompts(text))[0].text == answer
        assert "".join(engine.stream(prompts(text)[0])) == answer

    # One that joins later, and one that nobody waits for any more, disturb nobody.
    running, asked = engine.new_batch(), [engine.build_request(p) for p in prompts(*texts)]
    running.join(asked[:3])
    running.step()
    running.join(asked[3:])
    running.drop(asked[1])
    while running.requests:
        running.step()
    assert [r.text for r in asked if r is not asked[1]] == [
        text for place, text in enumerate(together) if place != 1
    ]


def test_it_samples_by_seed_and_chooses_the_likeliest_of_some_texts(t5_recipe, learnt_t5):
    engine = open_local_engine(learnt_t5.artifact)
    one, same = (
        [a.text for a in engine.answer(prompts("red one", "two", temperature=1.5, seed=7))]
        for _ in range(2)
    )
    choices = ("red", "one two", "plum red blue", "pear apple two")
    [chosen] = engine.answer(prompts("plum red blue", choices=choices))
    rows = [
        Row(messages=(Message("user", "plum red blue"), Message("assistant", choice)))
        for choice in choices
    ]
    logs = [log for log, _ in engine.log_likelihood(rows)]

    assert one == same
    assert chosen.text == choices[max(range(4), key=lambda place: logs[place])] == "plum red blue"
    with pytest.raises(BadData, match="encoder reads 2048"):
        engine.build_request(prompts("red " * 3000)[0])


def test_a_bart_begins_its_answers_as_its_tokenizer_says(tiny_t5, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5.path)
    ends = [("<s>", len(tokenizer)), ("<|im_end|>", tokenizer.eos_token_id)]
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A <|im_end|>", special_tokens=ends
    )
    tokenizer.save_pretrained(tmp_path / "bart")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, max_position_embeddings=32,
        decoder_start_token_id=ends[1][1], eos_token_id=ends[1][1], bos_token_id=ends[0][1],
        pad_token_id=tokenizer.pad_token_id, forced_eos_token_id=None, init_std=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    local = pull(str(tmp_path / "bart"))
    engine = open_local_engine(local.name)

    assert local.kind == "seq2seq" and target_prefix(engine.tokenizer) == [ends[0][1]]
    engine.model.generation_config.forced_bos_token_id = ends[0][1]
    texts = ("red green", "one two three pear", "plum")
    for text, answer in zip(texts, engine.answer(prompts(*texts)), strict=True):
        ids = engine.tokenizer(text, return_tensors="pt")["input_ids"]
        made = engine.model.generate(ids, max_new_tokens=7, do_sample=False)[0]
        assert answer.text == engine.tokenizer.decode(made, skip_special_tokens=True)
    with pytest.raises(BadData, match="encoder reads 32"):
        engine.build_request(prompts("red " * 40)[0])


def test_it_is_exported_as_safetensors_and_in_no_other_format(t5_recipe, learnt_t5, tmp_path):
    run = Run(Path(learnt_t5.artifact).parent)
    trained = open_artifact(run.artifact)

    write_export(tmp_path / "x", trained, "merged", "f32")

    assert (tmp_path / "x" / "model.safetensors").exists()
    asked = prompts("red green blue", "two pear apple")
    own, exported = (open_engine(folder).answer(asked) for folder in (run.artifact, tmp_path / "x"))
    assert [one.text for one in own] == [one.text for one in exported]
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "x").generation_config.eos_token_id
    with pytest.raises(CannotExport, match="it has no adapter"):
        export(run, t5_recipe("export.to=adapter"), tmp_path / "no")
    for to in ("gguf", "gguf-lora", "onnx", "openvino"):
        with pytest.raises(CannotExport, match=f"--to {to} is for language models") as refused:
            export(run, t5_recipe(f"export.to={to}"), tmp_path / "no")
        assert refused.value.code == 2 and not (tmp_path / "no").exists()
    with pytest.raises(CannotExport, match="is for language models"):
        search_formats(run, t5_recipe(), tmp_path / "no")
    with pytest.raises(CannotExport, match="ready_for is for language models"):
        export(run, t5_recipe("export.to=merged", "export.ready_for=[vllm]"), tmp_path / "no")


@pytest.mark.parametrize(
    "changes, model, what",
    [
        (["train.objective=dpo"], "tiny-t5", "tiny-t5 is an encoder-decoder"),
        (["train.objective=sft", "train.method=auto"], "tiny-t5", "is for language models"),
        ([], "tiny", "tiny is a causal language model, .* is for encoder-decoders"),
        (["train.method={kind: lora, targets: [nowhere]}"], "tiny-t5", "No layer is called"),
    ],
)  # fmt: skip
def test_what_does_not_fit_an_encoder_decoder_is_refused(t5_recipe, changes, model, what):
    with pytest.raises(BadRecipe, match=what) as refused:
        train(t5_recipe(*changes, model=model))

    assert refused.value.code == 2


@pytest.mark.parametrize("method", ["qlora", "dora", "prompt", "auto", "{kind: lora, init: pissa}"])
def test_methods_that_an_encoder_decoder_lacks_are_refused_in_the_recipe(method):
    with pytest.raises(BadRecipe, match="seq2seq doesn't go with"):
        make_recipe({"train": {"objective": "seq2seq"}}, [f"train.method={method}"])


def test_rows_that_cannot_be_learnt_are_refused(t5_recipe, write_rows):
    texts = write_rows("texts.jsonl", [{"text": f"red {n}"} for n in range(20)])
    with pytest.raises(AuditFailed, match="no target token"):
        train(t5_recipe(f"data.train=[{texts}]", "data.test=[]"))
    bad = [{"prompt": f"red {n}", "completion": "red", "label": False} for n in range(20)]
    marked = write_rows("marked.jsonl", bad)
    with pytest.raises(BadData, match="undesirable"):
        train(t5_recipe(f"data.train=[{marked}]", "data.test=[]"))


def test_compare_measures_the_base_and_the_fine_tune(t5_recipe):
    settings = t5_recipe("train.max_steps=60", "compare.forgetting=false", "compare.seeds=1")
    assert with_routes(settings, settings.task, "seq2seq").compare.routes == ("base", "fine_tuned")

    result = compare(settings)

    assert list(result.routes) == ["base", "fine_tuned"]
    scores = {name: route.scores.interval.value for name, route in result.routes.items()}
    assert scores["fine_tuned"] > scores["base"]
    with pytest.raises(BadRecipe, match="Set train"):
        compare(t5_recipe("train.objective=sft"))


def test_a_folder_without_a_decoder_start_is_refused_by_name(tiny_t5, tmp_path):
    folder = tmp_path / "headless"
    shutil.copytree(tiny_t5.path, folder)
    for name in ("config.json", "generation_config.json"):
        facts = json.loads((folder / name).read_text())
        facts.pop("decoder_start_token_id", None)
        (folder / name).write_text(json.dumps(facts))

    with pytest.raises(BadRecipe, match="lacks its decoder's start token"):
        load_seq2seq(replace(tiny_t5, path=folder), torch.float32)
