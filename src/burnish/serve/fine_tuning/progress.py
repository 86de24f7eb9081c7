"""Read the progress of a job from its run folder: events, the end time, the step metrics.

Everything is derived from the run's own journals; an event has the same key at every reading.
"""

import csv
import io
import time
from collections import defaultdict
from typing import Any

from burnish.core.journal import read_journal
from burnish.core.runs import Run
from burnish.serve.fine_tuning.checkpoints import list_exported_steps
from burnish.serve.store.jobs import JobEvent

#: The hosted API's columns. Token accuracies are not measured and stay empty.
_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")

#: The hosted API's names of the rewards of a reinforcement.
_REWARDS = ("train_reward_mean", "valid_reward_mean")


def journal_sizes(run: Run) -> list[int]:
    """Return the bytes of the run's journals: if they have not grown, there is no news."""
    journals = (run.path / name for name in ("metrics.jsonl", "events.jsonl"))
    return [file.stat().st_size if file.exists() else 0 for file in journals]


def read_steps(run: Run) -> dict[int, dict[str, Any]]:
    """Return for each step `train_loss`, `valid_loss` (if measured), `tokens`, `seconds`, `at`."""
    steps: dict[int, dict[str, Any]] = defaultdict(dict)
    for entry in read_journal(run.path / "metrics.jsonl"):
        metrics = steps[entry["step"]]
        if "loss" in entry:
            metrics |= {"train_loss": entry["loss"], "at": entry["at"]}
            metrics |= {name: entry[name] for name in ("tokens", "seconds")}
            metrics |= {"train_reward_mean": entry["reward"]} if "reward" in entry else {}
        else:
            metrics["valid_loss"] = entry["validation_loss"]
            if "validation_reward" in entry:
                metrics["valid_reward_mean"] = entry["validation_reward"]
    return dict(steps)


def new_events(run: Run, planned: int, after: int, ended: bool) -> list[JobEvent]:
    """Return an event for each step after `after`.

    The newest step waits for the next one, or for the end: its validation may still be running.
    """
    steps = read_steps(run)
    newest = max(steps, default=0)
    return [
        _step_event(step, planned, metrics)
        for step, metrics in steps.items()
        if step > after and (ended or step < newest)
    ]


def _step_event(step: int, planned: int, metrics: dict[str, Any]) -> JobEvent:
    rewards = {name: metrics[name] for name in _REWARDS if name in metrics}
    data = {"step": step, "total_steps": planned, **_loss_columns(metrics), **rewards}
    message = f"Step {step}/{planned}: training loss={metrics['train_loss']:.4f}"
    if "valid_loss" in metrics:
        message += f", validation loss={metrics['valid_loss']:.4f}"
    return JobEvent(f"step-{step}", message, "info", "metrics", data, metrics["at"])


def list_checkpoints(run: Run, model: str) -> list[dict[str, Any]]:
    """Return the checkpoints, oldest first; the one that became the model has the model's name."""
    final, steps = run.read("artifact/artifact.json")["step"], read_steps(run)
    return [
        {
            "step": step,
            "name": model if step == final else f"{model}:ckpt-step-{step}",
            "folder": str(folder.relative_to(run.path)),
            "metrics": {"step": step, **_loss_columns(steps.get(step, {}))},
        }
        for step, folder in list_exported_steps(run).items()
    ]


def step_metrics_csv(run: Run) -> str:
    """Return the result file: a line of CSV for each step."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for step, metrics in read_steps(run).items():
        writer.writerow({"step": step, **_loss_columns(metrics)})
    return out.getvalue()


def count_trained_tokens(run: Run) -> int:
    """Count the tokens of all rows in all epochs, prompts included."""
    return sum(metrics.get("tokens", 0) for metrics in read_steps(run).values())


def estimate_end(run: Run, planned: int) -> int | None:
    """Estimate when the run ends (Unix seconds): from its steps, before them from the forecast."""
    steps = read_steps(run)
    if steps:
        seconds = [metrics["seconds"] for metrics in steps.values()]
        return int(time.time() + (planned - len(seconds)) * sum(seconds) / len(seconds))
    for quantity in run.read_list("forecast.json"):
        if quantity["name"] == "training time":
            return int(time.time() + quantity["expected"])
    return None


def read_planned_steps(run: Run) -> int | None:
    """Return the optimizer steps of the whole run; None while they are unknown."""
    for entry in read_journal(run.path / "events.jsonl"):
        if entry.get("event") == "training":
            return int(entry["steps"])
    return None


def _loss_columns(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in ("train_loss", "valid_loss") if name in metrics}
