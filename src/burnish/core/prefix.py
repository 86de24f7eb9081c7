"""Length of the common prefix of sequences."""

from collections.abc import Sequence
from itertools import takewhile
from operator import eq


def common_prefix_length(one: Sequence[object], *others: Sequence[object]) -> int:
    """Return the number of leading items (tokens, characters) shared by all sequences."""
    return min((sum(takewhile(bool, map(eq, one, other))) for other in others), default=len(one))


def shared_prefix_length(sequences: Sequence[Sequence[object]]) -> int:
    """Return the length of the common prefix that leaves each sequence at least one item."""
    return max(min(common_prefix_length(*sequences), min(map(len, sequences)) - 1), 0)
