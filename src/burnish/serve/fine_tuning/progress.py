"""What a run folder tells about a job: events, the forecast, the table of steps.

Everything is derived from the run's own journals, and has the same key whenever it is read.
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

#: The hosted API's columns. Accuracies of single tokens are not measured here and stay empty.
_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")

#: What the hosted API calls the rewards of a reinforcement.
_REWARDS = ("train_reward_mean", "valid_reward_mean")


def journal_sizes(run: Run) -> list[int]:
    """How long the run's journals are: where they haven't grown there is no news."""
    journals = (run.path / name for name in ("metrics.jsonl", "events.jsonl"))
    return [file.stat().st_size if file.exists() else 0 for file in journals]


def read_steps(run: Run) -> dict[int, dict[str, Any]]:
    """Step → `train_loss`, `valid_loss` where it was measured, `tokens`, `seconds`, `at`."""
    steps: dict[int, dict[str, Any]] = defaultdict(dict)
    for entry in read_journal(run.path / "metrics.jsonl"):
        own = steps[entry["step"]]
        if "loss" in entry:
            own |= {"train_loss": entry["loss"], "at": entry["at"]}
            own |= {name: entry[name] for name in ("tokens", "seconds")}
            own |= {"train_reward_mean": entry["reward"]} if "reward" in entry else {}
        else:
            own["valid_loss"] = entry["validation_loss"]
            if "validation_reward" in entry:
                own["valid_reward_mean"] = entry["validation_reward"]
    return dict(steps)


def new_events(run: Run, planned: int, after: int, ended: bool) -> list[JobEvent]:
    """An event for each step behind `after`.

    The newest step waits for the next one, or for the end: its validation may still be going on.
    """
    steps = read_steps(run)
    newest = max(steps, default=0)
    return [
        _step_event(step, planned, seen)
        for step, seen in steps.items()
        if step > after and (ended or step < newest)
    ]


def _step_event(step: int, planned: int, seen: dict[str, Any]) -> JobEvent:
    rewards = {name: seen[name] for name in _REWARDS if name in seen}
    data = {"step": step, "total_steps": planned, **_loss_columns(seen), **rewards}
    said = f"Step {step}/{planned}: training loss={seen['train_loss']:.4f}"
    if "valid_loss" in seen:
        said += f", validation loss={seen['valid_loss']:.4f}"
    return JobEvent(f"step-{step}", said, "info", "metrics", data, seen["at"])


def list_checkpoints(run: Run, model: str) -> list[dict[str, Any]]:
    """The models of steps on the way, oldest first. The step that became the model has its name."""
    final, seen = run.read("artifact/artifact.json")["step"], read_steps(run)
    return [
        {
            "step": step,
            "name": model if step == final else f"{model}:ckpt-step-{step}",
            "folder": str(folder.relative_to(run.path)),
            "metrics": {"step": step, **_loss_columns(seen.get(step, {}))},
        }
        for step, folder in list_exported_steps(run).items()
    ]


def step_metrics_csv(run: Run) -> str:
    """The result file: one line a step, as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for step, seen in read_steps(run).items():
        writer.writerow({"step": step, **_loss_columns(seen)})
    return out.getvalue()


def count_trained_tokens(run: Run) -> int:
    """Tokens of all rows in all epochs, prompts included."""
    return sum(seen.get("tokens", 0) for seen in read_steps(run).values())


def estimate_end(run: Run, planned: int) -> int | None:
    """When the run will probably end: from its own steps, before them from the forecast."""
    steps = read_steps(run)
    if steps:
        done = [seen["seconds"] for seen in steps.values()]
        return int(time.time() + (planned - len(done)) * sum(done) / len(done))
    for quantity in run.read_list("forecast.json"):
        if quantity["name"] == "training time":
            return int(time.time() + quantity["expected"])
    return None


def read_planned_steps(run: Run) -> int | None:
    """Optimizer steps of the whole run; None while they aren't known."""
    for entry in read_journal(run.path / "events.jsonl"):
        if entry.get("event") == "training":
            return int(entry["steps"])
    return None


def _loss_columns(seen: dict[str, Any]) -> dict[str, float]:
    return {name: seen[name] for name in ("train_loss", "valid_loss") if name in seen}
