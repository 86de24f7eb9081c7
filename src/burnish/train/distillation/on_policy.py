"""On-policy distillation: the teacher scores the student's own answers.

Generalised knowledge distillation (Agarwal et al. 2024, arXiv:2306.13649, algorithm 1): a share of
the rows is answered by the current student, and the teacher gives its distribution at every token
of these answers. So the student learns to recover from its own mistakes, which the given answers
never show. No gradient flows through the sampling.

An answer's random generator is seeded by run, step and position, so that a resumed run samples what
the undisturbed one would have.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.objectives import Distillation
from burnish.core.records import Prompt
from burnish.core.runs import Run
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example
from burnish.train.distillation.teacher_logits import (
    have_same_tokens,
    load_teacher_tokenizer,
    score_with_teacher,
    teacher_on_device,
)
from burnish.train.loop.context import TrainContext
from burnish.train.loop.language_model import (
    LanguageModelModule,
    Stage,
    compute_validation_metrics,
)
from burnish.train.rlhf.generation import PolicyEngine, answer_seed


@dataclass(frozen=True, slots=True)
class OnPolicyAnswers(Stage):
    """Makes the student answer a share of the rows itself."""

    settings: Distillation

    def prepare(
        self, module: LanguageModelModule, context: TrainContext, run: Run
    ) -> LanguageModelModule:
        """See `add_sampler`."""
        return self.add_sampler(module, context.tokenizer)

    def add_sampler(
        self, module: LanguageModelModule, tokenizer: PreTrainedTokenizerBase
    ) -> LanguageModelModule:
        """Return the module with a sampler of the student's answers.

        Raises BadRecipe for a teacher with another tokenizer, BadData for rows without a question,
        PromptTooLong where an answer has no room.
        """
        name = self.settings.teacher
        if not have_same_tokens(load_teacher_tokenizer(name), tokenizer):
            raise BadRecipe(
                f"{name} has another tokenizer than the student, so it can't score the student's "
                "own answers token by token.",
                "Set train.objective.on_policy=0: given answers are matched by their text.",
            )
        teacher = teacher_on_device(module, name)
        sampler = OnPolicySampler(module, self.settings, tokenizer, teacher)
        return replace(module, example_source=sampler)


class OnPolicySampler:
    """Replaces a share of the given answers by the student's; an `ExampleSource`."""

    def __init__(
        self,
        module: LanguageModelModule,
        settings: Distillation,
        tokenizer: PreTrainedTokenizerBase,
        teacher: Any,
    ) -> None:
        self.module, self.settings, self.teacher = module, settings, teacher
        self.engine = PolicyEngine(module, tokenizer, "student")
        spans = [_last_answer(row) for row in (*module.rows, *module.validation)]
        self.max_new_tokens = max(end - begin for begin, end in spans)
        for row in module.rows:
            self._request(row, 0)

    def examples_for_step(
        self, rows: Sequence[Example], step: int
    ) -> tuple[list[Example], dict[str, float]]:
        """Return the rows of step `step` (from 0), some with the student's answers."""
        requests = {}
        for position, row in enumerate(rows):
            seed = answer_seed(self.module.settings.seed, step, position)
            if random.Random(seed).random() < self.settings.on_policy:
                requests[position] = self._request(row, seed)
        examples = list(rows)
        if not requests:
            return examples, {"on_policy": 0.0}
        answers = list(requests.values())
        self.engine.generate(answers)
        sampled = [
            _with_student_answer(rows[position], request) for position, request in requests.items()
        ]
        scored = score_with_teacher(self.teacher, sampled, self.module, self.settings)
        for position, example in zip(requests, scored, strict=True):
            examples[position] = example
        return examples, {
            "on_policy": len(requests) / len(rows),
            "answer_tokens": statistics.fmean(len(request.token_ids) for request in answers),
            "cut": sum(request.end_id is None for request in answers) / len(answers),
        }

    def dry_run(self, rows: Sequence[Example]) -> None:
        """Do the work of `examples_for_step`, which leaves no trace."""
        self.examples_for_step(rows, 0)

    def roll_back(self, step: int) -> None:
        """Do nothing: no answer is kept."""

    def validate(self, rows: Sequence[Example]) -> dict[str, float]:
        """Return the divergence on the given answers: the same ones at every validation."""
        return compute_validation_metrics(replace(self.module, example_source=None), rows)

    def _request(self, row: Example, seed: int) -> GenerationRequest:
        """Build the request for a row's last question. Raises PromptTooLong."""
        prompt = Prompt((), self.max_new_tokens, temperature=1.0, seed=seed)
        return self.engine.request(prompt, row.answers[0].ids[: _last_answer(row)[0]])


def _last_answer(row: Example) -> tuple[int, int]:
    """Return the positions at which the last target answer begins and ends. Raises BadData."""
    weights = row.answers[0].weights
    end = max(position for position, weight in enumerate(weights) if weight > 0) + 1
    begin = end
    while begin and weights[begin - 1] > 0:
        begin -= 1
    if begin <= 1:
        raise BadData(
            "A row is plain text: it has no question that the student could answer.",
            "Write conversations, or set train.objective.on_policy=0.",
        )
    return begin, end


def _with_student_answer(row: Example, request: GenerationRequest) -> TokenizedRow:
    """Return the row with the student's answer and its end token."""
    prompt = row.answers[0].ids[: _last_answer(row)[0]]
    answer = [*request.token_ids, *(() if request.end_id is None else (request.end_id,))]
    return TokenizedRow((*prompt, *answer), (*[0.0] * len(prompt), *[1.0] * len(answer)))
