"""Evaluate baseline, student and teacher on the same frozen test questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from burnish.core.atomic import hash_json
from burnish.core.recipe.objectives import Classify
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Interval, Message, Prompt, Row
from burnish.core.stats import paired_test, ratio_of_means
from burnish.data.load import Dataset
from burnish.distill.teacher_answers import AnswerCollector, QuestionFormat
from burnish.engines.answerers.registry import compute_price
from burnish.engines.heads.classifier import ClassifierEngine
from burnish.engines.local.open import open_local_engine
from burnish.engines.protocol import Engine
from burnish.engines.registry import open_engine
from burnish.evaluate.prediction_cache import Measurement, evaluate_cached, latency_cached
from burnish.evaluate.scoring import PromptSet, score, score_outputs, summary
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    deciding_metric,
    with_instruction,
)
from burnish.models.find_artifact import find_artifact, hash_weights
from burnish.models.heads.classifier import SequenceClassifier, build_head_model
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model

BASELINE, FINE_TUNED, DISTILLED, TEACHER = "baseline", "fine_tuned", "distilled", "teacher"
#: The instruction for a teacher that isn't a reasoning model.
_THINK = "Think step by step first, between <think> and </think>; then give the answer alone."
#: Default token budget of reasoning.
_REASONING_TOKENS = 512


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The test rows in use, and their prompts."""

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]

    def instruction(self) -> str:
        """Return what a competent person would tell a model that wasn't trained on such rows."""
        return TASKS[self.dataset.task.kind].instruction(self.dataset.task, self._answered_rows())

    def answer_tokens(self, count: Callable[[Sequence[Message]], int]) -> int:
        """Return the token limit of an answer, from people's answers."""
        return answer_length(self._answered_rows(), self.recipe.evaluate, count)

    def prompts(
        self, count: Callable[[Sequence[Message]], int], instruction: str, reasoning_tokens: int
    ) -> list[Prompt]:
        """Return the test questions, each with `instruction` in its system message and room for
        `reasoning_tokens`."""
        length = self.answer_tokens(count)
        prompts = (as_prompt(row, self.dataset.task, length, reasoning_tokens) for row in self.rows)
        return [with_instruction(prompt, instruction) for prompt in prompts]

    def question_format(self, collector: AnswerCollector) -> QuestionFormat:
        """Return how a teacher is asked; one that was trained for the task gets no instruction."""
        teacher, settings = collector.teacher, collector.recipe.distill
        instructions = [self.instruction()] if teacher.needs_instructions else []
        if settings.reasoning == "ask":
            instructions.append(_THINK)
        reasoning_tokens = _teacher_reasoning_tokens(collector)
        task, max_new_tokens = self.dataset.task, settings.teacher.max_new_tokens
        return QuestionFormat(
            instruction="\n\n".join(filter(None, instructions)),
            max_new_tokens=max_new_tokens
            or self.answer_tokens(teacher.count_tokens) + reasoning_tokens,
            choices=task.labels if TASKS[task.kind].constrained and not reasoning_tokens else (),
            keeps_reasoning=settings.reasoning != "cut",
        )

    def _answered_rows(self) -> Sequence[Row]:
        return [row for row in self.dataset.split.train if row.answer] or self.rows


def _teacher_reasoning_tokens(collector: AnswerCollector) -> int:
    """Return the token budget of a teacher's reasoning; 0 if it answers directly."""
    trained, settings = collector.teacher.reasoning_tokens, collector.recipe.distill
    if settings.reasoning == "cut":
        return trained
    return settings.teacher.max_new_tokens or trained or _REASONING_TOKENS


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model to evaluate: its engine and weights hash, its instruction, and its reasoning token
    budget."""

    name: str
    engine: Engine
    weights: str
    instruction: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """What the student saves compared with the teacher, as shares of the teacher's; and the share
    of its score that it keeps. None where a remote teacher can't be timed or its memory
    measured."""

    time: Interval | None
    memory: float | None
    quality: Interval


def evaluate_model(evaluation_set: EvaluationSet, name: str, source: str) -> Measurement:
    """Evaluate a local model that was trained on such rows."""
    artifact = find_artifact(source)
    reasoning_tokens = artifact.reasoning_tokens if artifact else 0
    return _evaluate(
        evaluation_set,
        Contestant(
            name, open_engine(source), hash_weights(source), reasoning_tokens=reasoning_tokens
        ),
    )


def evaluate_baseline(evaluation_set: EvaluationSet, student: Recipe) -> Measurement:
    """Evaluate the untrained student: instructed as a person would do it; or, for labels, with a
    new random head."""
    name = student.model.name
    if not isinstance(student.train.objective, Classify):
        instruction = evaluation_set.instruction()
        return _evaluate(
            evaluation_set,
            Contestant(BASELINE, open_local_engine(name), hash_weights(name), instruction),
        )
    base, labels, seed = find_model(name), evaluation_set.dataset.task.labels, student.train.seed
    tokenizer = load_tokenizer(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_head_model(base, labels, tokenizer, torch.float32)
    max_tokens = min(student.train.max_length, base.context_length)
    engine = ClassifierEngine(SequenceClassifier(model, tokenizer, labels, max_tokens), name)
    identity = hash_json([base.sha256, "a new head", list(labels), max_tokens, seed])
    return _evaluate(evaluation_set, Contestant(BASELINE, engine, identity))


def evaluate_teacher(evaluation_set: EvaluationSet, collector: AnswerCollector) -> Measurement:
    """Evaluate the teacher: as any model if local, else by its replies."""
    teacher, question_format = collector.teacher, evaluation_set.question_format(collector)
    reasoning_tokens = _teacher_reasoning_tokens(collector)
    if teacher.engine:
        weights = str(teacher.identity["weights"])
        return _evaluate(
            evaluation_set,
            Contestant(
                TEACHER, teacher.engine, weights, question_format.instruction, reasoning_tokens
            ),
        )
    prompts = evaluation_set.prompts(
        teacher.count_tokens, question_format.instruction, reasoning_tokens
    )
    # A reasoning teacher needs the recipe's token budget here too, as for the rows.
    max_new_tokens = max(question_format.max_new_tokens, prompts[0].max_new_tokens)
    prompts = [replace(prompt, max_new_tokens=max_new_tokens) for prompt in prompts]
    replies = [reply for _, reply in collector.ask(prompts)]
    task, settings = evaluation_set.dataset.task, evaluation_set.recipe.evaluate
    metric = deciding_metric(task, settings)
    predictions = score_outputs(evaluation_set.rows, replies, metric)
    seconds = [reply.seconds for reply in replies if not reply.error]
    return Measurement(score(predictions, metric, task, settings), seconds, 0)


def _evaluate(evaluation_set: EvaluationSet, contestant: Contestant) -> Measurement:
    engine, weights = contestant.engine, contestant.weights
    prompts = evaluation_set.prompts(
        engine.count_tokens, contestant.instruction, contestant.reasoning_tokens
    )
    prompt_set = PromptSet(evaluation_set.rows, prompts, f"Asking {contestant.name}")
    scores = evaluate_cached(
        weights, engine, prompt_set, evaluation_set.dataset.task, evaluation_set.recipe.evaluate
    )
    timing = latency_cached(contestant.name, weights, engine, prompts)
    return Measurement(scores, timing.seconds, engine.memory_bytes, timing.busy)


def measure_savings(student: Measurement, teacher: Measurement, recipe: Recipe) -> Savings:
    """Return the three numbers of the report, as measured; times are of the same single
    requests."""
    level, seed = recipe.evaluate.confidence, recipe.evaluate.seed
    timed = min(len(student.latencies), len(teacher.latencies))
    time = None
    if teacher.memory_bytes and timed:
        student_seconds, teacher_seconds = student.latencies[:timed], teacher.latencies[:timed]
        ratio = ratio_of_means(student_seconds, teacher_seconds, confidence=level, seed=seed)
        time = Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low, ratio.n)
    memory = 1 - student.memory_bytes / teacher.memory_bytes if teacher.memory_bytes else None
    quality = ratio_of_means(*student.scores.paired_with(teacher.scores), level, seed)
    return Savings(time, memory, quality)


def model_summary(name: str, routes: Mapping[str, Measurement], recipe: Recipe) -> dict[str, Any]:
    """Return one model as `--json` prints it; its gain is over the baseline.

    The price of 1,000 answers is that of machine time, or of the tokens of a remote model.
    """
    measurement = routes[name]
    facts = summary(name, measurement.scores, measurement.latencies)
    if measurement.memory_bytes:
        cost = facts["seconds_in_batch"] * 1000 / 3600 * recipe.compare.price_per_hour
    else:
        tokens = facts["tokens_in"], facts["tokens_out"]
        cost = 1000 * compute_price(recipe.distill.teacher, *tokens)
    pairs = measurement.scores.paired_with(routes[BASELINE].scores)
    test = paired_test(*pairs, recipe.evaluate.confidence)
    is_base = name == BASELINE
    return {
        **facts,
        "p_value": None if is_base else test.p_value,
        "gain": None if is_base else test.gain,
        "memory_bytes": measurement.memory_bytes,
        "cost_per_1000": cost,
    }
