"""Experiment trackers (TensorBoard, MLflow, ...): they get the metrics that `metrics.jsonl` gets.

The trackers are those of `accelerate`; each needs its own library.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from burnish.core.errors import Unavailable
from burnish.core.runs import Run

_PROJECT = "burnish"
#: Called after each step and each validation with (step, metrics by name).
MetricLogger = Callable[[int, Mapping[str, float]], None]


def open_tracker(name: str, run: Run, step: int) -> tuple[MetricLogger, Callable[[], None]]:
    """Return the function that logs to the tracker, and the one that closes it. `step` is the last
    one that it has already.

    TensorBoard's files are in the run, under `tensorboard/`; the others store them where their own
    settings say: in the project `burnish`, as the run `run.id`, which a resumed training continues.
    Raises Unavailable without the library.
    """
    if find_spec(name) is None:
        raise Unavailable(
            f"train.tracker={name} needs the library {name}.",
            f"pip install {name}, or leave train.tracker empty: metrics.jsonl has it all.",
        )
    project = "tensorboard" if name == "tensorboard" else _PROJECT
    tracker = LOGGER_TYPE_TO_CLASS[name](project, **_SETTINGS[name](run, step))
    tracker.start()

    def log(step: int, metrics: Mapping[str, float]) -> None:
        tracker.log(dict(metrics), step=step)

    return log, tracker.finish


def _tensorboard_settings(run: Run, step: int) -> dict[str, Any]:
    # Points after the checkpoint that the run resumes from are logged again.
    return {"logging_dir": str(run.path), "purge_step": step + 1}


def _mlflow_settings(run: Run, step: int) -> dict[str, Any]:
    import mlflow

    # MLflow gives its runs ids of its own, so ours is the name.
    runs = mlflow.search_runs(
        experiment_names=[_PROJECT],
        filter_string=f"attributes.run_name = '{run.id}'",
        output_format="list",
    )
    return {"run_name": run.id, "run_id": runs[0].info.run_id if runs else None}


_SETTINGS: Mapping[str, Callable[[Run, int], dict[str, Any]]] = {
    "tensorboard": _tensorboard_settings,
    "mlflow": _mlflow_settings,
    "wandb": lambda run, step: {"id": run.id, "name": run.id, "resume": "allow"},
    "trackio": lambda run, step: {"name": run.id, "resume": "allow"},
}
