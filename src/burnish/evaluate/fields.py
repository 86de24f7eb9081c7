"""The fields of two JSON values, and how many they share.

Values of one object belong together: the objects of two lists are paired so that most fields agree
(Kuhn 1955), and only then counted. The order of a list says nothing; 1 and 1.0 are one number.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

#: Pairs of objects of two lists that are compared each with each; of more, those in one place are.
_MOST_PAIRS = 10_000


def parse_fields(text: str) -> Any:
    """The value of a JSON text: numbers as Decimal, whatever their size. Raises ValueError."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_refuse)
    except (RecursionError, InvalidOperation) as error:
        raise ValueError("The text is no JSON that can be kept.") from error


def count_fields(value: Any) -> int:
    """How many leaves a value has; an empty list or object is one."""
    if isinstance(value, Mapping) and value:
        return sum(map(count_fields, value.values()))
    if isinstance(value, list) and value:
        return sum(map(count_fields, value))
    return 1


def shared_fields(theirs: Any, ours: Any) -> int:
    """How many leaves are equal, path and value."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and theirs and ours:
        return sum(shared_fields(theirs[key], ours[key]) for key in theirs.keys() & ours.keys())
    if isinstance(theirs, list) and isinstance(ours, list) and theirs and ours:
        return _shared_items(theirs, ours)
    return int(_frozen(theirs) == _frozen(ours))


def _shared_items(theirs: list[Any], ours: list[Any]) -> int:
    """The same for two lists: equal items first, then the best pairs of the others."""
    left = [Counter(map(_frozen, items)) for items in (theirs, ours)]
    same = left[0] & left[1]
    rest = [_without(items, same) for items in (theirs, ours)]
    found = sum(count_fields(item) for item in theirs) - sum(map(count_fields, rest[0]))
    # Single values that aren't equal share nothing.
    inner = [[item for item in items if isinstance(item, Mapping | list)] for items in rest]
    return found + (_paired(*inner) if all(inner) else 0)


def _paired(theirs: list[Any], ours: list[Any]) -> int:
    if len(theirs) * len(ours) > _MOST_PAIRS:
        return sum(map(shared_fields, theirs, ours))
    from scipy.optimize import linear_sum_assignment  # a moment to load, and seldom asked

    table = [[shared_fields(one, other) for other in ours] for one in theirs]
    rows, columns = linear_sum_assignment(table, maximize=True)
    return sum(table[row][column] for row, column in zip(rows, columns, strict=True))


def _without(items: list[Any], same: Counter[Any]) -> list[Any]:
    """The items beyond those that both lists have."""
    left, rest = Counter(same), []
    for item in items:
        own = _frozen(item)
        if left[own] > 0:
            left[own] -= 1
        else:
            rest.append(item)
    return rest


def _frozen(value: Any) -> Any:
    """A value that can be compared and counted: lists as bags, texts in NFC, true apart from 1."""
    if isinstance(value, Mapping):
        return "object", frozenset((key, _frozen(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "list", frozenset(Counter(map(_frozen, value)).items())
    if isinstance(value, str):
        return "text", unicodedata.normalize("NFC", value)
    return type(value).__name__, value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON.")
