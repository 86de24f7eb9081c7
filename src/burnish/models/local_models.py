"""The models on this machine: one folder each, with a manifest written last.

<models>/<name>/model.json        name, source, licence, sizes, hashes, proof
<models>/<name>/*.safetensors, config.json, tokenizer.json, ...
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import hash_file, write_json
from burnish.core.errors import NotFound
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import runs_folder
from burnish.core.settings import models_folder
from burnish.models.catalogue import find_entry

MANIFEST = "model.json"
#: The same file of a trained model's folder (see models.artifact).
ARTIFACT_FILE = "artifact.json"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that can be loaded. `sha256` is the hash of the manifest, which hashes each file.

    `languages` and `scripts` say what an embedding model was trained for: as the manifest has them,
    else as the catalogue does. Without scripts, the model is trusted with every text.
    """

    name: str
    path: Path
    kind: str
    size_bytes: int
    licence: str
    context_length: int
    has_template: bool
    sha256: str
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, str]:
        """Name and hash, by which runs and artifacts record their base."""
        return {"name": self.name, "sha256": self.sha256}


def find_model(name: str) -> LocalModel:
    """Find a pulled model by name, any folder with a manifest, or an embedding model trained by a
    run of this workspace, by its id. Raises NotFound."""
    for folder in (model_folder(name), Path(name), runs_folder() / name / "artifact"):
        if (folder / MANIFEST).exists():
            return open_model(folder)
    raise NotFound(f"The model `{name}` is not on this machine.", f"burnish pull {name}")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe with its base model, found once where a command begins and then handed down."""

    recipe: Recipe
    base: LocalModel

    @classmethod
    def of(cls, recipe: Recipe) -> "Resolved":
        """Find the recipe's base model. Raises NotFound."""
        return cls(recipe, find_model(recipe.model.name))


def list_models() -> list[LocalModel]:
    """Return all pulled models, by name."""
    return [open_model(file.parent) for file in sorted(models_folder().glob(f"*/{MANIFEST}"))]


def list_embedders() -> list[LocalModel]:
    """Return the embedding models: pulled ones, and those trained by runs of this workspace."""
    tuned = [
        open_model(file.parent) for file in sorted(runs_folder().glob(f"*/artifact/{MANIFEST}"))
    ]
    return [model for model in (*list_models(), *tuned) if model.kind == "embedding"]


def model_folder(name: str) -> Path:
    """Return the folder for a model's name; a hub id's slash becomes two dashes."""
    return models_folder() / name.replace("/", "--")


def open_model(folder: Path) -> LocalModel:
    """Read a folder's manifest."""
    manifest = read_manifest(folder)
    # Not written by `pull`: the hash of the manifest is the identity of models pulled before.
    entry = find_entry(manifest["name"])
    trained_for = manifest if "scripts" in manifest or entry is None else entry.model_dump()
    return LocalModel(
        name=manifest["name"],
        path=folder.absolute(),
        kind=manifest["kind"],
        size_bytes=sum(entry["bytes"] for entry in manifest["files"].values()),
        licence=manifest["licence"],
        context_length=manifest["context_length"],
        has_template=manifest["has_template"],
        sha256=hash_file(folder / MANIFEST),
        languages=tuple(trained_for.get("languages", ())),
        scripts=tuple(trained_for.get("scripts", ())),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest as written."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Hash every file of a finished folder and write its manifest, the last file."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def damaged_files(folder: Path) -> list[str]:
    """Return the manifest's files that are missing or changed."""
    return [
        name
        for name, entry in read_manifest(folder)["files"].items()
        if not (folder / name).exists() or hash_file(folder / name) != entry["sha256"]
    ]
