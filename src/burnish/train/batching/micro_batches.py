"""Micro-batches: how the rows of a step are split into forward passes."""

from collections.abc import Sequence

from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.packed import count_known_tokens, count_shared_prefix

#: Rows are batched by prefix where that leaves less than this share of the tokens to compute; else
#: by length, which leaves less padding in attention.
_WORTH_IT = 0.9
#: The most positions of padded rows in attention, as a multiple of a micro-batch's tokens.
_MAX_PADDING = 8


def trim_to_target(row: TokenizedRow) -> TokenizedRow:
    """Return the row up to its last target token: nothing is learned from what follows."""
    last = max((n for n, weight in enumerate(row.weights) if weight > 0), default=-1)
    return TokenizedRow(row.ids[: last + 1], row.weights[: last + 1])


def micro_batches(rows: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Return micro-batches of at most `max_tokens` computed tokens; no row is cut.

    Rows of like length go together, or those with common prefixes where that leaves less to
    compute.
    """
    if not rows:
        return []
    by_prefix = sorted(rows, key=_first_answer_ids)
    prefix = count_shared_prefix(all_answers(rows))
    by_length = sorted(by_prefix, key=lambda row: count_computed_tokens([row]))
    batches = [
        sorted(batch, key=_first_answer_ids)
        for batch in _fill_batches(by_length, prefix, max_tokens)
    ]
    computed = sum(map(count_computed_tokens, batches))
    if count_computed_tokens(by_prefix) < _WORTH_IT * computed:
        prefix_batches = _fill_batches(by_prefix, prefix, max_tokens, in_order=True)
        if sum(map(count_computed_tokens, prefix_batches)) < _WORTH_IT * computed:
            return prefix_batches
    return batches


def padded_batches(rows: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    """Cut rows into micro-batches of like length, at most `most_tokens` tokens with their padding;
    no row is cut."""
    batches: list[list[Example]] = []
    for row in sorted(rows, key=_longest_answer):
        # The newest row is the longest, so that all others are padded to it.
        if batches and count_padded_tokens([*batches[-1], row]) <= most_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def count_padded_tokens(rows: Sequence[Example]) -> int:
    """Tokens of all answers with their questions, padded to the longest."""
    return sum(len(row.answers) for row in rows) * max(map(_longest_answer, rows))


def _longest_answer(row: Example) -> int:
    return max(len(answer.ids) for answer in row.answers)


def _fill_batches(
    rows: Sequence[Example], prefix: int, max_tokens: int, in_order: bool = False
) -> list[list[Example]]:
    """Fill batches with rows in this order; with `in_order` each row shares its common prefix with
    the row before it, else only the prefix of all rows."""
    batches: list[list[Example]] = []
    used = count = longest = 0
    for row in rows:
        before = batches[-1][-1:] if in_order and batches else []
        known = count_computed_tokens(before) if before else prefix
        added = count_computed_tokens([*before, row]) - known
        answers, length = len(row.answers), max(len(answer.ids) for answer in row.answers) - prefix
        padded = (count + answers) * max(longest, length)
        if batches and used + added <= max_tokens and padded <= _MAX_PADDING * max_tokens:
            batches[-1].append(row)
            used, count, longest = used + added, count + answers, max(longest, length)
        else:
            batches.append([row])
            used, count, longest = count_computed_tokens([row]), answers, length
    return batches


def count_computed_tokens(rows: Sequence[Example]) -> int:
    """Return the tokens that the layers compute for one micro-batch: shared ones count once."""
    answers = all_answers(rows)
    known = count_known_tokens(answers)
    return known[0] + sum(len(row.ids) - shared for row, shared in zip(answers, known, strict=True))


def count_all_tokens(rows: Sequence[Example]) -> int:
    """Return the tokens of all answers with their prompts; shared ones count every time."""
    return sum(len(answer.ids) for answer in all_answers(rows))


def _first_answer_ids(row: Example) -> tuple[int, ...]:
    return row.answers[0].ids
