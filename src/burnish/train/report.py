"""The report of a training run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from burnish.core.journal import read_journal
from burnish.core.runs import Run
from burnish.train.diagnostics import Diagnosis, diagnose
from burnish.train.forecast.forecast import TOTAL_PEAK_MEMORY
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.loop import TrainingModule
from burnish.train.loop.peak_memory import peak_memory


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The result of a run. Seconds, bytes, and the mean loss of a target token (in nats), or of a
    row where answers are compared.

    `tokens_per_second` counts the tokens of the rows, prompts included; `losses` has one entry a
    step. `forecast` has the forecast quantities with what they came to, and `diagnoses` what the
    metrics say went wrong.
    """

    run: str
    artifact: str
    steps: int
    epochs: float
    stopped: str
    train_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    trained_parameters: int
    total_parameters: int
    best_validation_loss: float | None
    losses: Sequence[float]
    forecast: Sequence[dict[str, Any]]
    diagnoses: Sequence[Diagnosis] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish train --json` prints and `report.json` holds."""
        return asdict(self)


def make_report(run: Run, module: TrainingModule, state: TrainState) -> TrainReport:
    """Make the report of a finished run from its files and the peaks of all processes."""
    metrics = read_journal(run.path / "metrics.jsonl")
    peaks = module.process_group.gather(peak_memory())
    peak, seconds = peaks[0], state.seconds + state.other_seconds
    disk = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    actual = {
        "peak memory": peak,
        TOTAL_PEAK_MEMORY: sum(peaks),
        "training time": seconds,
        "disk": disk,
    }
    return TrainReport(
        run=run.id,
        artifact=str(run.artifact),
        steps=state.step,
        epochs=round(state.step * module.settings.batch_size / len(module.rows), 2),
        stopped=state.stopped,
        train_seconds=seconds,
        tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
        peak_memory_bytes=peak,
        trained_parameters=module.optimizer.parameter_count,
        total_parameters=sum(weight.numel() for weight in module.model.parameters()),
        best_validation_loss=state.best_loss if module.validation else None,
        losses=[entry["loss"] for entry in metrics if "loss" in entry],
        diagnoses=diagnose(metrics, module.settings),
        forecast=[
            {**quantity, "actual": actual[quantity["name"]]}
            for quantity in _scale_forecast(run, module, state)
        ],
    )


def _scale_forecast(run: Run, module: TrainingModule, state: TrainState) -> list[dict[str, Any]]:
    """Return the forecast, with its time scaled to the steps done if the run stopped early."""
    share = state.step / module.steps
    bounds = ("low", "expected", "high")
    return [
        {**quantity, **{bound: quantity[bound] * share for bound in bounds}}
        if quantity["unit"] == "seconds"
        else quantity
        for quantity in run.read_list("forecast.json")
    ]
