"""What is wrong with rows: every finding with its rows and its fix."""

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
    """All findings over files that were read; several are taken as splits that must not share rows.

    `near` is the likeness from which rows count as near duplicates (`data.near_duplicate`).
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
    """Files without a row, about which nothing else was found either."""
    spoken_of = {row.file for row in result.rows} | {found.file for found in result.findings}
    return [make_finding("no_rows", file, ()) for file in result.hashes if file not in spoken_of]


def check_rows(file: str, rows: Sequence[Row], near: float) -> list[Finding]:
    """Findings within one file."""
    found: dict[str, list[int]] = defaultdict(list)
    kinds: Counter[str] = Counter()
    for row in rows:
        for code in _find_row_codes(row):
            found[code].append(row.line)
        text = " ".join(_texts(row))
        if is_bad(text):
            found["garbled"].append(row.line)
        if here := find_pii_kinds(text):
            found["personal_data"].append(row.line)
            kinds.update(here)
    found |= _find_repeats(rows, near)
    facts = {"kinds": ", ".join(sorted(kinds)), "count": len(rows)}
    if 0 < len(rows) < _FEW:
        found["few_rows"] = [row.line for row in rows]
    findings = [
        make_finding(code, file, numbers, facts) for code, numbers in found.items() if numbers
    ]
    return [*findings, *_check_labels(file, rows)]


def make_finding(
    code: str, file: str, rows: Sequence[int], facts: Mapping[str, object] | None = None
) -> Finding:
    """A finding of the table CODES."""
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
    """All that somebody says in a row."""
    turns = [*row.messages, *([row.rejected] if row.rejected else [])]
    return [row.text or "", *(message.content for message in turns)]


def _roles_in_order(roles: Sequence[str]) -> bool:
    """System only first; somebody speaks before the assistant; nobody but tools twice on end."""
    talk = list(roles[1:] if roles[:1] == ["system"] else roles)
    if not talk or "system" in talk or talk[0] not in ("user", "tool"):
        return False
    return all(one != other or one == "tool" for one, other in pairwise(talk))


def _find_repeats(rows: Sequence[Row], near: float) -> dict[str, list[int]]:
    """Exact and near duplicates, turns that are learnt in several rows, and one question with
    different answers."""
    hashes = [said_hash(row) for row in rows]
    count = Counter(hashes)
    exact = [row.line for row, own in zip(rows, hashes, strict=True) if count[own] > 1]
    answers: dict[str, set[str]] = defaultdict(set)
    learnt = [row for row in rows if not row.is_preference]
    for row in learnt:
        answers[_question_text(row)].add(normalize_text(row.answer) or row.answer or _called(row))
    conflicts = [
        row.line for row in learnt if row.messages and len(answers[_question_text(row)]) > 1
    ]
    texts = [question_text(row) for row in rows]
    close = {
        place
        for one, other in find_near_pairs(texts, near)
        if hashes[one] != hashes[other]
        for place in (one, other)
    }
    again = {one for one, other in find_continued(rows) if len(rows[other].trained_turns) > 1}
    return {
        "exact_duplicate": exact,
        "learnt_again": [rows[place].line for place in sorted(again)],
        "near_duplicate": [rows[place].line for place in sorted(close)],
        "conflicting_answers": conflicts,
        "judged_both_ways": _find_contradictions(rows),
    }


def _find_contradictions(rows: Sequence[Row]) -> list[int]:
    """Rows that judge one answer to one question both ways."""
    judged: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.desirable is not None:
            judged[said_hash(replace(row, desirable=None))].append(row)
    return sorted(
        row.line
        for same in judged.values()
        if len({row.desirable for row in same}) > 1
        for row in same
    )


def _called(row: Row) -> str:
    """What the answer of a row calls, where it says nothing."""
    return json.dumps([call for turn in row.messages[-1:] for call in turn.tool_calls])


def _question_text(row: Row) -> str:
    return "\n".join(f"{message.role}: {normalize_text(message.content)}" for message in row.prompt)


def _check_labels(file: str, rows: Sequence[Row]) -> list[Finding]:
    """Labels that few rows have, that are one label in several forms, or the only one."""
    counts = Counter(row.label for row in rows if row.label is not None)
    if len(counts) < 2:
        alone = len(rows) > 1 and counts.total() == len(rows)
        return [make_finding("one_label", file, [row.line for row in rows])] if alone else []
    forms: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        forms[_bare(label)].append(label)
    several = [label for same in forms.values() if len(same) > 1 for label in same]
    rare = [label for label, n in counts.items() if n < _RARE]
    return [
        make_finding(code, file, [row.line for row in rows if row.label in some], {"labels": names})
        for code, some, names in (
            ("label_balance", set(rare), abbreviate(rare)),
            ("label_forms", set(several), abbreviate([repr(label) for label in several])),
        )
        if some
    ]


def _bare(label: str) -> str:
    """A label without what hardly tells two apart: case, spaces, signs that can't be seen."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(sign for sign in folded if not _unseen(sign)) or label


def _unseen(sign: str) -> bool:
    return sign.isspace() or unicodedata.category(sign) in ("Cc", "Cf")


def _is_blank(text: str) -> bool:
    return all(map(_unseen, text))


def _check_across_files(by_file: Mapping[str, Sequence[Row]], near: float) -> list[Finding]:
    """Rows that stand in several files, and labels that only later files have."""
    files = list(by_file)
    findings: list[Finding] = []
    for place, first in enumerate(files):
        for second in files[place + 1 :]:
            exact, close = find_leaks(by_file[first], by_file[second], near)
            for code, some in (("split_leak", exact), ("near_leak", close)):
                if some:
                    findings.append(make_finding(code, first, [row.line for row in some]))
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
    """The training rows whose question stands in the test rows: exactly, and nearly. A row that
    answers such a question on its way has it exactly."""
    asked = {normalize_text(question_text(row)) for row in test}
    rows = (*train, *test)
    on_their_way = {other for one, other in find_continued(rows) if other < len(train) <= one}
    exact = [
        row
        for place, row in enumerate(train)
        if normalize_text(question_text(row)) in asked or place in on_their_way
    ]
    own = {row.id for row in exact}
    texts = [question_text(row) for row in rows]
    close = {
        one
        for one, other in find_near_pairs(texts, near)
        if one < len(train) <= other and train[one].id not in own
    }
    return exact, [train[place] for place in sorted(close)]
