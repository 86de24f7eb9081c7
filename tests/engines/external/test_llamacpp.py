"""llama.cpp in a child answers what our own engine answers, and its crash is ours to explain."""

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.core.errors import PromptTooLong
from burnish.core.records import Message, Prompt, Row
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.llamacpp import LlamaCppEngine
from burnish.engines.external.process import EngineFailed, EngineProcess
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.export.formats.gguf import write_gguf
from tests.engines.local.test_engine import LABELS, QUESTIONS, ask

#: None of them begins as another does; one has characters of several tokens each.
WORDS = ("parcel", "λάμπα", "money back", "password", "order", "ναι")


@pytest.fixture
def both(tiny_model, tiny_tokenizer, tmp_path):
    """The same weights in float32, by llama.cpp and by us."""
    write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer, "f32", "tiny")
    theirs = LlamaCppEngine(
        tmp_path / "tiny.gguf", tiny_tokenizer, "tiny", None, LaunchOptions(threads=1)
    )
    yield theirs, LocalEngine(MultiLoraModel(tiny_model), tiny_tokenizer, "tiny")
    theirs.close()


def test_answers_are_those_of_our_own_engine(both):
    theirs, ours = both
    prompts = [ask(text, top_logprobs=2) for text in QUESTIONS]

    pairs = list(zip(theirs.answer(prompts), ours.answer(prompts), strict=True))

    for there, here in pairs:
        assert (there.text, there.tokens_in, there.tokens_out, there.finish_reason) == (
            here.text, here.tokens_in, here.tokens_out, here.finish_reason,
        )  # fmt: skip
        for one, other in zip(there.logprobs, here.logprobs, strict=True):
            assert one.token == other.token
            assert one.logprob == pytest.approx(other.logprob, abs=0.02)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_the_likeliest_label_is_found_whatever_is_shown_at_first(both, monkeypatch):
    theirs, ours = both
    prompts = [ask(text, choices=WORDS) for text in QUESTIONS]
    wanted = [answer.text for answer in ours.answer(prompts)]
    assert len(set(wanted)) > 1

    for shown in (1, 3, 40):
        monkeypatch.setattr("burnish.engines.external.llamacpp._TOP_TOKENS", shown)
        assert [answer.text for answer in theirs.answer(prompts)] == wanted


def test_log_likelihood_is_that_of_our_own_engine(both):
    theirs, ours = both
    rows = [
        Row((Message("user", text), Message("assistant", label)))
        for text, label in zip(QUESTIONS, LABELS, strict=False)
    ]

    for (there, tokens), (here, others) in zip(
        theirs.log_likelihood(rows), ours.log_likelihood(rows), strict=True
    ):
        assert tokens == others
        assert math.isclose(there, here, abs_tol=0.05)


def test_a_stop_string_ends_an_answer(both):
    theirs, ours = both
    whole = ours.answer([ask(QUESTIONS[0])])[0].text
    stop = whole[5:8]

    answers = [engine.answer([ask(QUESTIONS[0], stop=(stop,))])[0] for engine in both]

    assert [(a.text, a.finish_reason) for a in answers] == [(whole[: whole.find(stop)], "stop")] * 2


def test_a_prompt_that_does_not_fit_is_refused(both):
    theirs, _ = both
    long = ask("parcel " * 2000)

    with pytest.raises(PromptTooLong):
        theirs.answer([long])
    with pytest.raises(PromptTooLong):
        theirs.answer([replace(ask("red"), max_new_tokens=theirs.context_length)])


@pytest.mark.parametrize(
    ("how", "says"), [(signal.SIGILL, "instruction"), (signal.SIGKILL, "lack of memory")]
)
def test_a_crash_is_an_error_of_ours(both, how, says):
    theirs, _ = both

    os.kill(theirs.child._process.pid, how)

    with pytest.raises(EngineFailed, match=says):
        theirs.answer([Prompt((Message("user", "red"),), max_new_tokens=4)])


def test_a_broken_file_is_an_error_of_ours(both, tiny_tokenizer, tmp_path):
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(EngineFailed, match="loaded the model"):
        LlamaCppEngine(tmp_path / "half.gguf", tiny_tokenizer, "half")


def test_keys_and_values_of_8_bits_change_little(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        eos_token_id=tiny_tokenizer.eos_token_id, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    write_gguf(tmp_path / "x.gguf", LlamaForCausalLM(shape), tiny_tokenizer, "f32", "x")
    rows = [Row((Message("user", text), Message("assistant", "parcel"))) for text in QUESTIONS]
    found = {}
    for cache in ("f16", "q8_0"):
        how = LaunchOptions(threads=1, context=256, cache=cache)
        engine = LlamaCppEngine(tmp_path / "x.gguf", tiny_tokenizer, "x", None, how)
        found[cache] = [log for log, _ in engine.log_likelihood(rows)]
        engine.close()

    assert found["q8_0"] != found["f16"]
    assert found["q8_0"] == pytest.approx(found["f16"], abs=0.5)


def test_half_an_answer_is_not_taken_for_a_whole_one():
    child = EngineProcess("half", ["tests.stubs.dying_engine"])
    told = []

    with pytest.raises(EngineFailed, match="exited while it answered: exit code 3"):
        told.extend(child.stream("/complete", {}))

    assert not child.alive
