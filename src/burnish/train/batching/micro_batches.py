"""How the rows of a step are cut into micro-batches."""

from collections.abc import Sequence

from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.packed import count_known_tokens, count_shared_prefix

#: Rows that begin alike go together where that leaves less than this share to compute; rows of like
#: length leave attention fewer places to pad.
_WORTH_IT = 0.9
#: Places of padded rows in attention, beside the tokens that a micro-batch may have.
_PADDED = 8


def trim_to_target(row: TokenizedRow) -> TokenizedRow:
    """The row up to its last learnt token: what comes behind it teaches nothing."""
    last = max((place for place, weight in enumerate(row.weights) if weight > 0), default=-1)
    return TokenizedRow(row.ids[: last + 1], row.weights[: last + 1])


def micro_batches(rows: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    """Rows of like length together, or those that begin alike where that leaves a good deal less to
    compute; at most `most_tokens` computed tokens each, and no row is cut."""
    if not rows:
        return []
    alike = sorted(rows, key=_first_answer_ids)
    prefix = count_shared_prefix(all_answers(rows))
    by_length = sorted(alike, key=lambda row: count_computed_tokens([row]))
    batches = [
        sorted(some, key=_first_answer_ids)
        for some in _fill_batches(by_length, prefix, most_tokens)
    ]
    least = sum(map(count_computed_tokens, batches))
    if count_computed_tokens(alike) < _WORTH_IT * least:
        others = _fill_batches(alike, prefix, most_tokens, in_order=True)
        if sum(map(count_computed_tokens, others)) < _WORTH_IT * least:
            return others
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
    rows: Sequence[Example], prefix: int, most_tokens: int, in_order: bool = False
) -> list[list[Example]]:
    """Rows in this order, as many at a time as fit; `in_order`: each shares what it has in common
    with the row before it, and not the prefix of all alone."""
    batches: list[list[Example]] = []
    used = places = longest = 0
    for row in rows:
        before = batches[-1][-1:] if in_order and batches else []
        own = count_computed_tokens([*before, row]) - (
            count_computed_tokens(before) if before else prefix
        )
        count, length = len(row.answers), max(len(answer.ids) for answer in row.answers) - prefix
        padded = (places + count) * max(longest, length)
        if batches and used + own <= most_tokens and padded <= _PADDED * most_tokens:
            batches[-1].append(row)
            used, places, longest = used + own, places + count, max(longest, length)
        else:
            batches.append([row])
            used, places, longest = count_computed_tokens([row]), count, length
    return batches


def count_computed_tokens(rows: Sequence[Example]) -> int:
    """Tokens that the layers see when these rows are one micro-batch: what is shared, once."""
    answers = all_answers(rows)
    known = count_known_tokens(answers)
    return known[0] + sum(len(row.ids) - own for row, own in zip(answers, known, strict=True))


def count_all_tokens(rows: Sequence[Example]) -> int:
    """Tokens of all answers with their questions, whatever of it is shared."""
    return sum(len(answer.ids) for answer in all_answers(rows))


def _first_answer_ids(row: Example) -> tuple[int, ...]:
    return row.answers[0].ids
