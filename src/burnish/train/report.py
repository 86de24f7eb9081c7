"""What a training run leaves behind as its result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from burnish.train.diagnosis import Diagnosis


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The result of a run. Seconds, bytes, and the mean loss of a learnt token (in nats), or of a
    row where answers are compared.

    `tokens_per_second` counts the tokens of the rows, prompts included; `losses` has one entry a
    step. `forecast` carries what was expected beside what happened, and `diagnoses` what the
    figures say went wrong.
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
        """The shape that `burnish train --json` prints and `report.json` holds."""
        return asdict(self)
