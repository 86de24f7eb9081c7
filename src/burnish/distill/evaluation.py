"""Baseline, student and teacher, asked the same frozen test questions."""

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
#: What a teacher is told that isn't one to think by itself.
_THINK = "Think step by step first, between <think> and </think>; then give the answer alone."
#: Tokens of room for a thought of which nothing is known.
_REASONING_TOKENS = 512


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The test rows in use, and how they are asked."""

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]

    def instruction(self) -> str:
        """What a competent person would tell a model that wasn't trained on such rows."""
        return TASKS[self.dataset.task.kind].instruction(self.dataset.task, self._answered_rows())

    def answer_tokens(self, count: Callable[[Sequence[Message]], int]) -> int:
        """Tokens that an answer may have, from the answers that people gave."""
        return answer_length(self._answered_rows(), self.recipe.evaluate, count)

    def prompts(
        self, count: Callable[[Sequence[Message]], int], instruction: str, reasoning_tokens: int
    ) -> list[Prompt]:
        """The test questions, each with `told` in its system message and room for `thoughts`."""
        length = self.answer_tokens(count)
        asked = (as_prompt(row, self.dataset.task, length, reasoning_tokens) for row in self.rows)
        return [with_instruction(prompt, instruction) for prompt in asked]

    def question_format(self, collector: AnswerCollector) -> QuestionFormat:
        """How a teacher is asked; one that was trained for the task is told nothing about it."""
        teacher, settings = collector.teacher, collector.recipe.distill
        told = [self.instruction()] if teacher.needs_instructions else []
        if settings.reasoning == "ask":
            told.append(_THINK)
        thoughts = _teacher_reasoning_tokens(collector)
        task, own = self.dataset.task, settings.teacher.max_new_tokens
        return QuestionFormat(
            instruction="\n\n".join(filter(None, told)),
            max_new_tokens=own or self.answer_tokens(teacher.count_tokens) + thoughts,
            choices=task.labels if TASKS[task.kind].constrained and not thoughts else (),
            keeps_reasoning=settings.reasoning != "cut",
        )

    def _answered_rows(self) -> Sequence[Row]:
        return [row for row in self.dataset.split.train if row.answer] or self.rows


def _teacher_reasoning_tokens(collector: AnswerCollector) -> int:
    """Tokens of room for what a teacher thinks before its answer; 0 if it answers at once."""
    trained, settings = collector.teacher.reasoning_tokens, collector.recipe.distill
    if settings.reasoning == "cut":
        return trained
    return settings.teacher.max_new_tokens or trained or _REASONING_TOKENS


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who is measured: its engine and the hash of its weights, what it is told, and the tokens of
    room for its thoughts."""

    name: str
    engine: Engine
    weights: str
    instruction: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """What the student saves beside the teacher, as shares of the teacher's; and how much of its
    score it keeps. None where a teacher elsewhere can't be timed or weighed."""

    time: Interval | None
    memory: float | None
    quality: Interval


def evaluate_model(exam: EvaluationSet, name: str, source: str) -> Measurement:
    """Measure a model of this machine that was trained on such rows."""
    artifact = find_artifact(source)
    thoughts = artifact.reasoning_tokens if artifact else 0
    return _evaluate(
        exam, Contestant(name, open_engine(source), hash_weights(source), reasoning_tokens=thoughts)
    )


def evaluate_baseline(exam: EvaluationSet, student: Recipe) -> Measurement:
    """Measure the student before it learns: told what a person would tell it; or, where it is to
    choose labels, with a head that knows nothing yet."""
    name = student.model.name
    if not isinstance(student.train.objective, Classify):
        told = exam.instruction()
        return _evaluate(
            exam, Contestant(BASELINE, open_local_engine(name), hash_weights(name), told)
        )
    base, labels, seed = find_model(name), exam.dataset.task.labels, student.train.seed
    tokenizer = load_tokenizer(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_head_model(base, labels, tokenizer, torch.float32)
    most = min(student.train.max_length, base.context_length)
    engine = ClassifierEngine(SequenceClassifier(model, tokenizer, labels, most), name)
    identity = hash_json([base.sha256, "a new head", list(labels), most, seed])
    return _evaluate(exam, Contestant(BASELINE, engine, identity))


def evaluate_teacher(exam: EvaluationSet, collector: AnswerCollector) -> Measurement:
    """Measure the teacher: as any model where it is one of this machine, by its replies else."""
    teacher, asking = collector.teacher, exam.question_format(collector)
    thoughts = _teacher_reasoning_tokens(collector)
    if teacher.engine:
        weights = str(teacher.identity["weights"])
        return _evaluate(
            exam, Contestant(TEACHER, teacher.engine, weights, asking.instruction, thoughts)
        )
    prompts = exam.prompts(teacher.count_tokens, asking.instruction, thoughts)
    # Who thinks needs the room that the recipe gives for it, here as for the rows.
    room = max(asking.max_new_tokens, prompts[0].max_new_tokens)
    asked = [replace(prompt, max_new_tokens=room) for prompt in prompts]
    replies = [reply for _, reply in collector.ask(asked)]
    task, settings = exam.dataset.task, exam.recipe.evaluate
    metric = deciding_metric(task, settings)
    predictions = score_outputs(exam.rows, replies, metric)
    seconds = [reply.seconds for reply in replies if not reply.error]
    return Measurement(score(predictions, metric, task, settings), seconds, 0)


def _evaluate(exam: EvaluationSet, sitter: Contestant) -> Measurement:
    engine, weights = sitter.engine, sitter.weights
    prompts = exam.prompts(engine.count_tokens, sitter.instruction, sitter.reasoning_tokens)
    asked = PromptSet(exam.rows, prompts, f"Asking {sitter.name}")
    scores = evaluate_cached(weights, engine, asked, exam.dataset.task, exam.recipe.evaluate)
    timing = latency_cached(sitter.name, weights, engine, prompts)
    return Measurement(scores, timing.seconds, engine.memory_bytes, timing.busy)


def measure_savings(student: Measurement, teacher: Measurement, recipe: Recipe) -> Savings:
    """The documents' three numbers, as measured; times are of the same questions, asked alone."""
    level, seed = recipe.evaluate.confidence, recipe.evaluate.seed
    timed_both = min(len(student.latencies), len(teacher.latencies))
    time = None
    if teacher.memory_bytes and timed_both:
        ours, theirs = student.latencies[:timed_both], teacher.latencies[:timed_both]
        share = ratio_of_means(ours, theirs, confidence=level, seed=seed)
        time = Interval(1 - share.value, 1 - share.high, 1 - share.low, share.n)
    memory = 1 - student.memory_bytes / teacher.memory_bytes if teacher.memory_bytes else None
    quality = ratio_of_means(*student.scores.paired_with(teacher.scores), level, seed)
    return Savings(time, memory, quality)


def model_summary(name: str, routes: Mapping[str, Measurement], recipe: Recipe) -> dict[str, Any]:
    """One model as `--json` prints it; its gain is over the baseline.

    The price of 1,000 answers is that of the machine's time, or of the tokens elsewhere.
    """
    own = routes[name]
    facts = summary(name, own.scores, own.latencies)
    if own.memory_bytes:
        cost = facts["seconds_in_batch"] * 1000 / 3600 * recipe.compare.price_per_hour
    else:
        tokens = facts["tokens_in"], facts["tokens_out"]
        cost = 1000 * compute_price(recipe.distill.teacher, *tokens)
    both = own.scores.paired_with(routes[BASELINE].scores)
    test = paired_test(*both, recipe.evaluate.confidence)
    is_base = name == BASELINE
    return {
        **facts,
        "p_value": None if is_base else test.p_value,
        "gain": None if is_base else test.gain,
        "memory_bytes": own.memory_bytes,
        "cost_per_1000": cost,
    }
