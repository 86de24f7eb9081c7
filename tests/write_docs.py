"""Write the generated pages of the docs: `make docs`. A test fails when they are stale."""

import json

import typer

from burnish.compat import autotrain, deepspeed, kaito
from burnish.core.recipe.recipe import recipe_schema
from tests.pages import ROOT
from tests.pages.architecture import architecture_page, decisions_page
from tests.pages.commands import FOLDER as COMMANDS_FOLDER
from tests.pages.commands import command_pages
from tests.pages.recipe import FOLDER as RECIPE_FOLDER
from tests.pages.recipe import recipe_pages
from tests.pages.tables import (
    findings_page,
    formats_page,
    keys_page,
    metrics_page,
    olive_flags_page,
    support_page,
)
from tests.serve.conformance.page import conformance_page

#: Folders in which every page is generated, so that one with no source is deleted.
GENERATED_FOLDERS = (COMMANDS_FOLDER, RECIPE_FOLDER)


def pages() -> dict[str, str]:
    """Path → text of every page that is written from the code, in whole or in part."""
    reference = {
        "data-formats.md": formats_page(),
        "findings.md": findings_page(),
        "metrics.md": metrics_page(),
        "olive-flags.md": olive_flags_page(),
        "support.md": support_page(),
        "deepspeed-keys.md": keys_page("DeepSpeed", "deepspeed", deepspeed.KEYS),
        "autotrain-keys.md": keys_page("AutoTrain", "autotrain", autotrain.KEYS),
        "kaito-keys.md": keys_page("KAITO", "kaito", kaito.KEYS),
        "conformance.md": conformance_page(),
        "burnish.schema.json": json.dumps(recipe_schema(), indent=2) + "\n",
    }
    return {
        "docs/architecture.md": architecture_page(),
        "docs/decisions/README.md": decisions_page(),
        **{f"docs/reference/{name}": text for name, text in reference.items()},
        **command_pages(),
        **recipe_pages(),
    }


def stale_pages(names: dict[str, str]) -> list[str]:
    """Pages in folders of generated pages that nothing generates any more."""
    there = [page for folder in GENERATED_FOLDERS for page in (ROOT / folder).glob("*.md")]
    return [
        str(page.relative_to(ROOT)) for page in there if str(page.relative_to(ROOT)) not in names
    ]


if __name__ == "__main__":
    written = pages()
    for name, text in written.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
        typer.echo(f"wrote {name}")
    for name in stale_pages(written):
        (ROOT / name).unlink()
        typer.echo(f"deleted {name}")
