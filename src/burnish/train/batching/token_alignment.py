"""Two tokenizations of one answer, side by side: where both have a boundary, and which tokens are
the same text.

Between two common boundaries lies a span: some tokens of the student, some of the teacher, and the
same text. Space counts for nothing when boundaries are compared, as templates and tokenizers hang
it on either side; it belongs to what comes after it. The token that ends a turn is one more letter,
the same for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from burnish.models.chat_template import TokenizedRow, end_of_turn

#: What stands for a letter of which a token holds only some bytes.
_TORN = "\ufffd"
#: The end of a turn as a letter (one that Unicode gives to nobody), whatever token it is.
_END = "\ufdd0"


@dataclass(frozen=True, slots=True)
class AlignedSpan:
    """The learnt tokens of the student and of the teacher that are the same text: `ours` and
    `theirs` are (first, behind the last), counted through the learnt places of a row. `leads` are
    the spaces with which each side begins a turn, which templates put there."""

    student: tuple[int, int]
    teacher: tuple[int, int]
    leading_spaces: tuple[str, str] = ("", "")


class TokenTexts:
    """Reads tokens as text, each by itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.ends = tokenizer, end_of_turn(tokenizer)
        # Some decoders take the first token's space away, so every token stands behind another.
        self._before = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._cut = len(self._decode(self._before))

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens that follow another one."""
        return self._decode([*self._before, *ids])[self._cut :]

    def texts(self) -> list[str]:
        """The text of every token of the vocabulary; the end of a turn is a letter of its own, and
        other special tokens are no text."""
        special = set(self.tokenizer.all_special_ids)
        behind = [[*self._before, token] for token in range(len(self.tokenizer))]
        found = self.tokenizer.batch_decode(behind, clean_up_tokenization_spaces=False)
        words = [text[self._cut :] for text in found]
        for token in special:
            words[token] = ""
        for token in self.ends:
            words[token] = _END
        return words

    def pieces(self, ids: Sequence[int]) -> list[str | None]:
        """The text that each token adds; None after a token that ends within a letter."""
        found: list[str | None] = []
        held: list[int] = []
        for token in ids:
            held.append(token)
            text = _END if token in self.ends else self.text(held)
            if text.endswith(_TORN):
                found.append(None)
                continue
            found.append(text)
            held = []
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


class TokenAligner:
    """What a student and its teacher have in common as readers."""

    def __init__(self, ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> None:
        self.ours, self.theirs = TokenTexts(ours), TokenTexts(theirs)
        self._words: dict[str, int] = {}
        for token, text in enumerate(self.ours.texts()):
            if text and _TORN not in text:
                self._words.setdefault(text, token)
        self._texts = self.theirs.texts()
        self._maps: dict[tuple[str, str], np.ndarray] = {}

    def align(self, ours: TokenizedRow, theirs: TokenizedRow) -> list[AlignedSpan]:
        """The spans of one row as both have it, turn by turn; what has no common boundary, or isn't
        the same text, is in none."""
        found: list[AlignedSpan] = []
        for (begin, ids), (other, other_ids) in zip(
            _target_runs(ours), _target_runs(theirs), strict=False
        ):
            sides = self.ours.pieces(ids), self.theirs.pieces(other_ids)
            same = _common_length(
                [_strip_spaces("".join(piece or "" for piece in side)) for side in sides]
            )
            mine, their = (_boundaries(side, same) for side in sides)
            leads = _lead(sides[0]), _lead(sides[1])
            for low, high in pairwise([0, *sorted(mine.keys() & their.keys())]):
                found.append(
                    AlignedSpan(
                        (begin + mine.get(low, 0), begin + mine[high]),
                        (other + their.get(low, 0), other + their[high]),
                        ("", "") if low else leads,
                    )
                )
        return found

    def token_map(self, leads: tuple[str, str] = ("", "")) -> np.ndarray:
        """(teacher's vocabulary,): the student's token that is the same text, or -1; where the two
        begin with other `leads`, the text behind them is the same."""
        if leads not in self._maps:
            found = [
                self._words.get(_replace_leading_space(text, *leads), -1) for text in self._texts
            ]
            self._maps[leads] = np.array(found, dtype=np.int32)
        return self._maps[leads]


def _replace_leading_space(text: str, lead: str, other: str) -> str:
    """The teacher's text as the student would begin with it; empty if it begins otherwise."""
    if text == _END or lead == other:
        return text
    return lead + text[len(other) :] if text.startswith(other) else ""


def _lead(pieces: Sequence[str | None]) -> str:
    text = "".join(piece or "" for piece in pieces)
    return text[: len(text) - len(text.lstrip())]


def target_tokens(row: TokenizedRow) -> list[int]:
    """The tokens of a row that are learnt, in the order of its places."""
    return [token for _, ids in _target_runs(row) for token in ids]


def _target_runs(row: TokenizedRow) -> list[tuple[int, list[int]]]:
    """The learnt turns of a row: the number of the first learnt token, and the tokens."""
    runs: list[tuple[int, list[int]]] = []
    count, last = 0, -1
    for place in range(1, len(row.ids)):
        if row.weights[place] > 0:
            if place != last + 1 or not runs:
                runs.append((count, []))
            runs[-1][1].append(row.ids[place])
            count, last = count + 1, place
    return runs


def _boundaries(pieces: Sequence[str | None], same: int) -> dict[int, int]:
    """Letters before each boundary (up to `same`) → tokens before it; of boundaries with nothing
    but space between them the first one."""
    cuts: dict[int, int] = {}
    letters = 0
    for number, piece in enumerate(pieces, start=1):
        if piece is None:
            continue
        letters += len(_strip_spaces(piece))
        if 0 < letters <= same:
            cuts.setdefault(letters, number)
    return cuts


def _common_length(texts: Sequence[str]) -> int:
    """How long the beginning is that both texts share."""
    pairs = enumerate(zip(*texts, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(map(len, texts)))


def _strip_spaces(text: str) -> str:
    return "".join(text.split())
