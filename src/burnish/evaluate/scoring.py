"""Ask an engine, score each answer, and compute the mean with its interval."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from burnish.core.atomic import write_atomic
from burnish.core.errors import PromptTooLong
from burnish.core.progress import Bar, progress
from burnish.core.reasoning import split_reasoning
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Prediction, Prompt, Row, Scores, clusters_of
from burnish.core.stats import mean_interval, quantile
from burnish.engines.protocol import Engine
from burnish.evaluate.latency import middle
from burnish.evaluate.metrics import CORPUS_METRICS, METRICS
from burnish.evaluate.tasks import deciding_metric


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Rows and their prompts, one each."""

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    label: str = "Asking"


def evaluate(engine: Engine, prompt_set: PromptSet, task: Task, settings: Evaluate) -> Scores:
    """Answer all prompts and score them against their rows.

    Raises PromptTooLong with the row whose prompt doesn't fit the context.
    """
    metric = deciding_metric(task, settings)
    with progress(prompt_set.label, total=len(prompt_set.prompts)) as bar:
        predictions = ask(engine, prompt_set, metric, settings.batch_size, bar)
    return score(predictions, metric, task, settings)


def ask(
    engine: Engine, prompt_set: PromptSet, metric: str, batch_size: int, bar: Bar
) -> list[Prediction]:
    """Return one scored prediction per row."""
    try:
        answers = engine.answer(
            prompt_set.prompts, batch_size=batch_size, advance=lambda n: bar.advance(n)
        )
    except PromptTooLong as error:
        raise _with_row(error, engine, prompt_set) from error
    return score_outputs(prompt_set.rows, answers, metric)


class ModelOutput(Protocol):
    """A model's output to one question: an engine's answer, or a remote reply."""

    @property
    def text(self) -> str:
        """The generated text."""

    @property
    def tokens_in(self) -> int:
        """Tokens of the prompt."""

    @property
    def tokens_out(self) -> int:
        """Tokens of the answer."""

    @property
    def seconds(self) -> float:
        """The time it took."""


def score_outputs(
    rows: Sequence[Row], outputs: Sequence[ModelOutput], metric: str
) -> list[Prediction]:
    """Return one scored prediction per row: of the content, without its reasoning."""
    return [
        Prediction(
            row=row.id,
            prompt=row.prompt[-1].content,
            expected=row.expected,
            answer=answer,
            score=METRICS[metric](row.expected, answer),
            tokens_in=output.tokens_in,
            tokens_out=output.tokens_out,
            seconds=output.seconds,
            thought=reasoning,
            group=row.group or "",
        )
        for row, output in zip(rows, outputs, strict=True)
        for reasoning, answer in (split_reasoning(output.text),)
    ]


def score(predictions: Sequence[Prediction], metric: str, task: Task, settings: Evaluate) -> Scores:
    """Return predictions with their interval and the metrics shown beside it."""
    expected = [prediction.expected for prediction in predictions]
    answers = [prediction.answer for prediction in predictions]
    extra = {
        name: over_all(expected, answers) for name, over_all in CORPUS_METRICS[task.kind].items()
    }
    return with_interval(metric, predictions, settings, extra)


def with_interval(
    metric: str,
    predictions: Sequence[Prediction],
    settings: Evaluate,
    extra: Mapping[str, float],
) -> Scores:
    """Return scored predictions with the interval of their mean."""
    values = [prediction.score for prediction in predictions]
    interval = mean_interval(values, clusters_of(predictions), settings.confidence, settings.seed)
    return Scores(metric, predictions, interval, extra)


def perplexity(engine: Engine, rows: Sequence[Row]) -> float:
    """Return exp of the mean negative log-probability per token of the rows' last answers. Lower is
    better."""
    results = engine.log_likelihood(
        [row.until(row.trained_turns[-1]) if row.trained_turns else row for row in rows]
    )
    return math.exp(-sum(log for log, _ in results) / sum(tokens for _, tokens in results))


def summary(name: str, scores: Scores, latencies: Sequence[float]) -> dict[str, Any]:
    """Return one route as `--json` prints it. `latencies` are seconds of single requests."""
    predictions = scores.predictions
    n = len(predictions)
    median = middle(latencies, 0.95)
    return {
        "name": name,
        "metric": scores.metric,
        "value": scores.interval.value,
        "ci": [scores.interval.low, scores.interval.high],
        "n": scores.interval.n,
        **{key: round(value, 6) for key, value in scores.extra.items()},
        "latency_p50_s": quantile(latencies, 0.5),
        "latency_p50_ci": [median.low, median.high] if latencies else None,
        "latency_p95_s": quantile(latencies, 0.95),
        "tokens_in": sum(prediction.tokens_in for prediction in predictions) / n,
        "tokens_out": sum(prediction.tokens_out for prediction in predictions) / n,
        "seconds_in_batch": sum(prediction.seconds for prediction in predictions) / n,
    }


def save_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write one JSON object per line, atomically."""
    lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in predictions)
    write_atomic(path, "".join(lines))


def load_predictions(path: Path) -> list[Prediction]:
    """Read what `save_predictions` wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Prediction(**json.loads(line)) for line in lines if line]


def _with_row(error: PromptTooLong, engine: Engine, prompt_set: PromptSet) -> PromptTooLong:
    """Return the same error with the row that has the longest prompt."""
    row, _ = max(
        zip(prompt_set.rows, prompt_set.prompts, strict=True),
        key=lambda pair: engine.count_tokens(pair[1].messages),
    )
    return PromptTooLong(f"{row.id}: {error.what}", error.fix)
