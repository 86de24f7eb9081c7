"""Come from other tools: `import_openai`, `olive`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.api.inputs import Source

if TYPE_CHECKING:
    from burnish.compat.olive.report import OliveReport
    from burnish.compat.openai_import import ImportReport


def import_openai(
    folder: Source, base: str = "smollm2-135m-instruct", out: Path | None = None
) -> ImportReport:
    """Train fine-tuning jobs exported from OpenAI again, on a model of this machine, and compare
    old answers with new ones. Raises BadData, NotFound."""
    from burnish.compat.openai_import import import_openai as import_jobs

    return import_jobs(Path(folder), base, out)


def olive(words: Sequence[str]) -> OliveReport:
    """Run a command line of Microsoft Olive: `["finetune", "--method", "lora", ...]`.

    Raises BadFlag for a flag that can't be honoured, and what training and exporting raise.
    """
    from burnish.compat.olive.commands import run_command

    return run_command(words)
