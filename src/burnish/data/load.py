"""From a recipe to checked, split, frozen rows: the data for every other room."""

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

#: From this share of leaking training rows, a file was probably named twice.
_LEAK_LIMIT = 0.2


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows ready to use. `notes` say what was inferred or left out, a sentence each.

    `hashes` has the SHA-256 of every file, of the frozen test split as `test split`, and of all
    images' names, which derive from their bytes, as `pictures`.
    """

    split: Split
    task: Task
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    hashes: Mapping[str, str]

    def announce(self) -> None:
        """Report what was inferred, and the warnings about the rows."""
        for note in self.notes:
            say(note)
        for finding in self.findings:
            if finding.severity == "warning":
                location = describe_rows(Path(finding.file).name, finding.rows)
                say(f"Warning: {location}: {finding.message} {finding.fix}")


def load(recipe: Recipe, answered: bool = True) -> Dataset:
    """Read, check, split and freeze the rows of a recipe.

    Unless `answered`, training and validation rows may be questions alone, for a teacher. Raises
    BadData if rows are invalid, TestSplitChanged if the test split is not the frozen one.
    """
    data = recipe.data
    train, validation, test = (
        read_files(files, data, recipe.task) for files in (data.train, data.validation, data.test)
    )
    findings = [finding for part in (train, validation, test) for finding in part.findings]
    for part in (train, validation, test):
        findings += _check_part(part, data)
    if not answered:
        question_files = {*map(str, data.train), *map(str, data.validation)}
        findings = [
            finding
            for finding in findings
            if finding.code != "no_assistant_turn" or finding.file not in question_files
        ]
    _refuse_errors(findings)
    has_answers = any(row.answer or row.text for row in train.rows)
    task, reason = infer_task(train.rows if has_answers else test.rows, recipe.task)
    notes = [reason]
    train_rows, test_rows, validation_rows = (
        label_rows(p.rows, task) for p in (train, test, validation)
    )
    if not data.test:
        train_rows, test_rows = _draw_test(train_rows, data, notes)
    test_hash = freeze(data, test_rows) if test_rows else ""
    test_rows = _drop_undesirable(test_rows, notes)
    train_rows = _drop_leaks(train_rows, test_rows, data, notes, "test")
    if not data.validation:
        train_rows, validation_rows = draw_split(
            train_rows, data.validation_share, data.seed, data.near_duplicate
        )
    else:
        validation_rows = _drop_leaks(validation_rows, test_rows, data, notes, "test")
        train_rows = _drop_leaks(train_rows, validation_rows, data, notes, "validation")
    train_rows = sample_rows(train_rows, data.max_rows, data.seed)
    test_rows = grouped(test_rows)
    notes += [note] if (note := words_of(test_rows)) else []
    parts = [_add_prompt(part, task) for part in (train_rows, validation_rows, test_rows)]
    notes.append(
        f"Rows: {len(train_rows)} to train, {len(validation_rows)} to validate, "
        f"{len(test_rows)} to test."
    )
    split = Split(parts[0], parts[1], parts[2], test_hash)
    hashes = {**train.hashes, **validation.hashes, **test.hashes, "test split": test_hash}
    hashes |= _hash_images(parts)
    return Dataset(split, task, tuple(findings), tuple(notes), hashes)


def _hash_images(parts: Sequence[Sequence[Row]]) -> dict[str, str]:
    """Return a hash of the rows' images, which the hashes of the row files don't cover; empty
    without."""
    rows = [row for part in parts for row in part]
    names = sorted({image.name for row in rows for image in images_of(row.messages)})
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
    frozen = frozen_rows(data)
    if frozen is None:
        return draw_split(rows, data.test_share, data.seed, data.near_duplicate)
    by_hash = {frozen.hash_of(row): row for row in reversed(rows)}
    missing = [row_hash for row_hash in frozen.rows if row_hash not in by_hash]
    if missing:
        raise TestSplitChanged(
            f"{len(missing)} of the {len(frozen.rows)} frozen test rows are no longer in the data.",
            "Restore them; or accept a new split with `burnish check --refreeze` and measure "
            "everything again.",
        )
    frozen_hashes = set(frozen.rows)
    notes.append(f"Test split: the {len(frozen.rows)} rows frozen by an earlier run.")
    rest = tuple(row for row in rows if frozen.hash_of(row) not in frozen_hashes)
    return rest, tuple(by_hash[row_hash] for row_hash in frozen.rows)


def _drop_undesirable(rows: tuple[Row, ...], notes: list[str]) -> tuple[Row, ...]:
    """Drop test rows whose answer is undesirable: no answer can be scored against it."""
    kept = tuple(row for row in rows if row.desirable is not False)
    if dropped := len(rows) - len(kept):
        notes.append(f"Left out {dropped} test rows: their answers are marked undesirable.")
    return kept


def _drop_leaks(
    rows: tuple[Row, ...], held_out: tuple[Row, ...], data: Data, notes: list[str], name: str
) -> tuple[Row, ...]:
    """Drop rows whose question, or a near copy, is in the `held_out` rows, and rows of the same
    groups: a group may have grown since the test split was frozen.

    Raises BadData if many rows leak, or nothing is left.
    """
    exact, close = find_leaks(rows, held_out, data.near_duplicate)
    leaked_ids = {row.id for row in (*exact, *close)}
    if len(exact) > _LEAK_LIMIT * max(len(rows), 1):
        raise BadData(
            f"{len(exact)} of {len(rows)} rows are in the {name} rows too.",
            "Is one file named twice, or are the turns of one conversation in both? Name different "
            "files for training and test, and keep each conversation in one of them.",
        )
    if leaked_ids:
        notes.append(
            f"Left out {len(leaked_ids)} training rows that are in the {name} rows "
            f"({len(exact)} the same, {len(close)} nearly)."
        )
    remaining = tuple(row for row in rows if row.id not in leaked_ids)
    separate = _of_other_groups(remaining, held_out, notes, name)
    if remaining and not separate:
        raise BadData(
            f"All rows belong to groups of the {name} rows (data.group: {data.group}).",
            "Name rows of other groups for training, or leave data.group out.",
        )
    return separate


def _of_other_groups(
    rows: tuple[Row, ...], held_out: tuple[Row, ...], notes: list[str], name: str
) -> tuple[Row, ...]:
    """Drop rows whose group is among the `held_out` rows."""
    groups = {row.group for row in held_out if row.group}
    kept = tuple(row for row in rows if row.group not in groups)
    if dropped := len(rows) - len(kept):
        notes.append(f"Left out {dropped} training rows: their groups are in the {name} rows.")
    return kept


def _add_prompt(rows: Sequence[Row], task: Task) -> tuple[Row, ...]:
    """Prepend the recipe's prompt to every row without a system message."""
    if not task.prompt:
        return tuple(rows)
    system = Message("system", task.prompt)
    return tuple(
        replace(row, messages=(system, *row.messages))
        if row.messages and row.messages[0].role != "system"
        else row
        for row in rows
    )
