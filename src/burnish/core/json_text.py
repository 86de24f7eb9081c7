"""A strict parser for JSON (RFC 8259) from untrusted input: one function, one exception.

Python's parser accepts NaN and Infinity, lets lone surrogates through to the next encoder, and
raises other exceptions for numbers of thousands of digits and for deep nesting.
"""

import json
import math
from typing import Any

#: Digits that an integer may have: as many as Python converts back to text.
_MOST_DIGITS = 4_300
#: Signs of something to reject: constants, surrogates, exponents of three digits.
_SUSPECT = (
    "nan",
    "infinity",
    "\\ud",
    *(f"e{sign}{digit}" for sign in ("", "+") for digit in range(1, 10)),
)


class BadJson(ValueError):
    """Invalid JSON. `reason` says why, `line` (from 1) where."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(f"{reason} (line {line})")
        self.reason = reason
        self.line = line


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises BadJson, and nothing else."""
    value = _decoded(text)
    fault = _fault_in(value) if _may_be_refused(text) else None
    if fault:
        raise fault
    return value


def parse_entries(text: str) -> list[Any]:
    """Return the entries of a JSON array, with a BadJson in place of each invalid one; any other
    value is the only entry. Raises BadJson if the text as a whole is invalid."""
    value = _decoded(text)
    entries = value if isinstance(value, list) else [value]
    return [_fault_in(entry) or entry for entry in entries] if _may_be_refused(text) else entries


def _decoded(text: str) -> Any:
    """Return the value, with a BadJson inside for each rejected constant or number."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadJson(error.msg, error.lineno) from error
    except RecursionError as error:
        raise BadJson("nested too deeply") from error


def _may_be_refused(text: str) -> bool:
    """True if the text must be searched for something to reject; most texts needn't be."""
    folded = text.lower()
    return len(text) > _MOST_DIGITS or any(sign in folded for sign in _SUSPECT)


def _fault_in(value: Any) -> BadJson | None:
    """Return the first rejected item in a value, or None."""
    try:
        json.dumps(value, ensure_ascii=False, default=_raise).encode()
    except BadJson as fault:
        return fault
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        return BadJson(f"{half} is half of a character (a lone surrogate)")
    except RecursionError:
        return BadJson("nested too deeply")
    return None


def _raise(fault: Any) -> Any:
    raise fault


def _constant(name: str) -> Any:
    return BadJson(f"{name} is not valid JSON; write null for a missing value")


def _integer(digits: str) -> int | BadJson:
    if len(digits) > _MOST_DIGITS:
        return BadJson(f"a number has {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float | BadJson:
    number = float(digits)
    return BadJson(f"the number {digits[:40]} is too large") if math.isinf(number) else number


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, parse_float=_float)
