"""`burnish export RUN --to onnx --with RUN`: one base with several switchable adapters.

Each adapter goes through the parity gate of its own run; before that, the folder must prove that no
answer gets another one's adapter, else it is deleted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import atomic_folder, write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.core.runs import Run
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.onnx import list_adapters
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.isolation_check import AdapterLeak, check_export_isolation
from burnish.export.formats.onnx_multi_lora import write_multi_adapter
from burnish.export.formats.registry import resolve_quant, write_lineage
from burnish.export.model_card import format_measurements
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import Parity, measure_parity
from burnish.export.parity.questions import ask_trained, make_questions
from burnish.export.run import PARITY_FILE, required_context
from burnish.models.artifact import Artifact, open_artifact


@dataclass(frozen=True, slots=True)
class MultiAdapterExport:
    """An exported folder, the number of answers compared for adapter isolation, and each run's gate
    result."""

    artifact: Artifact
    compared: int
    parities: dict[str, Parity]
    size_bytes: int

    @property
    def exit_code(self) -> int:
        """0 if all are shippable, else 1."""
        return 0 if all(parity.shippable for parity in self.parities.values()) else 1

    def measurements(self, run: str) -> dict[str, str]:
        """Return what the gate of one run's adapter measured, as text."""
        return format_measurements(self.parities[run].facts, self.size_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish export --with --json` prints."""
        return {
            "folder": str(self.artifact.path),
            "export": dict(self.artifact.lineage["export"]),
            "size_bytes": self.size_bytes,
            "compared": self.compared,
            "adapters": {name: parity.as_dict() for name, parity in self.parities.items()},
        }


def export_multi_adapter(
    runs: Sequence[Run], quant: str, out: Path | None = None, changes: Iterable[str] = ()
) -> MultiAdapterExport:
    """Write the runs' base and adapters for ORT-GenAI, and pass each through its own gate.

    Raises BadRecipe, BadData, CannotExport, AlreadyThere, AdapterLeak; nothing is left then.
    """
    if len({run.id for run in runs}) < len(runs):
        raise BadRecipe("One run is named twice.", "Name other runs with --with.")
    quant, settings = resolve_quant("onnx", quant), list(changes)
    recipes = [make_recipe(run.recipe.model_dump(mode="json"), settings) for run in runs]
    artifacts = {run.id: open_artifact(run.artifact) for run in runs}
    first = artifacts[runs[0].id]
    folder = (out or runs[0].path / "exports" / f"onnx-{quant}-switched").absolute()
    questions = {
        run.id: make_questions(recipe, artifacts[run.id])
        for run, recipe in zip(runs, recipes, strict=True)
    }
    with atomic_folder(folder) as draft:
        adapters = write_multi_adapter(draft, artifacts, quant)
        facts = {"to": "onnx", "quant": quant, "file": "model.onnx", "adapters": adapters}
        write_lineage(draft, first, "onnx", facts)
        report = check_export_isolation(open_artifact(draft))
        if report.leak:
            raise AdapterLeak(
                f"ORT-GenAI mixes these adapters: {report.leak}", "Export each alone."
            )
    say(f"Wrote {folder}; {report.compared} answers in every order, no adapter mixed up.")
    written, parities = open_artifact(folder), {}
    for adapter, run, recipe in zip(list_adapters(written), runs, recipes, strict=True):
        parities[run.id] = _gate_adapter(adapter, questions[run.id], run, recipe)
    write_json(folder / PARITY_FILE, {name: parity.as_dict() for name, parity in parities.items()})
    size = sum(file.stat().st_size for file in folder.iterdir())
    return MultiAdapterExport(written, report.compared, parities, size)


def _gate_adapter(adapter: Artifact, questions: Any, run: Run, recipe: Recipe) -> Parity:
    """Return the gate's result for one adapter of the folder."""
    trained = ask_trained(open_local_engine(str(run.path)), questions)
    launch_options = LaunchOptions(recipe.export.threads or 0, required_context(questions, trained))
    served = open_served_model(adapter, launch_options)
    try:
        return measure_parity(served, questions, trained, recipe.export)
    finally:
        served.close()
