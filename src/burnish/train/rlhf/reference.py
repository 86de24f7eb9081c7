"""Reference log-probabilities: those of the answers before training, for DPO and KTO.

The reference is the model before its first step, so no second model is held: every answer is scored
once, and `reference.jsonl` of the run keeps the scores, one line for each micro-batch. A run that
is killed meanwhile continues after the last whole line; the micro-batches are the same, and so are
the numbers, to the last bit.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from burnish.core.errors import BadData
from burnish.core.journal import Journal, read_journal
from burnish.core.progress import progress
from burnish.core.runs import Run
from burnish.train.batching.examples import Example, PreferenceExample
from burnish.train.batching.packed import pack
from burnish.train.forward.logprobs import answer_logprobs
from burnish.train.forward.path import batches_of
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.language_model import LanguageModelModule, Stage

#: Example → the log-probabilities of its `answers_with_reference`.
_Reference = Mapping[PreferenceExample, tuple[float, ...]]


class ReferenceLogprobs(Stage):
    """Scores all answers with the weights of before training."""

    def for_probe(self, module: LanguageModelModule) -> LanguageModelModule:
        """Return the module with a reference of 0 in every row."""
        zeros = {row: (0.0,) * len(row.answers_with_reference) for row in _preference_rows(module)}
        return _with_reference(module, zeros)

    def rows_to_score(self, module: LanguageModelModule) -> Sequence[Example]:
        """Return all rows: each is scored once."""
        return [*module.rows, *module.validation]

    def before_first_step(
        self, module: LanguageModelModule, run: Run, state: TrainState
    ) -> LanguageModelModule:
        """Return the module whose rows have their reference; adds the seconds to `state`.

        Raises BadData if a run that has begun lost its reference.
        """
        begun = time.perf_counter()
        is_main = module.process_group.is_main
        scores = _score(module, run, may_begin=state.step == 0) if is_main else {}
        reference = module.process_group.broadcast(scores)
        state.other_seconds += time.perf_counter() - begun
        return _with_reference(module, reference)


def _preference_rows(module: LanguageModelModule) -> list[PreferenceExample]:
    rows = (*module.rows, *module.validation)
    return [row for row in rows if isinstance(row, PreferenceExample)]


def _with_reference(module: LanguageModelModule, reference: _Reference) -> LanguageModelModule:
    def complete(rows: Sequence[Example]) -> list[Example]:
        return [
            replace(row, reference=reference[row]) if isinstance(row, PreferenceExample) else row
            for row in rows
        ]

    return replace(module, rows=complete(module.rows), validation=complete(module.validation))


@torch.no_grad()
def _score(module: LanguageModelModule, run: Run, may_begin: bool) -> _Reference:
    """Score the micro-batches that `reference.jsonl` doesn't have yet."""
    scored = {
        replace(row, answers=row.answers_with_reference, mismatched=None): row
        for row in _preference_rows(module)
    }
    batches = batches_of(module.language, list[Example](scored), module.settings.micro_batch_tokens)
    lines = read_journal(run.path / "reference.jsonl")
    if len(lines) < len(batches) and not may_begin:
        raise BadData(
            f"{run.id} has begun and its reference.jsonl isn't whole.",
            "Put the file back, or start a new run.",
        )
    reference: dict[PreferenceExample, tuple[float, ...]] = {}
    journal = Journal(run.path / "reference.jsonl")
    module.model.eval()
    with progress("Scoring the reference", total=len(batches)) as bar:
        for number, rows in enumerate(batches):
            if number < len(lines):
                logprobs = lines[number]["logprobs"]
            else:
                batch = pack(rows, module.accelerator.device)
                logprobs = answer_logprobs(module.language, batch).tolist()
                journal.write(batch=number, logprobs=logprobs)
            remaining = iter(logprobs)
            for row in rows:
                if isinstance(row, PreferenceExample):
                    reference[scored[row]] = tuple(next(remaining) for _ in row.answers)
            bar.advance()
    return reference
