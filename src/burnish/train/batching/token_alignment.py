"""Alignment of two tokenizations of one answer: their common boundaries, and equal tokens.

Between two common boundaries is a span: some tokens of the student, some of the teacher, and the
same text. Whitespace is ignored when boundaries are compared, as templates and tokenizers attach it
to either side; it belongs to the text after it. The token that ends a turn is one more character,
the same for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from burnish.models.chat_template import TokenizedRow, end_of_turn

#: The replacement character, for a character of which a token has only some bytes.
_PARTIAL = "\ufffd"
#: The end of a turn as a character (one that Unicode never assigns), whatever its token.
_END = "\ufdd0"


@dataclass(frozen=True, slots=True)
class AlignedSpan:
    """Target tokens of the student and of the teacher that are the same text: `student` and
    `teacher` are (first, end), counted over the targets of a row. `leading_spaces` are the spaces
    that the template of each side puts at the beginning of a turn."""

    student: tuple[int, int]
    teacher: tuple[int, int]
    leading_spaces: tuple[str, str] = ("", "")


class TokenTexts:
    """Decodes tokens to text, each by itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.ends = tokenizer, end_of_turn(tokenizer)
        # Some decoders strip the first token's space, so every token is decoded after another.
        self._prefix = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._prefix_length = len(self._decode(self._prefix))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens that follow another one."""
        return self._decode([*self._prefix, *ids])[self._prefix_length :]

    def texts(self) -> list[str]:
        """Return the text of every token of the vocabulary; the end of a turn is a character of its
        own, and other special tokens have no text."""
        special = set(self.tokenizer.all_special_ids)
        prefixed = [[*self._prefix, token] for token in range(len(self.tokenizer))]
        decoded = self.tokenizer.batch_decode(prefixed, clean_up_tokenization_spaces=False)
        texts = [text[self._prefix_length :] for text in decoded]
        for token in special:
            texts[token] = ""
        for token in self.ends:
            texts[token] = _END
        return texts

    def pieces(self, ids: Sequence[int]) -> list[str | None]:
        """Return the text that each token adds; None for a token that ends within a character."""
        pieces: list[str | None] = []
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            text = _END if token in self.ends else self.text(pending)
            if text.endswith(_PARTIAL):
                pieces.append(None)
                continue
            pieces.append(text)
            pending = []
        return pieces

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


class TokenAligner:
    """Aligns the tokens of a student and its teacher."""

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
        self.student, self.teacher = TokenTexts(student), TokenTexts(teacher)
        self._student_tokens: dict[str, int] = {}
        for token, text in enumerate(self.student.texts()):
            if text and _PARTIAL not in text:
                self._student_tokens.setdefault(text, token)
        self._teacher_texts = self.teacher.texts()
        self._maps: dict[tuple[str, str], np.ndarray] = {}

    def align(self, student_row: TokenizedRow, teacher_row: TokenizedRow) -> list[AlignedSpan]:
        """Return the aligned spans of one row, turn by turn; text that differs, or has no common
        boundary, is in none."""
        spans: list[AlignedSpan] = []
        for (first, ids), (teacher_first, teacher_ids) in zip(
            _target_runs(student_row), _target_runs(teacher_row), strict=False
        ):
            sides = self.student.pieces(ids), self.teacher.pieces(teacher_ids)
            same = _common_length(
                [_strip_spaces("".join(piece or "" for piece in side)) for side in sides]
            )
            student, teacher = (_boundaries(side, same) for side in sides)
            leading_spaces = _leading_space(sides[0]), _leading_space(sides[1])
            for low, high in pairwise([0, *sorted(student.keys() & teacher.keys())]):
                spans.append(
                    AlignedSpan(
                        (first + student.get(low, 0), first + student[high]),
                        (teacher_first + teacher.get(low, 0), teacher_first + teacher[high]),
                        ("", "") if low else leading_spaces,
                    )
                )
        return spans

    def token_map(self, leading_spaces: tuple[str, str] = ("", "")) -> np.ndarray:
        """Return (teacher's vocabulary,) the student's token of the same text, or -1; the text is
        the same but for the `leading_spaces` of student and teacher."""
        if leading_spaces not in self._maps:
            texts = (_replace_leading_space(text, *leading_spaces) for text in self._teacher_texts)
            tokens = [self._student_tokens.get(text, -1) for text in texts]
            self._maps[leading_spaces] = np.array(tokens, dtype=np.int32)
        return self._maps[leading_spaces]


def _replace_leading_space(text: str, student_space: str, teacher_space: str) -> str:
    """Return the teacher's text with the student's leading space; "" if it doesn't begin with
    the teacher's."""
    if text == _END or student_space == teacher_space:
        return text
    if not text.startswith(teacher_space):
        return ""
    return student_space + text[len(teacher_space) :]


def _leading_space(pieces: Sequence[str | None]) -> str:
    text = "".join(piece or "" for piece in pieces)
    return text[: len(text) - len(text.lstrip())]


def target_tokens(row: TokenizedRow) -> list[int]:
    """Return the target tokens of a row, in order."""
    return [token for _, ids in _target_runs(row) for token in ids]


def _target_runs(row: TokenizedRow) -> list[tuple[int, list[int]]]:
    """Return the target turns of a row: the number of the first target, and the tokens."""
    runs: list[tuple[int, list[int]]] = []
    count, last_position = 0, -1
    for position in range(1, len(row.ids)):
        if row.weights[position] > 0:
            if position != last_position + 1 or not runs:
                runs.append((count, []))
            runs[-1][1].append(row.ids[position])
            count, last_position = count + 1, position
    return runs


def _boundaries(pieces: Sequence[str | None], same: int) -> dict[int, int]:
    """Return characters before each boundary (up to `same`) → tokens before it; of boundaries with
    only whitespace between them, the first one."""
    boundaries: dict[int, int] = {}
    characters = 0
    for number, piece in enumerate(pieces, start=1):
        if piece is None:
            continue
        characters += len(_strip_spaces(piece))
        if 0 < characters <= same:
            boundaries.setdefault(characters, number)
    return boundaries


def _common_length(texts: Sequence[str]) -> int:
    """Return the length of the common prefix of both texts."""
    pairs = enumerate(zip(*texts, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(map(len, texts)))


def _strip_spaces(text: str) -> str:
    return "".join(text.split())
