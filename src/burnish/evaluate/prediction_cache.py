"""Answers, kept by the content of what was asked of whom: nothing is asked twice.

Who is killed has lost at most one block of answers. The key holds all that an answer
depends on: weights, prompts, expected answers, metric, and the version of the code.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish import __version__
from burnish.core.atomic import hash_json, write_json
from burnish.core.progress import progress, say
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Prediction, Prompt, Scores
from burnish.core.settings import workspace
from burnish.engines.protocol import Engine
from burnish.evaluate.scoring import PromptSet, ask, load_predictions, save_predictions, score
from burnish.evaluate.tasks import deciding_metric

#: Questions answered between two writes to the disk.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model as it was measured on the test questions.

    Seconds of single requests, bytes of its weights."""

    scores: Scores
    latencies: Sequence[float]
    memory_bytes: int


def evaluate_cached(
    identity: str, engine: Engine, prompt_set: PromptSet, task: Task, settings: Evaluate
) -> Scores:
    """Scores of an engine whose weights are `identity` (a hash); asked only if it hasn't been."""
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
    known = sum(file.exists() for file in files)
    if known:
        say(f"{prompt_set.label}: {known} of {len(files)} blocks of answers are there already.")
    predictions: list[Prediction] = []
    with progress(prompt_set.label, total=len(prompt_set.rows)) as bar:
        for block, file in zip(blocks, files, strict=True):
            if file.exists():
                bar.advance(len(block.rows))
            else:
                save_predictions(file, ask(engine, block, metric, settings.batch_size, bar))
            predictions += load_predictions(file)
    return score(predictions, metric, task, settings)


def latency_cached(identity: str, engine: Engine, prompts: Sequence[Prompt]) -> list[float]:
    """Seconds of single requests, as `latencies` measures them, once for each weights and prompts.

    The machine isn't part of the key: a workspace belongs to one machine.
    """
    file = _cache_file("latency", [identity, [prompt.as_dict() for prompt in prompts]], "json")
    if not file.exists():
        write_json(file, measure_latencies(engine, prompts))
    return [float(seconds) for seconds in json.loads(file.read_text(encoding="utf-8"))]


def _cache_key(identity: str, block: PromptSet, metric: str) -> list[Any]:
    prompts = [prompt.as_dict() for prompt in block.prompts]
    return [identity, prompts, [(row.id, row.expected) for row in block.rows], metric]


def _cache_file(kind: str, key: list[Any], ending: str) -> Path:
    return workspace() / "cache" / kind / f"{hash_json([__version__, *key])[:24]}.{ending}"


#: Questions asked alone, at most; the seconds after which no further one begins; and the fewest.
_QUESTIONS, _SECONDS, _LEAST = 16, 15.0, 3


def measure_latencies(engine: Engine, prompts: Sequence[Prompt]) -> list[float]:
    """Seconds of each of a few prompts, spread over all, asked one at a time.

    Nothing is shared between them and none waits for a batch. The first one warms up and isn't
    counted.
    """
    stride = max(len(prompts) // _QUESTIONS, 1)
    some = [*prompts[::stride]][:_QUESTIONS]
    engine.answer(some[:1], batch_size=1)
    found: list[float] = []
    begun = time.monotonic()
    for prompt in some:
        before = time.perf_counter()
        engine.answer([prompt], batch_size=1)
        found.append(time.perf_counter() - before)
        if len(found) >= _LEAST and time.monotonic() - begun > _SECONDS:
            break
    return found
