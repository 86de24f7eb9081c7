"""Examples: rows as tokens, alone, with a teacher's distributions, or as answers to compare."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from burnish.core.errors import BadData
from burnish.core.records import Message, Row, describe_rows
from burnish.models.chat_template import TokenizedRow

Encode = Callable[[Row], TokenizedRow]

#: The most tokens of an answer where the rows have none.
_DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """Answers to one prompt, compared with one another or with the reference model.

    A pair has the preferred answer first; a judged answer is alone, and `desirable` or not.
    `mismatched` is the prompt with the answer to another one, which only KTO needs (None where the
    prompt leaves no room for it). `reference` has the log-probabilities (natural, summed) of the
    answers before training, then that of the mismatched one.
    """

    answers: tuple[TokenizedRow, ...]
    desirable: bool = True
    mismatched: TokenizedRow | None = None
    reference: tuple[float, ...] = ()

    @property
    def answers_with_reference(self) -> tuple[TokenizedRow, ...]:
        """All answers that have a reference, in its order."""
        return (*self.answers, self.mismatched) if self.mismatched else self.answers


@dataclass(frozen=True, slots=True, eq=False)
class DistillationExample:
    """A row with a teacher's distributions at its targets, in order.

    `tokens` (targets, k) are the likeliest ones, `logprobs` (targets, k + 1) their
    log-probabilities and that of all others together (see `losses.divergence`).
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
    """A row with the distributions of a teacher with another tokenizer (see
    `losses.cross_tokenizer`).

    `tokens` (targets, 1 + k): the length of the span that begins here, in the row's tokens (0: none
    begins), then the student's tokens for the teacher's likeliest ones (-1: no more). `logprobs`
    (targets, k + 2): of the span's text, of those tokens, and of all else together.
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
    """A prompt with the model's own answers (see `rlhf.rollouts`).

    `prompt` are its tokens. `advantages` has a number for each answer; `old` and `reference` the
    log-probability of each token of all answers, when they were sampled and before training (empty:
    as they are now). Before sampling, the answers are placeholders of `max_new_tokens` tokens with
    an advantage of 0.
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
    """Return all answers, in the order of a batch."""
    return [answer for example in examples for answer in example.answers]


def sft_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Encode rows with their answers. Raises BadData where one is marked as undesirable."""
    reject_undesirable(rows)
    return [encode(row) for row in rows]


def reject_undesirable(rows: Sequence[Row]) -> None:
    """Raise BadData where an answer is marked as undesirable."""
    _reject(
        [row for row in rows if row.desirable is False],
        "the answer is undesirable, and this objective would learn it.",
        "Set train.objective=kto, or drop these rows.",
    )


def row_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Encode rows of any kind, with all their answers."""
    return [
        RowExample(tuple(encode(side) for side in (row.sides if row.rejected else (row,))), row)
        for row in rows
    ]


def preference_pairs(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Encode pairs of answers, the preferred one first. Raises BadData for a single answer."""
    _reject(
        [row for row in rows if row.rejected is None],
        "there is no rejected answer to compare with.",
        "Give every row a chosen and a rejected answer (docs/reference/data-formats.md), or set "
        "another objective: train.objective=sft for answers, =kto for answers marked true or "
        "false.",
    )
    return [PreferenceExample(tuple(encode(side) for side in row.sides)) for row in rows]


def kto_examples(rows: Sequence[Row], encode: Encode) -> list[Example]:
    """Encode judged answers, each with its prompt and the answer of the next other prompt.

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
    for index, row in enumerate(single):
        following = (single[(index + step) % len(single)] for step in range(1, len(single)))
        other = next((one for one in following if one.prompt != row.prompt), row)
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
    """Return the row with an empty answer and no other target: the prompt as it will be sampled
    from. Plain text has no prompt and is returned as it is."""
    if row.text is not None:
        return row
    prompt = tuple(
        replace(message, weight=0.0) if message.role == "assistant" else message
        for message in row.question
    )
    return replace(row, messages=(*prompt, Message("assistant", "")), rejected=None)


def rollout_groups(
    rows: Sequence[Row], encode: Encode, answers: int, max_new_tokens: int = 0
) -> list[Example]:
    """Encode rows as prompts with room for `answers` answers. Raises BadData for plain text."""
    _reject(
        [row for row in rows if not row.question],
        "there is no question to answer.",
        "Write conversations, or set train.objective=sft to learn plain text.",
    )
    lengths = [encode(row).target_count for row in rows if row.answer]
    longest = max_new_tokens or max([16, *(math.ceil(1.5 * length) for length in lengths)])
    if not max_new_tokens and len(lengths) < len(rows):
        longest = _DEFAULT_MAX_NEW_TOKENS
    groups: list[Example] = []
    for row in rows:
        encoded = encode(without_answer(row))
        prompt = encoded.ids[: encoded.weights.index(1.0)]
        placeholder = TokenizedRow(
            (*prompt, *longest * encoded.ids[-1:]), (*[0.0] * len(prompt), *longest * (1.0,))
        )
        groups.append(
            RolloutGroup(prompt, row, longest, answers * (placeholder,), answers * (0.0,))
        )
    return groups


def _split_pair(row: Row) -> list[Row]:
    if row.rejected is None:
        return [row]
    chosen, rejected = row.sides
    return [replace(chosen, desirable=True), replace(rejected, desirable=False)]


def _reject(rows: Sequence[Row], what: str, fix: str) -> None:
    if rows:
        named = describe_rows(rows[0].file, [row.line for row in rows])
        raise BadData(f"{named}: {what}", fix)
