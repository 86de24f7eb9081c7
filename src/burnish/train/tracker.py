"""Curves for people who watch their runs elsewhere: what `metrics.jsonl` gets, a tracker gets too.

The trackers are those of `accelerate`; each needs its own library.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from burnish.core.errors import Unavailable
from burnish.core.runs import Run

#: Hears of each step and each validation: (step, numbers by name).
Log = Callable[[int, Mapping[str, float]], None]


def open_tracker(name: str, run: Run, step: int) -> tuple[Log, Callable[[], None]]:
    """The tracker's ear, and how it is closed. `step` is the last one that it knows already.

    TensorBoard's files lie in the run, under `tensorboard/`; the others keep them where their own
    settings say, as the run `run.id`. Raises Unavailable without the library.
    """
    if find_spec(name) is None:
        raise Unavailable(
            f"train.tracker={name} needs the library {name}.",
            f"pip install {name}, or leave train.tracker empty: metrics.jsonl has it all.",
        )
    settings: dict[str, Any] = {}
    if name == "tensorboard":
        # What was drawn after the checkpoint that the run goes on from is drawn anew.
        settings = {"logging_dir": str(run.path), "purge_step": step + 1}
    project = "tensorboard" if name == "tensorboard" else run.id
    tracker = LOGGER_TYPE_TO_CLASS[name](project, **settings)
    tracker.start()

    def log(step: int, numbers: Mapping[str, float]) -> None:
        tracker.log(dict(numbers), step=step)

    return log, tracker.finish
