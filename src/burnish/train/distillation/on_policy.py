"""Learning from a teacher on the student's own answers.

Generalised knowledge distillation (Agarwal et al. 2024, arXiv:2306.13649, algorithm 1): a share of
the rows is answered by the student as it is now, and the teacher says at every token of these
answers what it would have said there. So the student learns to go on from its own mistakes, which
the given answers never show. Nothing flows back through the drawing.

An answer's random generator is seeded by run, step and place, so that a resumed run draws what the
undisturbed one would have.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.objectives import Distillation
from burnish.core.records import Prompt
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example
from burnish.train.distillation.teacher_logits import (
    have_same_tokens,
    load_teacher_tokenizer,
    score_with_teacher,
    teacher_on_device,
)
from burnish.train.loop.language_model import LanguageModelModule, compute_validation_metrics
from burnish.train.rlhf.generation import PolicyEngine, answer_seed


class OnPolicySampler:
    """Puts the student's answers in the place of given ones. See the protocol `Draws`."""

    def __init__(
        self, plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase, teacher: Any
    ) -> None:
        settings = plan.settings.objective
        assert isinstance(settings, Distillation)
        self.plan, self.teacher, self.share = plan, teacher, settings.on_policy
        self.engine = PolicyEngine(plan, tokenizer, "student")
        spans = [_last_answer(row) for row in (*plan.rows, *plan.validation)]
        self.longest = max(end - begin for begin, end in spans)
        for row in plan.rows:
            self._request(row, 0)

    def examples_for_step(
        self, rows: Sequence[Example], step: int
    ) -> tuple[list[Example], dict[str, float]]:
        """The rows of step `step` (from 0), some with the student's answers."""
        chosen = {}
        for place, row in enumerate(rows):
            seed = answer_seed(self.plan.settings.seed, step, place)
            if random.Random(seed).random() < self.share:
                chosen[place] = self._request(row, seed)
        learnt = list(rows)
        if not chosen:
            return learnt, {"on_policy": 0.0}
        self.engine.generate(list(chosen.values()))
        drawn = [_with_student_answer(rows[place], request) for place, request in chosen.items()]
        for place, row in zip(
            chosen, score_with_teacher(self.teacher, drawn, self.plan), strict=True
        ):
            learnt[place] = row
        requests = list(chosen.values())
        return learnt, {
            "on_policy": len(chosen) / len(rows),
            "answer_tokens": statistics.fmean(len(request.token_ids) for request in requests),
            "cut": sum(request.end_id is None for request in requests) / len(requests),
        }

    def dry_run(self, rows: Sequence[Example]) -> None:
        """All that `learn` computes; it leaves no trace in any case."""
        self.examples_for_step(rows, 0)

    def roll_back(self, step: int) -> None:
        """Nothing is kept of what was drawn."""

    def validate(self, rows: Sequence[Example]) -> dict[str, float]:
        """The divergence on the given answers: the same ones at every validation."""
        return compute_validation_metrics(replace(self.plan, example_source=None), rows)

    def _request(self, row: Example, seed: int) -> GenerationRequest:
        """A row's last question. Raises PromptTooLong."""
        prompt = Prompt((), self.longest, temperature=1.0, seed=seed)
        return self.engine.request(prompt, row.answers[0].ids[: _last_answer(row)[0]])


def add_on_policy_answers(
    plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase
) -> LanguageModelModule:
    """The plan whose student answers a share of the rows itself; as it is without such a share.

    Raises BadRecipe for a teacher with other tokens, BadData for rows without a question,
    PromptTooLong where an answer finds no room.
    """
    settings = plan.settings.objective
    if not isinstance(settings, Distillation) or not settings.on_policy:
        return plan
    if not have_same_tokens(load_teacher_tokenizer(settings.teacher), tokenizer):
        raise BadRecipe(
            f"{settings.teacher} has another tokenizer than the student, so it can't judge the "
            "student's own answers token by token.",
            "Set train.objective.on_policy=0: given answers are matched by their text.",
        )
    teacher = teacher_on_device(plan, settings.teacher)
    return replace(plan, example_source=OnPolicySampler(plan, tokenizer, teacher))


def _last_answer(row: Example) -> tuple[int, int]:
    """Where the last answer that is learnt begins and ends, in tokens."""
    weights = row.answers[0].weights
    end = max(place for place, weight in enumerate(weights) if weight > 0) + 1
    begin = end
    while begin and weights[begin - 1] > 0:
        begin -= 1
    if begin <= 1:
        raise BadData(
            "A row is plain text: there is no question that the student could answer.",
            "Write conversations, or set train.objective.on_policy=0.",
        )
    return begin, end


def _with_student_answer(row: Example, request: GenerationRequest) -> TokenizedRow:
    """The row with the student's answer, with the token that ended it."""
    prompt = row.answers[0].ids[: _last_answer(row)[0]]
    said = [*request.token_ids, *(() if request.end_id is None else (request.end_id,))]
    return TokenizedRow((*prompt, *said), (*[0.0] * len(prompt), *[1.0] * len(said)))
