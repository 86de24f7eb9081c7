"""The interface of a trainer: the steps of a training run that depend on the kind of model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.train.loop.checkpoint import TrainState
from burnish.train.loop.context import TrainContext
from burnish.train.loop.loop import TrainingModule

ExampleT = TypeVar("ExampleT")
ModuleT = TypeVar("ModuleT", bound=TrainingModule)


class Trainer(ABC, Generic[ExampleT, ModuleT]):
    """Trains one kind of model: from rows to examples, to a module that `fit` trains, to an
    artifact.

    `train.run` calls the methods in the order in which they stand here. Each process of a process
    group has a trainer of its own; `tokenize` and `save` run on the main process only.
    """

    def __init__(self, context: TrainContext) -> None:
        self.context = context

    @abstractmethod
    def tokenize(self) -> tuple[Sequence[ExampleT], Sequence[ExampleT]]:
        """Return the training and the validation rows as examples.

        Raises AuditFailed, BadData or BadRecipe for rows that the model can't learn from.
        """

    @abstractmethod
    def build(
        self, run: Run, train_rows: Sequence[ExampleT], validation_rows: Sequence[ExampleT]
    ) -> ModuleT:
        """Load the model, mark its trainable weights and make its optimizer.

        Raises BadData without training rows.
        """

    def before_first_step(self, module: ModuleT, run: Run, state: TrainState) -> ModuleT:
        """Do what has to be done once the checkpoint at `state`, if there is one, is loaded."""
        return module

    @abstractmethod
    def save(self, folder: Path, module: ModuleT, lineage: Mapping[str, Any]) -> Artifact:
        """Write the trained model to `folder`."""
