"""Durations and sizes as people write them: `300ms`, `1.5 s`, `500MB`, `1GiB`."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
    "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
}  # fmt: skip


def _reader(units: Mapping[str, float], example: str) -> Callable[[object], object]:
    def read(value: object) -> object:
        """Return the number in the smallest unit. Raises ValueError for text that isn't a
        quantity."""
        if not isinstance(value, str):
            return value
        match = _QUANTITY.fullmatch(value.strip())
        if match is None or match[2].lower() not in units:
            raise ValueError(f"should be a number with a unit, such as {example}")
        return float(match[1]) * units[match[2].lower()]

    return read


#: A duration in seconds; text may say `300ms`, `2 s`, `5min`.
Seconds = Annotated[
    float,
    BeforeValidator(_reader(_SECONDS, "300ms or 2s"), json_schema_input_type=float | str),
    Field(gt=0),
]
#: A size in bytes; text may say `500MB`, `1 GiB`.
Bytes = Annotated[
    float,
    BeforeValidator(_reader(_BYTES, "500MB or 1GiB"), json_schema_input_type=float | str),
    Field(gt=0),
]
