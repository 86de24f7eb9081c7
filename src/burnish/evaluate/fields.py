"""Count the fields (leaves) of two JSON values, and those they share.

The fields of one object belong together: the objects of two lists are matched to maximize agreement
(Kuhn 1955) before counting. Lists are unordered; 1 and 1.0 are one number.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

#: Limit of pairwise comparisons of two lists; longer ones are compared position by position.
_MOST_PAIRS = 10_000


def parse_fields(text: str) -> Any:
    """Parse JSON with numbers of any size as Decimal. Raises ValueError."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_refuse)
    except (RecursionError, InvalidOperation) as error:
        raise ValueError("The text is not valid JSON, or is nested too deeply.") from error


def count_fields(value: Any) -> int:
    """Return the number of leaves of a value; an empty list or object counts as one."""
    if isinstance(value, Mapping) and value:
        return sum(map(count_fields, value.values()))
    if isinstance(value, list) and value:
        return sum(map(count_fields, value))
    return 1


def shared_fields(expected: Any, actual: Any) -> int:
    """Return the number of leaves with equal path and value."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping) and expected and actual:
        return sum(
            shared_fields(expected[key], actual[key]) for key in expected.keys() & actual.keys()
        )
    if isinstance(expected, list) and isinstance(actual, list) and expected and actual:
        return _shared_items(expected, actual)
    return int(_frozen(expected) == _frozen(actual))


def _shared_items(expected: list[Any], actual: list[Any]) -> int:
    """Return the shared leaves of two lists: equal items first, then the best matching of the
    rest."""
    counts = [Counter(map(_frozen, items)) for items in (expected, actual)]
    equal = counts[0] & counts[1]
    rest = [_without(items, equal) for items in (expected, actual)]
    count = sum(count_fields(item) for item in expected) - sum(map(count_fields, rest[0]))
    # Scalars that aren't equal share nothing.
    nested = [[item for item in items if isinstance(item, Mapping | list)] for items in rest]
    return count + (_paired(*nested) if all(nested) else 0)


def _paired(expected: list[Any], actual: list[Any]) -> int:
    if len(expected) * len(actual) > _MOST_PAIRS:
        return sum(map(shared_fields, expected, actual))
    from scipy.optimize import linear_sum_assignment  # slow to load, rarely needed

    table = [[shared_fields(left, right) for right in actual] for left in expected]
    rows, columns = linear_sum_assignment(table, maximize=True)
    return sum(table[row][column] for row, column in zip(rows, columns, strict=True))


def _without(items: list[Any], equal: Counter[Any]) -> list[Any]:
    """Return the items beyond those that both lists have."""
    remaining, rest = Counter(equal), []
    for item in items:
        key = _frozen(item)
        if remaining[key] > 0:
            remaining[key] -= 1
        else:
            rest.append(item)
    return rest


def _frozen(value: Any) -> Any:
    """Return a hashable form of a value: lists as multisets, texts in NFC, true distinct from 1."""
    if isinstance(value, Mapping):
        return "object", frozenset((key, _frozen(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "list", frozenset(Counter(map(_frozen, value)).items())
    if isinstance(value, str):
        return "text", unicodedata.normalize("NFC", value)
    return type(value).__name__, value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON.")
