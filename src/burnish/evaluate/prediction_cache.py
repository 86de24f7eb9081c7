"""A cache of answers by content: nothing is asked twice.

A killed run loses at most one block (256 answers). The key contains everything that an answer
depends on: weights and their dtype, prompts, expected answers, metric, and the version of the code.
What a row says beside its question is never taken from the cache.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish.core.atomic import hash_json, write_json
from burnish.core.hardware import hardware
from burnish.core.progress import progress, say
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Prediction, Prompt, Scores
from burnish.core.settings import workspace
from burnish.engines.local.engine import inference_dtype
from burnish.engines.protocol import Engine
from burnish.evaluate.latency import Timing, measure_latencies
from burnish.evaluate.scoring import PromptSet, ask, load_predictions, save_predictions, score
from burnish.evaluate.tasks import deciding_metric

#: Questions answered between two writes to disk.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model's measurements on the test questions.

    Seconds of single requests, bytes of its weights, and the share of the processors that other
    programs used while it was timed."""

    scores: Scores
    latencies: Sequence[float]
    memory_bytes: int
    busy: float = 0.0


def evaluate_cached(
    identity: str, engine: Engine, prompt_set: PromptSet, task: Task, settings: Evaluate
) -> Scores:
    """Return the scores of an engine whose weights are `identity` (a hash); uncached questions are
    asked."""
    metric = deciding_metric(task, settings)
    blocks = [
        PromptSet(
            prompt_set.rows[begin : begin + _BLOCK], prompt_set.prompts[begin : begin + _BLOCK]
        )
        for begin in range(0, len(prompt_set.rows), _BLOCK)
    ]
    files = [
        _cache_file("predictions", _cache_key(identity, block, metric), "jsonl") for block in blocks
    ]
    cached = sum(file.exists() for file in files)
    if cached:
        say(f"{prompt_set.label}: {cached} of {len(files)} blocks of answers are cached.")
    predictions: list[Prediction] = []
    with progress(prompt_set.label, total=len(prompt_set.rows)) as bar:
        for block, file in zip(blocks, files, strict=True):
            if file.exists():
                bar.advance(len(block.rows))
            else:
                save_predictions(file, ask(engine, block, metric, settings.batch_size, bar))
            # Clusters come from the rows, which may have gained them since.
            predictions += [
                replace(prediction, group=row.group or "")
                for prediction, row in zip(load_predictions(file), block.rows, strict=True)
            ]
    return score(predictions, metric, task, settings)


def latency_cached(label: str, identity: str, engine: Engine, prompts: Sequence[Prompt]) -> Timing:
    """Return seconds of single requests, measured once per weights, prompts and machine.

    Timings on a busy machine are reported as such, and measured again the next time.
    """
    prompt_facts = [prompt.as_dict() for prompt in prompts]
    key = [identity, str(inference_dtype()), hardware(), prompt_facts]
    file = _cache_file("latency", key, "json")
    if file.exists():
        return Timing(**json.loads(file.read_text(encoding="utf-8")))
    timing = measure_latencies(engine, prompts)
    if timing.is_busy:
        say(
            f"{label}: other programs used {timing.busy:.0%} of the processors while single "
            "requests were timed, which distorts the times."
        )
    else:
        write_json(file, asdict(timing))
    return timing


def _cache_key(identity: str, block: PromptSet, metric: str) -> list[Any]:
    prompts = [prompt.as_dict() for prompt in block.prompts]
    references = [(row.id, row.expected) for row in block.rows]
    return [identity, str(inference_dtype()), prompts, references, metric]


def _cache_file(kind: str, key: list[Any], ending: str) -> Path:
    return workspace() / "cache" / kind / f"{hash_json([__version__, *key])[:24]}.{ending}"
