"""An answer doesn't depend on who else is asked, nor on how the work is shared."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from burnish.core.errors import NotFound, PromptTooLong
from burnish.core.records import Message, Prompt, Row
from burnish.engines.local.decoding import common_prefix, read_prefix
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.open import open_local_engine
from burnish.models.chat_template import PLAIN_TEMPLATE
from tests.models.test_chat_template import THOUGHTFUL

QUESTIONS = (
    "where is my parcel?",
    "red",
    "I want my money back for the broken lamp; refund the order today, please, I ask you again",
    "one two three four five six seven",
    "How do I change the password of my account?",
)
LABELS = ("refund", "refund order", "parcel", "password", "account", "refund order today")
#: Where there is but one way on for many tokens, and where there are many ways.
LONG_LABELS = (
    *LABELS,
    "refund_of_the_order_has_not_arrived",
    "refund_of_the_order_has_not_begun",
    *(f"parcel_number_{number}_is_lost" for number in range(20)),
)


def ask(text, **settings):
    return Prompt((Message("user", text),), **{"max_new_tokens": 24, **settings})


def alone(engine, prompts):
    return [engine.answer([prompt])[0] for prompt in prompts]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batched_answer_is_the_one_given_alone(engine, batch_size):
    prompts = [ask(text) for text in QUESTIONS]

    together = engine.answer(prompts, batch_size=batch_size)

    assert [a.text for a in together] == [a.text for a in alone(engine, prompts)]
    assert len({a.text for a in together}) == len(QUESTIONS), "the model tells prompts apart"


def test_a_shared_prefix_changes_no_answer(engine):
    instruction = "Say where the parcel is, and what was ordered: red, green, blue or yellow. " * 4
    prompts = [Prompt((Message("system", instruction), *ask(q).messages)) for q in QUESTIONS]
    ids = [engine.build_request(prompt).ids for prompt in prompts]

    assert len(common_prefix(ids)) > 50
    assert [a.text for a in engine.answer(prompts)] == [a.text for a in alone(engine, prompts)]


def test_a_common_prefix_leaves_every_prompt_a_token():
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4]]) == [1, 2]
    assert common_prefix([[1, 2], [3, 4]]) == []


def exhaustive(engine, prompt):
    """The likeliest choice: each of them scored as an answer that would be trained."""
    rows = [Row((*prompt.messages, Message("assistant", choice))) for choice in prompt.choices]
    scores = [score for score, _ in engine.log_likelihood(rows)]
    return prompt.choices[scores.index(max(scores))]


@pytest.fixture(params=["own", "plain", "thoughtful"])
def templated(engine, request):
    """An engine whose template puts nothing, a space, or an empty thought before its answers."""
    templates = {"plain": PLAIN_TEMPLATE, "thoughtful": THOUGHTFUL}
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.chat_template = templates.get(request.param, tokenizer.chat_template)
    return LocalEngine(engine.weights, tokenizer, "tiny")


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_a_constrained_answer_is_the_likeliest_of_all_choices(templated, batch_size):
    prompts = [ask(text, choices=LABELS) for text in QUESTIONS]
    prompts += [ask(text, choices=LABELS[:3]) for text in QUESTIONS]
    prompts += [ask(text, choices=LONG_LABELS) for text in QUESTIONS]

    answers = templated.answer(prompts, batch_size=batch_size)

    assert [a.text for a in answers] == [exhaustive(templated, prompt) for prompt in prompts]


@pytest.mark.parametrize("said", ["refund today", "<thinking", " two", "<think>\n\n</think>\n\n"])
def test_what_the_template_puts_before_an_answer_is_not_shown(templated, said):
    request = templated.build_request(ask("where is it?", max_new_tokens=100))
    shown = []

    for piece in (*request.answer_prefix, *said):
        request.feed(piece, 1)
        shown.append(request.visible_text())

    assert request.text == said
    assert all(said.startswith(some) for some in shown)


def test_a_text_that_is_no_conversation_keeps_its_spaces(templated):
    request = templated.build_request_from_ids(Prompt((), max_new_tokens=9), [5, 6])

    request.feed(" two", 1)

    assert request.text == " two"


def test_choices_and_free_answers_may_be_asked_together(engine):
    prompts = [ask(QUESTIONS[0], choices=LABELS), ask(QUESTIONS[0]), ask("red", choices=("yes",))]

    answers = engine.answer(prompts)

    assert [a.text for a in answers] == [a.text for a in alone(engine, prompts)]
    assert answers[2].text == "yes" and answers[1].text not in LABELS


def test_a_seed_gives_the_same_text_in_any_batch_and_seeds_differ(engine):
    prompts = [ask("red", temperature=1.0, top_p=0.9, seed=seed) for seed in range(4)]

    together = [a.text for a in engine.answer(prompts)]

    assert together == [a.text for a in alone(engine, prompts)]
    assert len(set(together)) == 4


@pytest.mark.parametrize("top_p", [1.0, 0.5, 0.0])
def test_a_tiny_temperature_is_greedy(engine, top_p):
    cold = ask("red", temperature=1e-9, top_p=top_p)

    assert engine.answer([cold])[0].text == engine.answer([ask("red")])[0].text


def test_a_stop_string_ends_the_answer_before_it_even_across_tokens(engine):
    whole = engine.answer([ask("red")])[0].text
    stop = whole[5:9]

    stopped = engine.answer([ask("red", stop=("never there", stop))])[0]

    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    assert engine.answer([ask("red", max_new_tokens=3)])[0].finish_reason == "length"


def test_streamed_pieces_make_the_answer_and_never_show_a_stop_string(engine):
    whole = engine.answer([ask("red")])[0].text

    assert "".join(engine.stream(ask("red"))) == whole
    assert (
        "".join(engine.stream(ask("red", stop=(whole[4:8],)))) == whole[: whole.index(whole[4:8])]
    )


def test_logprobs_are_the_models_own(engine):
    answer = engine.answer([ask("red", top_logprobs=3, max_new_tokens=5)])[0]

    assert len(answer.logprobs) == answer.tokens_out == 5
    for token in answer.logprobs:
        assert token.top[0] == (token.token, token.logprob), "greedy takes the likeliest"
        assert sum(math.exp(logprob) for _, logprob in token.top) <= 1.0001


def test_an_answer_counts_its_tokens(engine):
    prompt = ask("red", max_new_tokens=7)

    answer = engine.answer([prompt])[0]

    assert (answer.tokens_in, answer.tokens_out) == (engine.count_tokens(prompt.messages), 7)


def test_a_prompt_that_does_not_fit_says_so(engine):
    with pytest.raises(PromptTooLong, match="context holds 1024"):
        engine.answer([ask("one two three " * 600)])


def test_a_source_that_is_nothing_says_so(tiny):
    with pytest.raises(NotFound, match="burnish pull nothing-here"):
        open_local_engine("nothing-here")


def test_log_likelihood_counts_the_answer_and_its_end(engine):
    row = Row((Message("user", "red"), Message("assistant", "blue")))

    ((total, count),) = engine.log_likelihood([row])

    assert total < 0
    assert count == len(engine.tokenizer("blue", add_special_tokens=False)["input_ids"]) + 1


def test_a_prefix_is_never_written_to(engine):
    ids = engine.build_request(ask("one two three four five six seven")).ids
    prefix = read_prefix(engine.model, ids[:-2])
    before = [keys.clone() for keys, _ in prefix.layers]

    engine._answer_batch([engine.build_request(ask("one two three four five six seven"))], prefix)

    assert all(torch.equal(a, b) for a, (b, _) in zip(before, prefix.layers, strict=True))


def test_a_model_that_sees_a_window_is_answered_alike_batched_or_alone(engine):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(engine.tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.2,
    )
    windowed = LocalEngine(
        MultiLoraModel(Gemma3ForCausalLM(config).eval()), engine.tokenizer, "windowed"
    )
    instruction = Message("system", "Say where the parcel is: red, green, blue or yellow.")
    prompts = [Prompt((instruction, *ask(text).messages), 16) for text in QUESTIONS]
    bound = [replace(prompt, choices=LABELS) for prompt in prompts]

    assert [a.text for a in windowed.answer(prompts)] == [a.text for a in alone(windowed, prompts)]
    assert [a.text for a in windowed.answer(bound)] == [exhaustive(windowed, p) for p in bound]
    ids = torch.tensor([list(windowed.build_request(prompts[0]).ids)])
    made = windowed.model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=2)
    text = engine.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert windowed.answer(prompts)[0].text == text
