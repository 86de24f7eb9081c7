"""What Olive's `-m` and `-a` mean: a base, an adapter on it, or a run, as an artifact."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from burnish.core.atomic import write_json
from burnish.core.errors import BadData, NotFound
from burnish.core.runs import find_run
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.local_models import ARTIFACT_FILE, MANIFEST, LocalModel, find_model


@contextmanager
def open_model(model: str | None, adapter: str | None) -> Iterator[Artifact]:
    """The trained model that is meant; a base without an adapter is one that nobody trained.

    Raises NotFound, or BadData if the adapter belongs to another base than `model`.
    """
    if adapter is not None:
        artifact = find_trained(adapter)
        if model is not None and find_model(model).sha256 != artifact.lineage["base"]["sha256"]:
            raise BadData(
                f"{adapter} was trained on {artifact.base}, and {model} is another model.",
                "Name the model that the adapter was trained on.",
            )
        yield artifact
        return
    if model is None:
        raise NotFound("No model is named.", "Add --model_name_or_path NAME.")
    try:
        yield find_trained(model)
        return
    except NotFound:
        base = find_model(model)
    with TemporaryDirectory() as folder:
        yield _base_as_artifact(base, Path(folder))


def find_trained(name: str) -> Artifact:
    """The artifact in a folder, in its `adapter/`, or of a run. Raises NotFound."""
    for folder in (Path(name), Path(name) / "adapter", Path(name) / "artifact"):
        if (folder / ARTIFACT_FILE).exists():
            return open_artifact(folder)
    return open_artifact(find_run(name).artifact)


def _base_as_artifact(base: LocalModel, folder: Path) -> Artifact:
    """A base as an artifact: links to its files, and where they came from."""
    for file in base.path.iterdir():
        if file.name != MANIFEST:
            (folder / file.name).symlink_to(file)
    facts = {"kind": "full", "base": base.identity, "system": None, "run": base.name, "files": {}}
    write_json(folder / ARTIFACT_FILE, facts)
    return open_artifact(folder)
