"""Fewer word pieces: what is left is read as before, and the rest as shorter pieces."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from burnish.core.errors import BadRecipe
from burnish.models.pruning.vocabulary import keep_pieces, select_pieces, write_pieces

KNOWN = ["my card payment was declined", "the exchange rate is wrong", "déjà vu, 42 €!"]


@pytest.fixture(scope="module")
def cut(minilm, tmp_path_factory):
    """(whole tokenizer and model, those with 2,100 pieces) of the real encoder."""
    whole = AutoTokenizer.from_pretrained(minilm.path)
    kept = select_pieces(whole, whole(KNOWN)["input_ids"], 2_100)
    folder = tmp_path_factory.mktemp("cut") / "model"
    shutil.copytree(minilm.path, folder)
    model = AutoModel.from_pretrained(minilm.path).eval()
    keep_pieces(model, kept)
    model.save_pretrained(folder)
    write_pieces(folder, kept)
    both = (AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval())
    return (whole, AutoModel.from_pretrained(minilm.path).eval()), both


@torch.inference_mode()
@pytest.mark.parametrize("text", KNOWN)
def test_a_text_of_kept_pieces_gives_the_same_numbers(cut, text):
    (tokenizer, model), (fewer, smaller) = cut
    ids, theirs = (one(text, return_tensors="pt") for one in (fewer, tokenizer))

    assert fewer.convert_ids_to_tokens(ids["input_ids"][0]) == tokenizer.convert_ids_to_tokens(
        theirs["input_ids"][0]
    )
    assert smaller.config.vocab_size == len(fewer) == 2_100
    assert torch.equal(smaller(**ids).last_hidden_state, model(**theirs).last_hidden_state)


def test_another_word_is_read_as_shorter_pieces_and_never_as_unknown(cut):
    (tokenizer, _), (fewer, _) = cut
    words = tokenizer.convert_ids_to_tokens(range(5_000, 8_000))
    words = [word for word in words if word.isalpha()]

    for word in words:
        pieces = fewer.tokenize(word)
        assert fewer.unk_token not in pieces
        assert "".join(piece.removeprefix("##") for piece in pieces) == word
    assert any(len(fewer.tokenize(word)) > 3 for word in words)


def test_special_tokens_and_the_list_of_words_are_numbered_anew(cut, minilm):
    (tokenizer, _), (fewer, smaller) = cut

    assert fewer.all_special_tokens == tokenizer.all_special_tokens
    assert fewer("a")["input_ids"][0] == fewer.cls_token_id != tokenizer.cls_token_id
    assert smaller.config.pad_token_id == fewer.pad_token_id == 0
    padded = fewer(["a", "a longer one"], padding=True)["input_ids"][0]
    assert padded[-1] == fewer.pad_token_id


def test_the_pieces_that_texts_use_most_stay_and_then_the_vocabularys_first(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm.path)
    least = set(select_pieces(tokenizer, [], 1_999))

    one = select_pieces(tokenizer, [[20_000, 29_000, 29_000]], 2_000)
    three = select_pieces(tokenizer, [[20_000, 29_000, 29_000]], 2_002)

    assert set(one) - least == {29_000}
    assert set(three) - least == {20_000, 29_000, min(set(three) - least)}
    assert three == sorted(three)


def test_more_and_fewer_than_there_are_and_another_tokenizer_are_refused(minilm, tiny_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(minilm.path)
    for count in (1_000, 40_000):
        with pytest.raises(BadRecipe, match="of which 1,999 are special") as refused:
            select_pieces(tokenizer, [], count)
        assert "between 1999 and 30522" in str(refused.value)
    with pytest.raises(BadRecipe, match="this tokenizer is BPE"):
        select_pieces(tiny_tokenizer, [], 100)


def test_a_vocabulary_file_beside_it_lists_the_same(cut, minilm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(minilm.path)
    shutil.copytree(minilm.path, tmp_path / "model")
    kept = select_pieces(tokenizer, [], 2_500)

    write_pieces(tmp_path / "model", kept)

    lines = (tmp_path / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {line: number for number, line in enumerate(lines)} == vocabulary
