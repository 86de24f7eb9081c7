"""Baseline, student and teacher, asked the same frozen test questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from burnish.core.atomic import hash_json
from burnish.core.recipe.objectives import Classify
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Interval, Message, Prompt, Row
from burnish.core.stats import paired_test, ratio
from burnish.data.load import Dataset
from burnish.distill.teacher_answers import Asking, Collector
from burnish.engines.answerers.registry import price
from burnish.engines.heads.classifier import LabelEngine
from burnish.engines.local.open import open_engine
from burnish.engines.protocol import Engine
from burnish.engines.registry import open_any
from burnish.evaluate.prediction_cache import Measured, measured, timed
from burnish.evaluate.scoring import Asked, predicted, score, summary
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    deciding_metric,
    with_instruction,
)
from burnish.models.find_artifact import find_artifact, weights_hash
from burnish.models.heads.classifier import SequenceClassifier, headed_model
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model

BASELINE, FINE_TUNED, DISTILLED, TEACHER = "baseline", "fine_tuned", "distilled", "teacher"
#: What a teacher is told that isn't one to think by itself.
_THINK = "Think step by step first, between <think> and </think>; then give the answer alone."
#: Tokens of room for a thought of which nothing is known.
_THOUGHTS = 512


@dataclass(frozen=True, slots=True)
class Exam:
    """The test rows in use, and how they are asked."""

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]

    def instruction(self) -> str:
        """What a competent person would tell a model that wasn't trained on such rows."""
        return TASKS[self.dataset.task.kind].instruction(self.dataset.task, self._answered())

    def length(self, count: Callable[[Sequence[Message]], int]) -> int:
        """Tokens that an answer may have, from the answers that people gave."""
        return answer_length(self._answered(), self.recipe.evaluate, count)

    def prompts(
        self, count: Callable[[Sequence[Message]], int], told: str, thoughts: int
    ) -> list[Prompt]:
        """The test questions, each with `told` in its system message and room for `thoughts`."""
        length = self.length(count)
        asked = (as_prompt(row, self.dataset.task, length, thoughts) for row in self.rows)
        return [with_instruction(prompt, told) for prompt in asked]

    def asking(self, collector: Collector) -> Asking:
        """How a teacher is asked; one that was trained for the task is told nothing about it."""
        teacher, settings = collector.teacher, collector.recipe.distil
        told = [self.instruction()] if teacher.is_told else []
        if settings.thoughts == "ask":
            told.append(_THINK)
        thoughts = _thoughts_of(collector)
        task, own = self.dataset.task, settings.teacher.max_new_tokens
        return Asking(
            told="\n\n".join(filter(None, told)),
            max_new_tokens=own or self.length(teacher.count_tokens) + thoughts,
            choices=task.labels if TASKS[task.kind].constrained and not thoughts else (),
            keeps_thoughts=settings.thoughts != "cut",
        )

    def _answered(self) -> Sequence[Row]:
        return [row for row in self.dataset.split.train if row.answer] or self.rows


def _thoughts_of(collector: Collector) -> int:
    """Tokens of room for what a teacher thinks before its answer; 0 if it answers at once."""
    trained, settings = collector.teacher.thoughts, collector.recipe.distil
    if settings.thoughts == "cut":
        return trained
    return settings.teacher.max_new_tokens or trained or _THOUGHTS


@dataclass(frozen=True, slots=True)
class Sitter:
    """Who is measured: its engine and the hash of its weights, what it is told, and the tokens of
    room for its thoughts."""

    name: str
    engine: Engine
    weights: str
    told: str = ""
    thoughts: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """What the student saves beside the teacher, as shares of the teacher's; and how much of its
    score it keeps. None where a teacher elsewhere can't be timed or weighed."""

    time: Interval | None
    memory: float | None
    quality: Interval


def sit(exam: Exam, name: str, source: str) -> Measured:
    """Measure a model of this machine that was trained on such rows."""
    artifact = find_artifact(source)
    thoughts = artifact.thoughts if artifact else 0
    return _sit(exam, Sitter(name, open_any(source), weights_hash(source), thoughts=thoughts))


def sit_before(exam: Exam, student: Recipe) -> Measured:
    """Measure the student before it learns: told what a person would tell it; or, where it is to
    choose labels, with a head that knows nothing yet."""
    name = student.model.name
    if not isinstance(student.train.objective, Classify):
        told = exam.instruction()
        return _sit(exam, Sitter(BASELINE, open_engine(name), weights_hash(name), told))
    base, labels, seed = find_model(name), exam.dataset.task.labels, student.train.seed
    tokenizer = load_tokenizer(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = headed_model(base, labels, tokenizer, torch.float32)
    most = min(student.train.max_length, base.context_length)
    engine = LabelEngine(SequenceClassifier(model, tokenizer, labels, most), name)
    identity = hash_json([base.sha256, "a new head", list(labels), most, seed])
    return _sit(exam, Sitter(BASELINE, engine, identity))


def sit_teacher(exam: Exam, collector: Collector) -> Measured:
    """Measure the teacher: as any model where it is one of this machine, by its replies else."""
    teacher, asking = collector.teacher, exam.asking(collector)
    thoughts = _thoughts_of(collector)
    if teacher.engine:
        weights = str(teacher.identity["weights"])
        return _sit(exam, Sitter(TEACHER, teacher.engine, weights, asking.told, thoughts))
    prompts = exam.prompts(teacher.count_tokens, asking.told, thoughts)
    # Who thinks needs the room that the recipe gives for it, here as for the rows.
    room = max(asking.max_new_tokens, prompts[0].max_new_tokens)
    asked = [replace(prompt, max_new_tokens=room) for prompt in prompts]
    replies = [reply for _, reply in collector.replies(asked)]
    task, settings = exam.dataset.task, exam.recipe.evaluate
    metric = deciding_metric(task, settings)
    predictions = predicted(exam.rows, replies, metric)
    seconds = [reply.seconds for reply in replies if not reply.error]
    return Measured(score(predictions, metric, task, settings), seconds, 0)


def _sit(exam: Exam, sitter: Sitter) -> Measured:
    engine, weights = sitter.engine, sitter.weights
    prompts = exam.prompts(engine.count_tokens, sitter.told, sitter.thoughts)
    asked = Asked(exam.rows, prompts, f"Asking {sitter.name}")
    scores = measured(weights, engine, asked, exam.dataset.task, exam.recipe.evaluate)
    return Measured(scores, timed(weights, engine, prompts), engine.memory_bytes)


def savings(student: Measured, teacher: Measured, recipe: Recipe) -> Savings:
    """The documents' three numbers, as measured; times are of the same questions, asked alone."""
    level, seed = recipe.evaluate.confidence, recipe.evaluate.seed
    timed_both = min(len(student.latencies), len(teacher.latencies))
    time = None
    if teacher.memory_bytes and timed_both:
        ours, theirs = student.latencies[:timed_both], teacher.latencies[:timed_both]
        share = ratio(ours, theirs, confidence=level, seed=seed)
        time = Interval(1 - share.value, 1 - share.high, 1 - share.low, share.n)
    memory = 1 - student.memory_bytes / teacher.memory_bytes if teacher.memory_bytes else None
    quality = ratio(*student.scores.beside(teacher.scores), level, seed)
    return Savings(time, memory, quality)


def line(name: str, routes: Mapping[str, Measured], recipe: Recipe) -> dict[str, Any]:
    """One model as `--json` prints it; its gain is over the baseline.

    The price of 1,000 answers is that of the machine's time, or of the tokens elsewhere.
    """
    own = routes[name]
    facts = summary(name, own.scores, own.latencies)
    if own.memory_bytes:
        cost = facts["seconds_in_batch"] * 1000 / 3600 * recipe.compare.price_per_hour
    else:
        tokens = facts["tokens_in"], facts["tokens_out"]
        cost = 1000 * price(recipe.distil.teacher, *tokens)
    both = own.scores.beside(routes[BASELINE].scores)
    test = paired_test(*both, recipe.evaluate.confidence)
    is_base = name == BASELINE
    return {
        **facts,
        "p_value": None if is_base else test.p_value,
        "gain": None if is_base else test.gain,
        "memory_bytes": own.memory_bytes,
        "cost_per_1000": cost,
    }
