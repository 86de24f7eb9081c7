"""A teacher with other tokens: where the two tokenizations meet, the loss, and what is learnt."""

import math
import shutil
from itertools import chain

import numpy as np
import pytest
import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.objectives import Distillation
from burnish.core.records import Message, Row
from burnish.engines.local.open import open_local_engine
from burnish.models.chat_template import PLAIN_TEMPLATE, encode_row
from burnish.models.local_models import write_manifest
from burnish.train.batching.examples import CrossTokenizerExample
from burnish.train.batching.token_alignment import TokenAligner, target_tokens
from burnish.train.distillation import teacher_logits as lessons
from burnish.train.losses.cross_tokenizer import (
    align_teacher_logprobs,
    cross_tokenizer_distribution,
    cross_tokenizer_loss,
)
from burnish.train.run import train
from tests.conftest import CORPUS
from tests.fixtures.training import make_rows


@pytest.fixture(scope="module")
def other_tokenizer():
    """Words cut elsewhere, spaces written as another sign, other special tokens, and a template
    that puts a space before the answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 130, special_tokens=["<unk>", "<s>", "</s>", *raw], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


@pytest.fixture
def both(tiny, other_tokenizer, tmp_path, monkeypatch):
    """A models folder with `tiny`, and `other` of another vocabulary and width."""
    from transformers import LlamaConfig, LlamaForCausalLM

    models = tmp_path / "models"
    shutil.copytree(tiny.path, models / "tiny")
    torch.manual_seed(1)
    ends = {name: getattr(other_tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(other_tokenizer), hidden_size=48, intermediate_size=96,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=1024, initializer_range=0.2, tie_word_embeddings=True, **ends,
        )
    )  # fmt: skip
    model.save_pretrained(models / "other")
    other_tokenizer.save_pretrained(models / "other")
    facts = {"kind": "causal", "licence": "", "context_length": 1024, "has_template": True}
    write_manifest(models / "other", {"name": "other", "source": "tests", **facts})
    monkeypatch.setenv("BURNISH_MODELS", str(models))
    return models


def row_of(*answers):
    turns = chain.from_iterable((Message("user", "why"), Message("assistant", a)) for a in answers)
    return Row(messages=tuple(turns), file="rows.jsonl", line=1)


ANSWERS = [
    ("send the parcel again",),
    ("the lamp is broken, refund the money",),
    ("café\n\n  naïve — 12", "yes"),
    ("",),
]


@pytest.mark.parametrize("answers", ANSWERS, ids=range(len(ANSWERS)))
def test_spans_are_the_same_text_and_leave_nothing_out(answers, tiny_tokenizer, other_tokenizer):
    ours, theirs = (
        encode_row(one, row_of(*answers), 500) for one in (tiny_tokenizer, other_tokenizer)
    )
    pairing = TokenAligner(tiny_tokenizer, other_tokenizer)

    spans = pairing.align(ours, theirs)

    ids = target_tokens(ours), target_tokens(theirs)
    for span in spans[:-1]:
        sides = [
            reader.text([t for t in some[slice(*part)] if t not in reader.ends]).split()
            for reader, some, part in zip(
                (pairing.student, pairing.teacher), ids, (span.student, span.teacher), strict=True
            )
        ]
        assert "".join(sides[0]) == "".join(sides[1]) and "\ufffd" not in "".join(sides[0])
    covered = [place for span in spans for place in range(*span.student)]
    assert covered == list(range(len(ids[0]))), "every learnt token is in one span, in order"
    assert [place for span in spans for place in range(*span.teacher)] == list(range(len(ids[1])))


def test_what_is_cut_off_on_one_side_or_differs_is_in_no_span(tiny_tokenizer, other_tokenizer):
    pairing = TokenAligner(tiny_tokenizer, other_tokenizer)
    row = row_of("send the parcel again")
    ours, whole = (encode_row(one, row, 500) for one in (tiny_tokenizer, other_tokenizer))
    cut = encode_row(other_tokenizer, row, len(whole.ids) - 8)
    changed = encode_row(other_tokenizer, row_of("send the lamp again"), 500)

    for theirs in (cut, changed):
        some = pairing.align(ours, theirs)
        assert 0 < len(some) < len(pairing.align(ours, whole))
        assert some == pairing.align(ours, whole)[: len(some)]


def test_words_are_the_same_text_whatever_signs_and_spaces(tiny_tokenizer, other_tokenizer):
    pairing = TokenAligner(tiny_tokenizer, other_tokenizer)
    plain, opening = pairing.token_map(), pairing.token_map(("", " "))

    for words, change in ((plain, str), (opening, str.lstrip)):
        known = [(token, own) for token, own in enumerate(words) if own >= 0]
        assert len(known) > 15
        for token, own in known:
            if own != tiny_tokenizer.eos_token_id:
                assert pairing.student.text([own]) == change(pairing.teacher.text([token]))
    assert plain[other_tokenizer.eos_token_id] == tiny_tokenizer.eos_token_id
    assert other_tokenizer.bos_token_id not in np.nonzero(plain >= 0)[0]


def reference(hidden, weight, learnt, example, settings):
    """The loss of one row, written down plainly: span by span, event by event."""
    targets, weights = learnt
    logits = hidden @ weight.T
    total = hidden.new_zeros(())
    for place, target in enumerate(targets):
        total = (
            total - (1 - settings.weight) * weights[place] * logits[place].log_softmax(-1)[target]
        )
    logs = (logits / settings.temperature).log_softmax(-1)
    for place, (length, *words) in enumerate(example.tokens.tolist()):
        if not length:
            continue
        text = sum(logs[place + step, targets[place + step]] for step in range(length))
        ours = [text.exp(), *(logs[place, word].exp() for word in words if word >= 0)]
        known = [0, *(1 + n for n, word in enumerate(words) if word >= 0)]
        theirs = [math.exp(example.logprobs[place, n]) for n in known]
        ours.append(1 - sum(ours))
        theirs.append(1 - sum(theirs))
        apart = sum(p * (math.log(p) - q.log()) for p, q in zip(theirs, ours, strict=True))
        total = total + settings.weight * settings.temperature**2 * weights[place] * apart
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_and_gradients_are_those_of_the_plain_formula(
    temperature, tiny_tokenizer, other_tokenizer
):
    settings = Distillation(temperature=temperature, top_k=12, weight=0.7)
    pairing, draw = TokenAligner(tiny_tokenizer, other_tokenizer), torch.Generator().manual_seed(0)
    row = row_of("the lamp is broken, refund the money")
    ours, theirs = (encode_row(one, row, 500) for one in (tiny_tokenizer, other_tokenizer))
    mine, their = torch.tensor(target_tokens(ours)), torch.tensor(target_tokens(theirs))
    teacher = 2 * torch.randn(len(their), len(other_tokenizer), generator=draw)
    said = [part.numpy() for part in lessons._target_and_top_k(teacher, their, settings)]
    example = CrossTokenizerExample(
        ours, *align_teacher_logprobs(ours, theirs, tuple(said), pairing)
    )
    assert (example.tokens[:, 0] > 1).any() and (example.tokens[:, 1:] >= 0).any()
    hidden = torch.randn(len(mine), 16, generator=draw, requires_grad=True)
    weight = torch.randn(len(tiny_tokenizer), 16, generator=draw, requires_grad=True)
    learnt = (mine, torch.ones(len(mine)))
    plain = reference(hidden, weight, learnt, example, settings)
    wanted = torch.autograd.grad(plain, (hidden, weight))

    lesson = cross_tokenizer_distribution([example], len(mine), torch.device("cpu"))
    loss, _, _ = cross_tokenizer_loss(hidden, weight, learnt, lesson, settings)
    found = torch.autograd.grad(loss, (hidden, weight))

    torch.testing.assert_close(loss, plain, rtol=1e-4, atol=1e-4)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_events_of_a_teacher_are_chances_that_sum_to_one(tiny_tokenizer, other_tokenizer):
    settings, pairing = Distillation(top_k=20), TokenAligner(tiny_tokenizer, other_tokenizer)
    row = row_of("send the parcel again")
    ours, theirs = (encode_row(one, row, 500) for one in (tiny_tokenizer, other_tokenizer))
    their = torch.tensor(target_tokens(theirs))
    logits = torch.randn(len(their), len(other_tokenizer))
    said = [p.numpy() for p in lessons._target_and_top_k(logits.clone(), their, settings)]

    tokens, logprobs = align_teacher_logprobs(ours, theirs, tuple(said), pairing)

    logs, spans = logits.log_softmax(-1), pairing.align(ours, theirs)
    assert [int(place) for place in np.nonzero(tokens[:, 0])[0]] == [s.student[0] for s in spans]
    for span in spans:
        events = np.exp(logprobs[span.student[0]])
        own = sum(float(logs[place, their[place]]) for place in range(*span.teacher))
        assert events.sum() == pytest.approx(1, abs=1e-4)
        assert math.log(events[0]) == pytest.approx(own, rel=1e-3)


CROSS = (
    "train.objective.kind=distill", "train.objective.weight=1.0", "train.objective.top_k=40",
    "train.method=full", "train.epochs=8", "train.learning_rate=3e-3",
)  # fmt: skip


def gap(student, teacher, rows):
    """How far apart two models are in what they think of the answers, in nats a row."""
    both = [open_local_engine(one).log_likelihood(rows) for one in (student, teacher)]
    return sum(abs(one - other) for (one, _), (other, _) in zip(*both, strict=True)) / len(rows)


def test_a_student_comes_nearer_to_a_teacher_of_other_tokens_who_is_asked_once(
    recipe_of, dataset, both, monkeypatch, tmp_path
):
    taught = train(recipe_of("model.name=other", "train.epochs=6"), dataset).run
    real, loads = lessons.load_teacher, []
    monkeypatch.setattr(lessons, "load_teacher", lambda *words: loads.append(words) or real(*words))
    recipe = recipe_of(*CROSS, f"train.objective.teacher={taught}")

    report = train(recipe, dataset, out=tmp_path / "one")
    again = train(recipe, dataset, out=tmp_path / "two")

    rows = dataset.split.train
    assert gap(tmp_path / "one", taught, rows) < 0.3 * gap("tiny", taught, rows)
    assert gap(tmp_path / "one", taught, rows) < 0.5 * gap(tmp_path / "one", "other", rows)
    assert len(loads) == 1 and again.losses == report.losses


def test_what_cannot_be_matched_is_refused(recipe_of, dataset, both):
    from dataclasses import replace

    named = (*CROSS, "train.objective.teacher=other")
    with pytest.raises(BadRecipe, match="another tokenizer"):
        train(recipe_of(*named, "train.objective.on_policy=0.5"), dataset)
    plain = tuple(Row(text=row.answer, file="rows.jsonl", line=row.line) for row in make_rows(6))
    split = replace(dataset.split, train=plain, validation=())
    with pytest.raises(BadData, match="plain text"):
        train(recipe_of(*named), replace(dataset, split=split))
