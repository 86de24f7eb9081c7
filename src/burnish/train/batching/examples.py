"""What the loop learns from: a row as tokens, alone or with what a teacher says of it, or answers
to one question that are compared."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from burnish.core.errors import BadData
from burnish.core.records import Message, Row, describe_rows
from burnish.models.chat_template import TokenizedRow

Encode = Callable[[Row], TokenizedRow]

#: Longest answer where the rows show none.
_UNKNOWN = 256


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """Answers to one question, compared with one another or with what the model said before.

    A pair has the preferred answer first; a judged answer stands alone and is `desirable` or not.
    `mismatched` is the question with the answer to another one, which only KTO looks at (None where
    the question leaves no room for it). `reference`
    has the log-probabilities (natural, summed) of the answers, then of the mismatched one, before
    training.
    """

    answers: tuple[TokenizedRow, ...]
    desirable: bool = True
    mismatched: TokenizedRow | None = None
    reference: tuple[float, ...] = ()

    @property
    def answers_with_reference(self) -> tuple[TokenizedRow, ...]:
        """All that has a reference, in its order."""
        return (*self.answers, self.mismatched) if self.mismatched else self.answers


@dataclass(frozen=True, slots=True, eq=False)
class DistillationExample:
    """A row and what a teacher says at its learnt places, in their order.

    `tokens` (places, k) are the likeliest ones, `logprobs` (places, k + 1) their log-probabilities
    and that of all others together (see train.divergence).
    """

    row: TokenizedRow
    tokens: np.ndarray
    logprobs: np.ndarray

    @property
    def answers(self) -> tuple[TokenizedRow, ...]:
        """The row itself."""
        return (self.row,)


@dataclass(frozen=True, slots=True, eq=False)
class CrossTokenizerExample:
    """A row and what a teacher with other tokens says of the same text (see train.matching).

    `tokens` (places, 1 + k): how many of the row's tokens the span has that begins here (0: none
    does), then the student's tokens for the teacher's likeliest ones (-1: no more). `logprobs`
    (places, k + 2): of the span's text, of those tokens, and of all else together.
    """

    row: TokenizedRow
    tokens: np.ndarray
    logprobs: np.ndarray

    @property
    def answers(self) -> tuple[TokenizedRow, ...]:
        """The row itself."""
        return (self.row,)


@dataclass(frozen=True, slots=True, eq=False)
class RowExample:
    """A row with its answers (the preferred one first), for a loss that reads the row itself."""

    answers: tuple[TokenizedRow, ...]
    row: Row


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """A question and the answers that the model itself has given to it (see train.drawing).

    `prompt` are the question's tokens, `longest` those that an answer may have. `advantages` has a
    number an answer; `old` and `reference` the log-probability of each token of all answers, when
    they were drawn and before training (empty: as they are now). Before the drawing the answers are
    stand-ins of the longest length that are worth nothing.
    """

    prompt: tuple[int, ...]
    row: Row
    max_new_tokens: int
    answers: tuple[TokenizedRow, ...]
    advantages: tuple[float, ...]
    old: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()


Example = (
    TokenizedRow
    | PreferenceExample
    | DistillationExample
    | CrossTokenizerExample
    | RowExample
    | RolloutGroup
)


def all_answers(examples: Sequence[Example]) -> list[TokenizedRow]:
    """All answers, in the order in which a batch counts them."""
    return [answer for example in examples for answer in example.answers]


def sft_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Rows whose answers are learnt. Raises BadData where one is marked as undesirable."""
    reject_undesirable(rows)
    return [encode(row) for row in rows]


def reject_undesirable(rows: Sequence[Row]) -> None:
    """Raises BadData where an answer is marked as undesirable."""
    _reject(
        [row for row in rows if row.desirable is False],
        "the answer is undesirable, and this objective would learn it.",
        "Set train.objective=kto, or drop these rows.",
    )


def row_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Any rows, with all their answers."""
    return [
        RowExample(tuple(encode(side) for side in (row.sides if row.rejected else (row,))), row)
        for row in rows
    ]


def preference_pairs(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Rows of two answers, the preferred one first. Raises BadData where one has no other."""
    _reject(
        [row for row in rows if row.rejected is None],
        "there is no rejected answer to compare with.",
        "Give every row a chosen and a rejected answer (docs/reference/data-formats.md), or set "
        "another objective: train.objective=sft for answers, =kto for answers marked true or "
        "false.",
    )
    return [PreferenceExample(tuple(encode(side) for side in row.sides)) for row in rows]


def kto_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Rows of one judged answer, each beside its question with the answer of the next other one.

    A row with two answers becomes two rows, as in the paper. Raises BadData for rows that don't say
    whether their answer is desirable.
    """
    _reject(
        [row for row in rows if not row.is_preference],
        "nothing says whether the answer is desirable.",
        'Give every row "label": true or false (docs/reference/data-formats.md), or set '
        "train.objective=sft.",
    )
    single = [side for row in rows for side in _split_pair(row)]
    examples: list[Example] = []
    for place, row in enumerate(single):
        behind = (single[(place + step) % len(single)] for step in range(1, len(single)))
        other = next((some for some in behind if some.prompt != row.prompt), row)
        mismatched = encode(replace(row, messages=(*row.prompt, other.messages[-1])))
        examples.append(
            PreferenceExample(
                (encode(row),),
                desirable=bool(row.desirable),
                mismatched=mismatched if mismatched.target_count else None,
            )
        )
    return examples


def without_answer(row: Row) -> Row:
    """The row with an empty answer and nothing else learnt: what is asked, as it will be asked.
    Plain text asks nothing and stays what it is."""
    if row.text is not None:
        return row
    asked = tuple(
        replace(message, weight=0.0) if message.role == "assistant" else message
        for message in row.question
    )
    return replace(row, messages=(*asked, Message("assistant", "")), rejected=None)


def rollout_groups(
    rows: Sequence[Row], encode: Encode, answers: int, max_new_tokens: int = 0
) -> list[Example]:
    """Rows as questions with room for so many answers. Raises BadData for plain text."""
    _reject(
        [row for row in rows if not row.question],
        "there is no question to answer.",
        "Write conversations, or set train.objective=sft to learn plain text.",
    )
    known = [encode(row).target_count for row in rows if row.answer]
    longest = max_new_tokens or max([16, *(math.ceil(1.5 * length) for length in known)])
    if not max_new_tokens and len(known) < len(rows):
        longest = _UNKNOWN
    found: list[Example] = []
    for row in rows:
        whole = encode(without_answer(row))
        prompt = whole.ids[: whole.weights.index(1.0)]
        stand_in = TokenizedRow(
            (*prompt, *longest * whole.ids[-1:]), (*[0.0] * len(prompt), *longest * (1.0,))
        )
        found.append(RolloutGroup(prompt, row, longest, answers * (stand_in,), answers * (0.0,)))
    return found


def _split_pair(row: Row) -> list[Row]:
    if row.rejected is None:
        return [row]
    chosen, rejected = row.sides
    return [replace(chosen, desirable=True), replace(rejected, desirable=False)]


def _reject(rows: Sequence[Row], what: str, fix: str) -> None:
    if rows:
        place = describe_rows(rows[0].file, [row.line for row in rows])
        raise BadData(f"{place}: {what}", fix)
