"""Olive's flags, read strictly: each is meant, changes nothing here and says so, or is refused."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.core.errors import BurnishError


class BadFlag(BurnishError, ValueError):
    """A flag of Olive that isn't known, lacks its value, or can't be honoured."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How a value is read (`bool` is a switch), and why it is ignored or refused, if it is."""

    read: Callable[[str], Any] = str
    ignored: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ParsedFlags:
    """Values by flag, and a note on whatever is otherwise here than in Olive."""

    values: Mapping[str, Any]
    notes: tuple[str, ...]


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
SHORT_FLAGS = {"-m": "--model_name_or_path", "-a": "--adapter_path", "-d": "--data_name",
         "-o": "--output_path", "-t": "--task", "-f": "--adapter_type"}  # fmt: skip


def parse_flags(words: Sequence[str], flags: Mapping[str, Flag]) -> ParsedFlags:
    """Read `--flag value` and `--flag=value`; underscores and dashes are the same.

    Raises BadFlag and names the flag.
    """
    return flags_from_pairs(_split_pairs(words, flags), flags)


def flags_from_pairs(
    pairs: Iterable[tuple[str, str | None]], flags: Mapping[str, Flag]
) -> ParsedFlags:
    """The same from flags and values that stand apart. Raises BadFlag."""
    values: dict[str, Any] = {}
    notes = []
    for name, text in pairs:
        flag = flags[name]
        if flag.refused:
            raise BadFlag(f"{name} can't be honoured: {flag.refused}")
        if flag.ignored:
            notes.append(f"{name} changes nothing here: {flag.ignored}")
        else:
            values[name] = _read_value(name, flag, text)
    return ParsedFlags(values, tuple(notes))


def _split_pairs(
    words: Sequence[str], flags: Mapping[str, Flag]
) -> Iterator[tuple[str, str | None]]:
    left = list(words)
    while left:
        word, equals, text = left.pop(0).partition("=")
        name = resolve_flag(word, flags)
        is_switch = flags[name].read is bool
        follows = bool(left) and not left[0].startswith("--")
        if equals:
            yield name, text
        elif follows and (not is_switch or left[0].lower() in _BOOLEANS):
            yield name, left.pop(0)
        elif is_switch:
            yield name, None
        else:
            raise BadFlag(f"{name} has no value.", f"Write {name} VALUE.")


def resolve_flag(word: str, flags: Mapping[str, Flag]) -> str:
    """The flag that a word names. Raises BadFlag with the nearest known one."""
    name = SHORT_FLAGS.get(
        word, f"--{word[2:].replace('-', '_')}" if word.startswith("--") else word
    )
    if name in flags:
        return name
    near = difflib.get_close_matches(name, flags, n=1)
    raise BadFlag(
        f"`{word}` is no flag of this command.",
        f"Did you mean {near[0]}?" if near else f"Known flags: {', '.join(flags)}.",
    )


def _read_value(name: str, flag: Flag, text: str | None) -> Any:
    if flag.read is bool:
        if text is None:
            return True
        if text.lower() not in _BOOLEANS:
            raise BadFlag(f"{name} is `{text}`, not true or false.")
        return _BOOLEANS[text.lower()]
    try:
        return flag.read(str(text))
    except BadFlag as error:
        raise BadFlag(f"{name}: {error.what}", error.fix) from error
    except ValueError as error:
        raise BadFlag(f"{name} is `{text}`: {error}.") from error


def one_of(refused: Mapping[str, str], *allowed: str) -> Callable[[str], str]:
    """A reader that lets `allowed` words pass; some others it refuses with a reason."""

    def read(text: str) -> str:
        if text in allowed:
            return text
        if text in refused:
            raise BadFlag(f"`{text}` can't be honoured: {refused[text]}")
        raise BadFlag(f"`{text}` isn't known.", f"Known: {', '.join(allowed)}.")

    return read
