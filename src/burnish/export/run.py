"""`burnish export`, top to bottom: write, ask the result the test split, decide if it may ship."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from burnish.core.atomic import write_atomic, write_json
from burnish.core.errors import NotFound
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import allowed, goes_together
from burnish.core.runs import Run
from burnish.engines.external.base import LaunchOptions
from burnish.engines.local.open import open_local_engine
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.importance_matrix import compute_importance
from burnish.export.formats.registry import (
    check_seq2seq_export,
    resolve_quant,
    write_export,
)
from burnish.export.layer_pruning import drop_layers
from burnish.export.model_card import format_measurements, render_model_card
from burnish.export.packaging.ollama import render_modelfile
from burnish.export.packaging.registry import check_targets, write_targets
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import Parity, measure_parity
from burnish.export.parity.questions import (
    GateQuestions,
    TrainedAnswers,
    ask_trained,
    make_questions,
)
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.local_models import find_model

PARITY_FILE = "parity.json"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported folder and the gate's result."""

    artifact: Artifact
    parity: Parity
    size_bytes: int

    @property
    def exit_code(self) -> int:
        """0 if shippable, else 1."""
        return 0 if self.parity.shippable else 1

    def measurements(self) -> dict[str, str]:
        """Return what the gate measured, as text."""
        return format_measurements(self.parity.facts, self.size_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish export --json` prints."""
        return {
            "folder": str(self.artifact.path),
            "export": dict(self.artifact.lineage["export"]),
            "size_bytes": self.size_bytes,
            **self.parity.as_dict(),
        }


def export(run: Run, recipe: Recipe, out: Path | None = None) -> ExportResult:
    """Export a run as the recipe's `export` section says and ask the result the test split.

    Raises CannotExport, AlreadyThere, BadRecipe before anything is written; Unavailable and
    EngineFailed if the engine isn't here or fails: the folder then stays, without `parity.json`.
    """
    settings = recipe.export
    quant = resolve_quant(settings.to, settings.quant)
    artifact = open_artifact(run.artifact)
    check_seq2seq_export(settings, settings.to, artifact)
    if settings.importance and not goes_together("export", "importance", "format", settings.to):
        fitting = " or ".join(allowed("export", "importance", "format"))
        raise CannotExport(
            f"--to {settings.to} doesn't support an importance matrix.",
            f"Leave export.importance out, or use --to {fitting}.",
        )
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    check_targets(settings.ready_for, settings.to, artifact, tokenizer)
    if settings.drop_layers and not goes_together("export", "drop_layers", "format", settings.to):
        raise CannotExport(
            f"--to {settings.to} ships an adapter; layers can only be dropped from a whole model.",
            "Leave export.drop_layers out, or use --to merged or gguf.",
        )
    questions = make_questions(recipe, artifact)
    folder = (out or run.path / "exports" / f"{settings.to}-{quant}").absolute()
    with drop_layers(recipe, artifact) as source:
        importance = compute_importance(recipe, source)
        written = write_export(folder, source, settings.to, quant, importance)
    say(f"Wrote {folder}")
    trained = ask_trained(open_local_engine(str(run.path)), questions)
    write_targets(settings.ready_for, written, tokenizer)
    return run_gate(written, questions, trained, recipe)


def run_gate(
    written: Artifact,
    questions: GateQuestions,
    trained: TrainedAnswers,
    recipe: Recipe,
    running: LaunchOptions | None = None,
) -> ExportResult:
    """Ask an exported folder, and write `parity.json`, a model card and a Modelfile into it.

    Without `running`, its server gets the recipe's threads and enough context for the questions.
    """
    defaults = LaunchOptions(recipe.export.threads or 0, required_context(questions, trained))
    served = open_served_model(written, running or defaults)
    try:
        parity = measure_parity(served, questions, trained, recipe.export)
    finally:
        served.close()
    size = sum(file.stat().st_size for file in written.path.iterdir() if file.is_file())
    if written.kind == "gguf":
        names = written.lineage["export"]
        files = [names[part] for part in ("file", "adapter") if part in names]
        text = render_modelfile(files, trained.tokenizer, written.system)
        if text:
            write_atomic(written.path / "Modelfile", text)
    facts = parity.as_dict()
    write_atomic(
        written.path / "README.md",
        render_model_card(written, _base_license(written.base), facts, size),
    )
    write_json(written.path / PARITY_FILE, facts)
    return ExportResult(written, parity, size)


def required_context(questions: GateQuestions, trained: TrainedAnswers) -> int:
    """Return the tokens that the longest question and its answer need."""
    longest = max(reply.tokens_in for reply in trained.free)
    return longest + max(prompt.max_new_tokens for prompt in questions.prompts)


def _base_license(base: str) -> str:
    """Return the base's licence; a fully fine-tuned run can be exported without its base."""
    try:
        return find_model(base).licence
    except NotFound:
        return "see the base, which isn't on this machine"
