"""Several adapters of one base as GGUF files: llama.cpp holds the base once and switches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.core.errors import BadData
from burnish.export.gguf import write_gguf
from burnish.export.gguf_lora import refuse_rounded, write_gguf_adapter
from burnish.models.artifact import Artifact
from burnish.models.merge import adapted_model, merged_model


def write_several(
    folder: Path, base: Artifact, adapters: Mapping[str, Artifact], quant: str
) -> dict[str, Any]:
    """Write `base-QUANT.gguf` and `NAME.gguf` for each adapter into `folder`; returns their names.

    Raises BadData for an adapter of another base, CannotExport for one that isn't plain LoRA, or
    was trained rounded.
    """
    wanted = base.lineage["base"]["sha256"]
    strange = [n for n, one in adapters.items() if one.lineage["base"]["sha256"] != wanted]
    if strange:
        raise BadData(
            f"{', '.join(strange)} was trained on another base than {base.base}.",
            "Adapters share a base only if they were trained on it.",
        )
    for name, artifact in adapters.items():
        refuse_rounded(artifact)
        write_gguf_adapter(folder / f"{name}.gguf", adapted_model(artifact)[0])
    model, tokenizer = merged_model(base)
    file = folder / f"base-{quant}.gguf"
    write_gguf(file, model, tokenizer, quant, base.base)
    return {"base": file.name, "adapters": {name: f"{name}.gguf" for name in adapters}}
