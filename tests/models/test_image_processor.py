"""Conversations with pictures as tokens: what is trained is what is asked."""

from dataclasses import replace

import pytest
import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.records import Message, Row
from burnish.models.chat_template import (
    encode_prompt,
    encode_row,
    encode_text,
    end_of_turn,
    process_prompt,
)
from burnish.models.image_processor import load_vision_tokenizer
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import find_model
from burnish.models.token_audit import audit
from burnish.models.vision import load_vision
from tests.fixtures.vision_models import WRITERS, row_of, shown

#: Two questions about a picture each, and one about nothing.
TALK = Row(
    messages=(
        shown("red"),
        Message("assistant", "red"),
        shown("blue", "And this one?"),
        Message("assistant", "blue"),
        Message("user", "Which came first?"),
        Message("assistant", "red"),
    )
)


@pytest.fixture(params=list(WRITERS))
def base(request, seeing):
    return find_model(request.param)


def test_a_pulled_folder_is_known_as_a_model_that_sees(base):
    assert base.kind == "vision"
    assert base.context_length == 512


def test_a_row_is_its_prompt_and_its_answer(base):
    tokenizer = load_tokenizer(base)
    row = row_of("red")

    encoded = encode_row(tokenizer, row, 512)
    asked = encode_prompt(tokenizer, row.prompt)

    assert list(encoded.ids[: len(asked)]) == asked
    assert not any(encoded.weights[: len(asked)])
    learnt = [token for token, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    assert learnt[:-1] == encode_text(tokenizer, "red")
    assert learnt[-1] in end_of_turn(tokenizer)


def test_a_picture_becomes_as_many_tokens_as_the_model_makes_of_it(base):
    tokenizer = load_tokenizer(base)
    model = load_vision(base.path, base.name, torch.float32)
    seen = process_prompt(tokenizer, TALK.prompt)
    ids = encode_prompt(tokenizer, TALK.prompt)

    with torch.no_grad():
        logits = model(**seen.inputs(ids, model)).logits  # refuses any other number

    assert logits.shape[:2] == (1, len(ids))


def test_the_pieces_of_a_conversation_are_the_tokens_of_the_whole(base):
    tokenizer = load_tokenizer(base)

    encoded = encode_row(tokenizer, TALK, 512)

    assert list(encoded.ids[: len(process_prompt(tokenizer, TALK.prompt).ids)]) == (
        process_prompt(tokenizer, TALK.prompt).ids
    )
    assert encoded.target_count == sum(
        len(encode_text(tokenizer, answer)) + 1 for answer in ("red", "blue", "red")
    )


def test_the_audit_finds_nothing_wrong_and_what_is_cut(base):
    tokenizer = load_tokenizer(base)

    assert audit([row_of("red"), TALK], tokenizer, 512) == []
    cut = audit([row_of("red"), TALK], tokenizer, 30)

    assert "answer_cut" in {finding.code for finding in cut}


def test_a_model_that_reads_text_only_refuses_pictures(seeing):
    tokenizer = load_tokenizer(find_model("tiny"))

    with pytest.raises(BadData, match="reads text only"):
        encode_prompt(tokenizer, row_of("red").prompt)


def test_a_text_cannot_stand_for_a_picture(base):
    tokenizer = load_tokenizer(base)
    word = min(tokenizer.sight.placeholders)
    turn = shown("red")

    with pytest.raises(BadData, match=r"^A message contains .* the placeholder of an image"):
        encode_prompt(tokenizer, [replace(turn, content=turn.content + word)])


def test_more_pictures_than_memory_should_hold_are_refused(base):
    with pytest.raises(BadData, match="at most 32"):
        encode_prompt(load_tokenizer(base), [shown("red")] * 33)


def test_a_model_that_sees_is_no_language_model(seeing):
    with pytest.raises(BadRecipe, match="vision-language"):
        load_model(find_model("llava"), torch.float32)


def test_without_a_processor_or_a_template_the_model_is_refused_by_name(seeing, tmp_path):
    import shutil

    folder = tmp_path / "blind"
    shutil.copytree(find_model("llava").path, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadRecipe, match="blind"):
        load_vision_tokenizer(folder, "blind")

    speechless = tmp_path / "speechless"
    shutil.copytree(find_model("llava").path, speechless)
    (speechless / "chat_template.jinja").unlink()
    with pytest.raises(BadRecipe, match="no chat template"):
        load_vision_tokenizer(speechless, "speechless")
