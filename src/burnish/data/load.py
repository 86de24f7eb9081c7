"""From a recipe to checked, split, frozen rows: the data that every other room works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.core.atomic import hash_json
from burnish.core.errors import BadData, TestSplitChanged
from burnish.core.progress import say
from burnish.core.recipe.data import Data, Task
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Finding, Message, Row, Split, describe_rows, images_of
from burnish.data.check import check_rows, find_empty_files, find_leaks
from burnish.data.draws import grouped, words_of
from burnish.data.frozen_split import freeze, frozen_rows
from burnish.data.infer_task import infer_task, label_rows
from burnish.data.read import ReadResult, read_files
from burnish.data.split import draw_split, sample_rows

#: From this share of leaking training rows on, a file was probably named twice.
_LEAK_LIMIT = 0.2


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows ready to use. `notes` say what was inferred or left out, a sentence each.

    `hashes` has the SHA-256 of every file, of the frozen test split as `test split`, and of the
    names of all pictures, which their bytes make, as `pictures`.
    """

    split: Split
    task: Task
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    hashes: Mapping[str, str]

    def announce(self) -> None:
        """Say what was inferred, and the warnings about the rows."""
        for note in self.notes:
            say(note)
        for found in self.findings:
            if found.severity == "warning":
                place = describe_rows(Path(found.file).name, found.rows)
                say(f"Warning: {place}: {found.message} {found.fix}")


def load(recipe: Recipe, answered: bool = True) -> Dataset:
    """Read, check, split and freeze the rows of a recipe.

    Unless `answered`, rows to train and to validate may be questions alone, for a teacher.

    Raises BadData if rows are broken, TestSplitChanged if the test split is not the frozen one.
    """
    data = recipe.data
    train, validation, test = (
        read_files(files, data, recipe.task) for files in (data.train, data.validation, data.test)
    )
    findings = [finding for part in (train, validation, test) for finding in part.findings]
    for part in (train, validation, test):
        findings += _check_part(part, data)
    if not answered:
        asked_only = {*map(str, data.train), *map(str, data.validation)}
        findings = [
            found
            for found in findings
            if found.code != "no_assistant_turn" or found.file not in asked_only
        ]
    _refuse_errors(findings)
    has_answers = any(row.answer or row.text for row in train.rows)
    task, reason = infer_task(train.rows if has_answers else test.rows, recipe.task)
    notes = [reason]
    rows, asked, chosen = (label_rows(p.rows, task) for p in (train, test, validation))
    if not data.test:
        rows, asked = _draw_test(rows, data, notes)
    test_hash = freeze(data, asked) if asked else ""
    asked = _drop_undesirable(asked, notes)
    rows = _drop_leaks(rows, asked, data, notes, "test")
    if not data.validation:
        rows, chosen = draw_split(rows, data.validation_share, data.seed, data.near_duplicate)
    else:
        chosen = _drop_leaks(chosen, asked, data, notes, "test")
        rows = _drop_leaks(rows, chosen, data, notes, "validation")
    rows = sample_rows(rows, data.max_rows, data.seed)
    asked = grouped(asked)
    notes += [told] if (told := words_of(asked)) else []
    parts = [_add_prompt(part, task) for part in (rows, chosen, asked)]
    notes.append(f"Rows: {len(rows)} to train, {len(chosen)} to validate, {len(asked)} to test.")
    split = Split(parts[0], parts[1], parts[2], test_hash)
    hashes = {**train.hashes, **validation.hashes, **test.hashes, "test split": test_hash}
    hashes |= _hash_images(parts)
    return Dataset(split, task, tuple(findings), tuple(notes), hashes)


def _hash_images(parts: Sequence[Sequence[Row]]) -> dict[str, str]:
    """A hash of the pictures that rows name, which files of rows don't tell of; empty without."""
    rows = [row for part in parts for row in part]
    names = sorted({picture.name for row in rows for picture in images_of(row.messages)})
    return {"pictures": hash_json(names)} if names else {}


def _check_part(part: ReadResult, data: Data) -> list[Finding]:
    files = dict.fromkeys(row.file for row in part.rows)
    return find_empty_files(part) + [
        finding
        for file in files
        for finding in check_rows(
            file, [row for row in part.rows if row.file == file], data.near_duplicate
        )
    ]


def _refuse_errors(findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    more = f"\n... and {len(errors) - 3} more findings." if len(errors) > 3 else ""
    raise BadData(
        "\n".join(finding.summary for finding in errors[:3]) + more,
        f"{errors[0].fix}\nAll findings with their rows: burnish check {errors[0].file}",
    )


def _draw_test(
    rows: tuple[Row, ...], data: Data, notes: list[str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Draw the test split; or find the frozen one again, in a file that may have grown since."""
    before = frozen_rows(data)
    if before is None:
        return draw_split(rows, data.test_share, data.seed, data.near_duplicate)
    by_hash = {before.hash_of(row): row for row in reversed(rows)}
    missing = [own for own in before.rows if own not in by_hash]
    if missing:
        raise TestSplitChanged(
            f"{len(missing)} of the {len(before.rows)} frozen test rows are no longer in the data.",
            "Put them back; or accept a new split with `burnish check --refreeze` and measure "
            "everything again.",
        )
    frozen = set(before.rows)
    notes.append(f"Test split: the {len(before.rows)} rows frozen by an earlier run.")
    kept = tuple(row for row in rows if before.hash_of(row) not in frozen)
    return kept, tuple(by_hash[own] for own in before.rows)


def _drop_undesirable(rows: tuple[Row, ...], notes: list[str]) -> tuple[Row, ...]:
    """Test rows without those whose answer is undesirable: no answer can be measured by it."""
    kept = tuple(row for row in rows if row.desirable is not False)
    if gone := len(rows) - len(kept):
        notes.append(f"Left out {gone} test rows: their answers are marked undesirable.")
    return kept


def _drop_leaks(
    rows: tuple[Row, ...], asked: tuple[Row, ...], data: Data, notes: list[str], name: str
) -> tuple[Row, ...]:
    """Leave out rows whose question, or one nearly like it, stands in the rows that are asked, and
    rows of the same groups: a group may have grown since the test split was frozen.

    Raises BadData if a great part of the rows is asked too, or nothing is left.
    """
    exact, close = find_leaks(rows, asked, data.near_duplicate)
    gone = {row.id for row in (*exact, *close)}
    if len(exact) > _LEAK_LIMIT * max(len(rows), 1):
        raise BadData(
            f"{len(exact)} of {len(rows)} rows stand in the {name} rows too.",
            "Is one file named twice, or are the turns of one conversation in both? Name different "
            "files for training and test, and keep each conversation in one of them.",
        )
    if gone:
        notes.append(
            f"Left out {len(gone)} training rows that stand in the {name} rows "
            f"({len(exact)} the same, {len(close)} nearly)."
        )
    left = tuple(row for row in rows if row.id not in gone)
    apart = _of_other_groups(left, asked, notes, name)
    if left and not apart:
        raise BadData(
            f"All rows are of groups that stand in the {name} rows too (data.group: {data.group}).",
            "Name rows of other groups for training, or leave data.group out.",
        )
    return apart


def _of_other_groups(
    rows: tuple[Row, ...], asked: tuple[Row, ...], notes: list[str], name: str
) -> tuple[Row, ...]:
    """Leave out rows whose group stands in the rows that are asked."""
    groups = {row.group for row in asked if row.group}
    kept = tuple(row for row in rows if row.group not in groups)
    if gone := len(rows) - len(kept):
        notes.append(f"Left out {gone} training rows: their groups stand in the {name} rows.")
    return kept


def _add_prompt(rows: Sequence[Row], task: Task) -> tuple[Row, ...]:
    """Put the recipe's prompt before every row that has no system message."""
    if not task.prompt:
        return tuple(rows)
    system = Message("system", task.prompt)
    return tuple(
        replace(row, messages=(system, *row.messages))
        if row.messages and row.messages[0].role != "system"
        else row
        for row in rows
    )
