"""An adapter trained on top of another one: `train.method.stack_on`.

The lower adapter is merged into the frozen weights in memory, so a step costs no more than without
it. The saved adapter is one of the untouched base: both updates, B1 A1 + B2 A2.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel

from burnish.core.errors import BadRecipe
from burnish.core.runs import find_run
from burnish.models.artifact import find_base, open_artifact

#: PEFT's names of the trained adapter, of the lower one, and of their sum.
_TOP, _BELOW, _BOTH = "default", "below", "both"


def adapter_below(model: Any, name: str) -> Path:
    """Return the folder of a run's LoRA adapter of this base. Raises NotFound, BadRecipe."""
    artifact = open_artifact(find_run(name).artifact)
    method = artifact.lineage.get("recipe", {}).get("train", {}).get("method", {})
    is_lora = artifact.kind == "adapter" and method.get("kind") == "lora"
    if not is_lora or find_base(artifact).path != Path(model.name_or_path):
        raise BadRecipe(
            f"{name} has no LoRA adapter of this base model.",
            "Name a run of train.method=lora on the same model in train.method.stack_on.",
        )
    return artifact.path


def merge_below(model: Any, below: Path) -> Any:
    """Return the model with an adapter merged into its weights, in their number format."""
    adapted: Any = PeftModel.from_pretrained(model, str(below), autocast_adapter_dtype=False)
    return adapted.to(model.dtype).merge_and_unload()


def combine_with_base_adapter(model: Any, below: Path) -> None:
    """Turn the trained adapter into one of the untouched base: both updates, their ranks added.

    The lower adapter stays merged into the model in memory, which must not be used afterwards.
    """
    model.load_adapter(str(below), _BELOW, autocast_adapter_dtype=False)
    for config in model.peft_config.values():
        # The factors go into the matrices; PEFT would apply those of the first one's kind again.
        config.use_rslora = False
    model.add_weighted_adapter([_BELOW, _TOP], [1.0, 1.0], _BOTH, "cat")
    model.delete_adapter(_TOP)
    # PEFT saves the adapter called default without a folder of its own.
    model.add_weighted_adapter([_BOTH], [1.0], _TOP, "cat")
    for name in (_BELOW, _BOTH):
        model.delete_adapter(name)
