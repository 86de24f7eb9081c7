"""What all sections of a recipe are built on: the closed, frozen record, and short spellings."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


def as_tuple(value: object) -> object:
    """Let people write one path where several may stand."""
    return (value,) if isinstance(value, str | Path) else value


def kind_or(default: str) -> BeforeValidator:
    """Let people write `lora` for `{kind: lora}`, and leave the usual kind out of a mapping."""

    def complete(value: object) -> object:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "kind" not in value:
            return {"kind": default, **value}
        return value

    return BeforeValidator(complete)


def _check_executor(name: str) -> str:
    if not re.fullmatch(r"(ray(://[^\s/]+:\d+)?)?", name):
        raise ValueError("write ray, ray://host:port, or nothing for this machine")
    return name


#: Where trainings run.
ExecutorName = Annotated[str, AfterValidator(_check_executor)]

Paths = Annotated[tuple[Path, ...], BeforeValidator(as_tuple)]


class Section(BaseModel):
    """The base of all sections: an unknown key is an error and nothing changes after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
