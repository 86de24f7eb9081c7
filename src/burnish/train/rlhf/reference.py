"""Log-probabilities of answers before training, which some objectives measure gains from.

The reference is the model before its first step, so no second model is held: all answers are
measured once, and `reference.jsonl` of the run keeps them, a line for each micro-batch. A run that
is killed meanwhile goes on behind the last whole line; the micro-batches are the same, and so are
the numbers, to the last bit.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from burnish.core.errors import BadData
from burnish.core.journal import Journal, read_journal
from burnish.core.progress import progress
from burnish.core.runs import Run
from burnish.train.batching.examples import Example, PreferenceExample
from burnish.train.batching.packed import pack
from burnish.train.forward.path import batches_of
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.objectives.registry import answer_logprobs

ReferenceLogprobs = dict[PreferenceExample, tuple[float, ...]]


def add_reference_logprobs(
    plan: LanguageModelModule, run: Run, state: TrainState
) -> LanguageModelModule:
    """The plan whose rows know their reference; as it is for objectives without one.

    The time is added to `state`. Raises BadData if a run that has begun lost its references.
    """
    if not plan.objective.needs_reference:
        return plan
    begun = time.perf_counter()
    leads = plan.team.is_main
    known = plan.team.broadcast(_measure(plan, run, may_begin=state.step == 0) if leads else {})
    state.other_seconds += time.perf_counter() - begun
    return _with_reference(plan, known)


def with_zero_reference(plan: LanguageModelModule) -> LanguageModelModule:
    """The plan with a reference of 0 in every row: for rehearsals, whose loss means nothing."""
    rows = [row for row in (*plan.rows, *plan.validation) if isinstance(row, PreferenceExample)]
    return _with_reference(plan, {row: (0.0,) * len(row.answers_with_reference) for row in rows})


def _with_reference(plan: LanguageModelModule, known: ReferenceLogprobs) -> LanguageModelModule:
    def known_rows(rows: Sequence[Example]) -> list[Example]:
        return [
            replace(row, reference=known[row]) if isinstance(row, PreferenceExample) else row
            for row in rows
        ]

    return replace(plan, rows=known_rows(plan.rows), validation=known_rows(plan.validation))


@torch.no_grad()
def _measure(plan: LanguageModelModule, run: Run, may_begin: bool) -> ReferenceLogprobs:
    rows = [row for row in (*plan.rows, *plan.validation) if isinstance(row, PreferenceExample)]
    shown = {replace(row, answers=row.answers_with_reference, mismatched=None): row for row in rows}
    batches = batches_of(plan.language, list[Example](shown), plan.settings.micro_batch_tokens)
    lines = read_journal(run.path / "reference.jsonl")
    if len(lines) < len(batches) and not may_begin:
        raise BadData(
            f"{run.id} has begun and its reference.jsonl isn't whole.",
            "Put the file back, or start a new run.",
        )
    known: ReferenceLogprobs = {}
    journal = Journal(run.path / "reference.jsonl")
    plan.model.eval()
    with progress("Measuring the reference", total=len(batches)) as bar:
        for number, some in enumerate(batches):
            if number < len(lines):
                chances = lines[number]["logprobs"]
            else:
                batch = pack(some, plan.accelerator.device)
                chances = answer_logprobs(plan.language, batch).tolist()
                journal.write(batch=number, logprobs=chances)
            left = iter(chances)
            for row in some:
                if isinstance(row, PreferenceExample):
                    known[shown[row]] = tuple(next(left) for _ in row.answers)
            bar.advance()
    return known
