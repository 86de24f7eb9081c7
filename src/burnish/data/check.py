"""Checks of rows: every finding with its row numbers and its fix."""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ftfy.badness import is_bad

from burnish.core.records import Finding, Row, abbreviate
from burnish.data.duplicates import (
    find_continued,
    find_near_pairs,
    normalize_text,
    question_text,
    said_hash,
)
from burnish.data.findings import CODES
from burnish.data.pii import find_pii_kinds
from burnish.data.read import ReadResult

_RARE, _FEW, _LONG = 5, 50, 100_000


def check(result: ReadResult, near: float) -> list[Finding]:
    """Return all findings over the files read; several files are taken as splits that must not
    share rows.

    `near` is the similarity from which rows count as near duplicates (`data.near_duplicate`).
    """
    by_file: dict[str, list[Row]] = {file: [] for file in result.hashes}
    for row in result.rows:
        by_file[row.file].append(row)
    findings = [*result.findings, *find_empty_files(result)]
    for file, rows in by_file.items():
        findings += check_rows(file, rows, near)
    findings += _check_across_files(by_file, near)
    return findings


def find_empty_files(result: ReadResult) -> list[Finding]:
    """Return a finding for each file without rows and without any other finding."""
    known_files = {row.file for row in result.rows} | {finding.file for finding in result.findings}
    return [make_finding("no_rows", file, ()) for file in result.hashes if file not in known_files]


def check_rows(file: str, rows: Sequence[Row], near: float) -> list[Finding]:
    """Return the findings within one file."""
    rows_by_code: dict[str, list[int]] = defaultdict(list)
    kinds: Counter[str] = Counter()
    for row in rows:
        for code in _find_row_codes(row):
            rows_by_code[code].append(row.line)
        text = " ".join(_texts(row))
        if is_bad(text):
            rows_by_code["garbled"].append(row.line)
        if pii_kinds := find_pii_kinds(text):
            rows_by_code["personal_data"].append(row.line)
            kinds.update(pii_kinds)
    rows_by_code |= _find_repeats(rows, near)
    facts = {"kinds": ", ".join(sorted(kinds)), "count": len(rows)}
    if 0 < len(rows) < _FEW:
        rows_by_code["few_rows"] = [row.line for row in rows]
    findings = [
        make_finding(code, file, numbers, facts)
        for code, numbers in rows_by_code.items()
        if numbers
    ]
    return [*findings, *_check_labels(file, rows)]


def make_finding(
    code: str, file: str, rows: Sequence[int], facts: Mapping[str, object] | None = None
) -> Finding:
    """Return a finding of the table CODES."""
    severity, message, fix = CODES[code]
    facts = facts or {}
    return Finding(code, severity, file, tuple(rows), message.format(**facts), fix.format(**facts))


def _find_row_codes(row: Row) -> Iterator[str]:
    if sum(map(len, _texts(row))) > _LONG:
        yield "long_text"
    if row.text is not None:
        if _is_blank(row.text):
            yield "empty_answer"
        return
    roles = [message.role for message in row.messages]
    answers = [message for message in row.messages if message.role == "assistant"]
    if not answers:
        yield "no_assistant_turn"
    if row.rejected:
        if row.rejected.content.strip() == answers[-1].content.strip() and (
            row.rejected.tool_calls == answers[-1].tool_calls
        ):
            yield "same_answers"
        answers.append(row.rejected)
    if any(_is_blank(message.content) and not message.tool_calls for message in answers):
        yield "empty_answer"
    if any(_is_blank(m.content) for m in row.messages if m.role == "user"):
        yield "empty_prompt"
    if not _roles_in_order(roles):
        yield "wrong_role"


def _texts(row: Row) -> list[str]:
    """Return all texts of a row."""
    turns = [*row.messages, *([row.rejected] if row.rejected else [])]
    return [row.text or "", *(message.content for message in turns)]


def _roles_in_order(roles: Sequence[str]) -> bool:
    """Return whether the order of roles is valid: system only first; a user or tool before the
    assistant; only tools repeat."""
    turns = list(roles[1:] if roles[:1] == ["system"] else roles)
    if not turns or "system" in turns or turns[0] not in ("user", "tool"):
        return False
    return all(role != following or role == "tool" for role, following in pairwise(turns))


def _find_repeats(rows: Sequence[Row], near: float) -> dict[str, list[int]]:
    """Return exact and near duplicates, answers that are trained in several rows, and questions
    with different answers."""
    hashes = [said_hash(row) for row in rows]
    count = Counter(hashes)
    exact = [row.line for row, row_hash in zip(rows, hashes, strict=True) if count[row_hash] > 1]
    answers: dict[str, set[str]] = defaultdict(set)
    unjudged = [row for row in rows if not row.is_preference]
    for row in unjudged:
        answers[_question_text(row)].add(normalize_text(row.answer) or row.answer or _called(row))
    conflicts = [
        row.line for row in unjudged if row.messages and len(answers[_question_text(row)]) > 1
    ]
    texts = [question_text(row) for row in rows]
    near_indices = {
        index
        for first, second in find_near_pairs(texts, near)
        if hashes[first] != hashes[second]
        for index in (first, second)
    }
    repeated = {
        first for first, second in find_continued(rows) if len(rows[second].trained_turns) > 1
    }
    return {
        "exact_duplicate": exact,
        "learnt_again": [rows[index].line for index in sorted(repeated)],
        "near_duplicate": [rows[index].line for index in sorted(near_indices)],
        "conflicting_answers": conflicts,
        "judged_both_ways": _find_contradictions(rows),
    }


def _find_contradictions(rows: Sequence[Row]) -> list[int]:
    """Return rows that judge one answer to one question both ways."""
    rows_by_content: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.desirable is not None:
            rows_by_content[said_hash(replace(row, desirable=None))].append(row)
    return sorted(
        row.line
        for group in rows_by_content.values()
        if len({row.desirable for row in group}) > 1
        for row in group
    )


def _called(row: Row) -> str:
    """Return the tool calls of a row's answer, for answers without text."""
    return json.dumps([call for turn in row.messages[-1:] for call in turn.tool_calls])


def _question_text(row: Row) -> str:
    return "\n".join(f"{message.role}: {normalize_text(message.content)}" for message in row.prompt)


def _check_labels(file: str, rows: Sequence[Row]) -> list[Finding]:
    """Return findings about labels: rare ones, one label in several forms, or a single one."""
    counts = Counter(row.label for row in rows if row.label is not None)
    if len(counts) < 2:
        is_only_label = len(rows) > 1 and counts.total() == len(rows)
        return (
            [make_finding("one_label", file, [row.line for row in rows])] if is_only_label else []
        )
    forms: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        forms[_bare(label)].append(label)
    variants = [label for group in forms.values() if len(group) > 1 for label in group]
    rare = [label for label, n in counts.items() if n < _RARE]
    return [
        make_finding(
            code, file, [row.line for row in rows if row.label in labels], {"labels": names}
        )
        for code, labels, names in (
            ("label_balance", set(rare), abbreviate(rare)),
            ("label_forms", set(variants), abbreviate([repr(label) for label in variants])),
        )
        if labels
    ]


def _bare(label: str) -> str:
    """Return a label without case, spaces and invisible characters."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(char for char in folded if not _unseen(char)) or label


def _unseen(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cf")


def _is_blank(text: str) -> bool:
    return all(map(_unseen, text))


def _check_across_files(by_file: Mapping[str, Sequence[Row]], near: float) -> list[Finding]:
    """Return findings about rows in several files, and labels that only later files have."""
    files = list(by_file)
    findings: list[Finding] = []
    for index, first in enumerate(files):
        for second in files[index + 1 :]:
            exact, close = find_leaks(by_file[first], by_file[second], near)
            for code, leaked in (("split_leak", exact), ("near_leak", close)):
                if leaked:
                    findings.append(make_finding(code, first, [row.line for row in leaked]))
    if files:
        known = {row.label for row in by_file[files[0]]}
        for file in files[1:]:
            unseen = [row for row in by_file[file] if row.label not in known]
            if unseen and None not in known:
                labels = abbreviate(sorted({str(row.label) for row in unseen}))
                numbers = [row.line for row in unseen]
                findings.append(make_finding("unseen_label", file, numbers, {"labels": labels}))
    return findings


def find_leaks(
    train: Sequence[Row], test: Sequence[Row], near: float
) -> tuple[list[Row], list[Row]]:
    """Return the training rows whose question is in the test rows: exactly, and nearly.

    A conversation that answers such a question at an earlier turn counts as exact.
    """
    test_questions = {normalize_text(question_text(row)) for row in test}
    rows = (*train, *test)
    continued = {second for first, second in find_continued(rows) if second < len(train) <= first}
    exact = [
        row
        for index, row in enumerate(train)
        if normalize_text(question_text(row)) in test_questions or index in continued
    ]
    exact_ids = {row.id for row in exact}
    texts = [question_text(row) for row in rows]
    near_indices = {
        first
        for first, second in find_near_pairs(texts, near)
        if first < len(train) <= second and train[first].id not in exact_ids
    }
    return exact, [train[index] for index in sorted(near_indices)]
