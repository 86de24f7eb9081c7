"""Merge adapters of one base into a new adapter, in a run of its own.

The arithmetic is PEFT's `add_weighted_adapter`, always on whole updates (scaling B A): PEFT's plain
`linear` and `ties` merge A and B separately, which isn't what the papers describe.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from burnish.core.atomic import write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run, find_run, new_run
from burnish.models.artifact import Artifact, find_base, open_artifact, save_artifact
from burnish.models.find_artifact import find_artifact
from burnish.models.load import load_model, load_tokenizer

#: `how` → PEFT's name of it.
COMBINATION_TYPES = {
    "linear": "cat",
    "svd": "svd",
    "ties": "ties_svd",
    "dare_ties": "dare_ties_svd",
}

#: PEFT's name of the only adapter of a model.
_DEFAULT_ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """How the updates of the adapters are merged.

    `linear`: their weighted sum, exactly; the ranks add up. `svd`: the best approximation of that
    sum of rank `rank` (the largest one if 0). `ties`: the largest share `density` of each update,
    the majority sign of their sum, and only values that agree with it (Yadav et al. 2023,
    arXiv:2306.01708). `dare_ties`: a random share, chosen by `seed` and scaled up, instead of the
    largest (Yu et al. 2023, arXiv:2311.03099).
    """

    how: str = "linear"
    density: float = 0.5
    rank: int = 0
    seed: int = 0


def merge(
    sources: Sequence[str], weights: Sequence[float], merging: MergeOptions, out: Path | None = None
) -> Run:
    """Merge the adapters of runs into a new run.

    Raises NotFound for an unknown run; BadRecipe for adapters that can't be merged (another kind,
    another base) and a wrong number of weights.
    """
    if merging.how not in COMBINATION_TYPES or not 0 < merging.density <= 1:
        raise BadRecipe(
            f"There is no merge method {merging.how} with density {merging.density}.",
            f"Methods: {', '.join(COMBINATION_TYPES)}; a density is above 0 and at most 1.",
        )
    if len(sources) < 2 or len(weights) != len(sources):
        raise BadRecipe(
            f"{len(sources)} adapters and {len(weights)} weights are named.",
            "Name two or more runs, and --weight once for each.",
        )
    artifacts = [_open_lora(source) for source in sources]
    first = artifacts[0]
    for source, other in zip(sources, artifacts, strict=True):
        for fact in ("base", "template_sha256"):
            if other.lineage[fact] != first.lineage[fact]:
                raise BadRecipe(
                    f"{source} and {sources[0]} differ in their {fact.split('_')[0]}.",
                    "Merge adapters that were trained on the same model.",
                )
        if other.system != first.system:
            say(f"{source} was trained with another system prompt; that of {sources[0]} is kept.")
    model = merge_adapters(artifacts, weights, merging)
    facts = {
        "merged": [
            {"run": str(one.lineage["run"]), "weight": weight, "files": one.lineage["files"]}
            for one, weight in zip(artifacts, weights, strict=True)
        ],
        **asdict(merging),
    }
    recipe = make_recipe(first.lineage["recipe"], noted=False)
    data = {name: digest for one in artifacts for name, digest in one.lineage["data"].items()}
    run = new_run("merge", recipe, {"data": data, "base": first.lineage["base"], **facts}, out)
    base = find_base(first)
    lineage = {
        **{name: first.lineage[name] for name in ("system", "task", "recipe", "quantized")},
        "thoughts": max(one.reasoning_tokens for one in artifacts),
        "data": data,
        "versions": run.read("inputs.json")["versions"],
        "run": run.id,
        **facts,
    }
    save_artifact(run.artifact, model, load_tokenizer(base), base, lineage)
    write_json(run.path / "report.json", {"run": run.id, "artifact": str(run.artifact), **facts})
    run.events.write(event="merged", how=merging.how)
    return run


def merge_adapters(
    artifacts: Sequence[Artifact], weights: Sequence[float], merging: MergeOptions
) -> Any:
    """Return the base in float32 with one adapter, merged from those of the artifacts."""
    model: Any = load_model(find_base(artifacts[0]), torch.float32, torch.device("cpu"))
    names = [f"part{number}" for number in range(len(artifacts))]
    for name, artifact in zip(names, artifacts, strict=True):
        model = _add_adapter(model, artifact.path, name)
    for config in model.peft_config.values():
        # The factors go into the matrices; PEFT would apply those of the first one's kind again.
        config.use_rslora = False
    _check_rank(model, merging.rank)
    torch.manual_seed(merging.seed)
    settings: dict[str, Any] = {}
    if merging.how != "linear":
        settings = {"svd_rank": merging.rank or None, "svd_full_matrices": False}
    if "ties" in merging.how:
        settings["density"] = merging.density
    with torch.no_grad():
        model.add_weighted_adapter(
            names, list(weights), _DEFAULT_ADAPTER, COMBINATION_TYPES[merging.how], **settings
        )
    for name in names:
        model.delete_adapter(name)
    return model


def _check_rank(model: Any, rank: int) -> None:
    max_rank = min(
        min(layer.base_layer.weight.shape) for layer in model.modules() if hasattr(layer, "lora_A")
    )
    if rank > max_rank:
        raise BadRecipe(
            f"Rank {rank} is more than {max_rank}, the width of the narrowest layer.",
            f"Set --rank to at most {max_rank}.",
        )


def _add_adapter(model: Any, folder: Path, name: str) -> Any:
    if hasattr(model, "peft_config"):
        model.load_adapter(str(folder), name, autocast_adapter_dtype=False)
        return model
    return PeftModel.from_pretrained(model, str(folder), name, autocast_adapter_dtype=False)


def _open_lora(source: str) -> Artifact:
    """Open the LoRA adapter of a run. Raises NotFound, and BadRecipe for another artifact."""
    artifact = find_artifact(source) or open_artifact(find_run(source).artifact)
    method = _method(artifact) if artifact.kind == "adapter" else "no adapter"
    if method != "lora":
        raise BadRecipe(
            f"{source} has {method}, and only adapters of train.method=lora can be merged.",
            "Name runs of that method. The updates of qlora, dora and others aren't a product of "
            "two matrices on the base's own weights.",
        )
    return artifact


def _method(artifact: Artifact) -> str:
    train = artifact.lineage.get("recipe", {}).get("train", {})
    return str(train.get("method", {}).get("kind", "an adapter without its recipe"))
