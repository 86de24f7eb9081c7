"""The classifier route: sentence vectors and a linear head, fitted once and cached.

Often the honest winner for labels on a machine without a GPU, so a fine-tune has to beat it.
"""

from burnish.core.atomic import hash_json, write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run, new_run, runs_folder, versions
from burnish.data.duplicates import content_hash
from burnish.data.load import Dataset
from burnish.models.heads.embedder import Embedder
from burnish.models.heads.linear import save_linear
from burnish.models.local_models import ARTIFACT_FILE, find_model
from burnish.train.trainers.logistic_regression import fit_head


def train_classifier(recipe: Recipe, dataset: Dataset) -> Run:
    """Return the run whose artifact is the classifier of these rows.

    Raises BadRecipe if the answers aren't labels, NotFound without the embedding model.
    """
    if dataset.task.kind != "classification":
        raise BadRecipe(
            f"The route `classifier` needs labels; the task is {dataset.task.kind}.",
            "Leave it out of compare.routes, or set task.kind to classification.",
        )
    local, split = find_model(recipe.rag.embedder), dataset.split
    rows = [[content_hash(row) for row in part] for part in (split.train, split.validation)]
    task = dataset.task.model_dump(mode="json", exclude_defaults=True)
    run = Run(runs_folder() / f"classifier-{hash_json([rows, task, local.sha256])[:12]}")
    if (run.artifact / ARTIFACT_FILE).exists():
        say(f"Classifier: fitted by an earlier run ({run.id}).")
        return run
    if not run.path.exists():
        new_run("classifier", recipe, {"data": dict(dataset.hashes)}, run.path)
    head = fit_head(Embedder(local), split.train, split.validation)
    lineage = {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "data": dict(dataset.hashes),
        "versions": versions(),
        "run": run.id,
    }
    save_linear(run.artifact, head, local, lineage)
    write_json(run.path / "report.json", {"run": run.id, "labels": list(head.labels)})
    return run
