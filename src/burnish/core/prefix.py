"""What sequences begin with together."""

from collections.abc import Sequence
from itertools import takewhile
from operator import eq


def common_prefix_length(one: Sequence[object], *others: Sequence[object]) -> int:
    """How many items (tokens, characters) all of these begin with together."""
    return min((sum(takewhile(bool, map(eq, one, other))) for other in others), default=len(one))


def shared_prefix_length(sequences: Sequence[Sequence[object]]) -> int:
    """How many items all of these begin with together, if at least one is left to each."""
    return max(min(common_prefix_length(*sequences), min(map(len, sequences)) - 1), 0)
