"""Find the artifact that a run's id or a folder names."""

from pathlib import Path

from burnish.core.atomic import hash_json
from burnish.core.errors import NotFound
from burnish.core.runs import find_run
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.local_models import ARTIFACT_FILE, find_model


def find_artifact(source: str | Path) -> Artifact | None:
    """Return the artifact that a run's id or a folder names; None if it names a model."""
    if (Path(source) / ARTIFACT_FILE).exists():
        return open_artifact(Path(source))
    try:
        run = find_run(str(source))
    except NotFound:
        return None
    return open_artifact(run.artifact)


def hash_weights(source: str | Path) -> str:
    """Return a hash of what determines `open_engine`'s answers: weights, their rounding, and the
    system message for conversations without one. Raises NotFound."""
    artifact = find_artifact(source)
    if artifact is None:
        return find_model(str(source)).sha256
    facts = artifact.lineage
    rounding = [artifact.kind, artifact.rounding_format, artifact.quantized]
    return hash_json([facts["base"]["sha256"], facts["files"], artifact.system, rounding])
