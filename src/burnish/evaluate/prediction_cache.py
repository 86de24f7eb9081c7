"""Answers, kept by the content of what was asked of whom: nothing is asked twice.

Who is killed has lost at most one block of answers. The key holds all that an answer
depends on: weights and their number format, prompts, expected answers, metric, and the version of
the code. What a row says beside its question is never taken from here.
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

#: Questions answered between two writes to the disk.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model as it was measured on the test questions.

    Seconds of single requests, bytes of its weights, and the share of the processors that other
    programs used while it was timed."""

    scores: Scores
    latencies: Sequence[float]
    memory_bytes: int
    busy: float = 0.0


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
            # Which questions hang together is said by the rows, and may have been learnt since.
            predictions += [
                replace(one, group=row.group or "")
                for one, row in zip(load_predictions(file), block.rows, strict=True)
            ]
    return score(predictions, metric, task, settings)


def latency_cached(label: str, identity: str, engine: Engine, prompts: Sequence[Prompt]) -> Timing:
    """Seconds of single requests, once for each weights, prompts and machine.

    What was measured while the machine was busy is said to be so, and measured anew the next time.
    """
    asked = [prompt.as_dict() for prompt in prompts]
    key = [identity, str(inference_dtype()), hardware(), asked]
    file = _cache_file("latency", key, "json")
    if file.exists():
        return Timing(**json.loads(file.read_text(encoding="utf-8")))
    timing = measure_latencies(engine, prompts)
    if timing.is_busy:
        say(
            f"{label}: other programs used {timing.busy:.0%} of the processors while single "
            "requests were timed. These times are theirs too."
        )
    else:
        write_json(file, asdict(timing))
    return timing


def _cache_key(identity: str, block: PromptSet, metric: str) -> list[Any]:
    prompts = [prompt.as_dict() for prompt in block.prompts]
    asked = [(row.id, row.expected) for row in block.rows]
    return [identity, str(inference_dtype()), prompts, asked, metric]


def _cache_file(kind: str, key: list[Any], ending: str) -> Path:
    return workspace() / "cache" / kind / f"{hash_json([__version__, *key])[:24]}.{ending}"
