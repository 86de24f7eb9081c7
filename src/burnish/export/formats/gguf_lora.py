"""A LoRA adapter as a GGUF file beside its base: llama.cpp adds it when it answers.

Several adapters can then share one base. DoRA and IA3 have no such file: they are merged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from peft import PeftModel

from burnish.core.errors import BadData
from burnish.export.formats.gguf import map_layer_tensor, write_gguf
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.models.artifact import Artifact
from burnish.models.merge import load_adapted_model, load_merged_model


def write_gguf_adapter(path: Path, adapted: PeftModel) -> None:
    """Write the adapter of a PEFT model of the Llama family, its scaling inside the weights.

    Raises CannotExport for another method than LoRA, or a layer that has no place in the file.
    """
    config: Any = adapted.peft_config["default"]
    if config.peft_type != "LORA" or config.use_dora:
        raise CannotExport(
            "Only a plain LoRA adapter can be a GGUF file.", "Use --to gguf, which merges it."
        )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / rank, unless alpha is 0; rsLoRA and alphas of single layers
    # scale otherwise.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    model_config = adapted.get_base_model().config
    for name, (down, up) in extract_lora_pairs(adapted, "Use --to gguf.").items():
        target, layer, arranged = map_layer_tensor(f"{name}.weight", up, model_config)
        place = f"blk.{layer}.{target}.weight"
        writer.add_tensor(f"{place}.lora_a", down.cpu().numpy())
        writer.add_tensor(f"{place}.lora_b", arranged.cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def extract_lora_pairs(
    adapted: PeftModel, instead: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A LoRA adapter by layer, float32: A (rank, in), and B (out, rank) with the scaling.

    Raises CannotExport, with what to do `instead`, if the embedding is adapted too.
    """
    found = {}
    for name, module in adapted.get_base_model().named_modules():
        if "default" in getattr(module, "lora_embedding_A", {}):
            raise CannotExport("The embedding has an adapter too.", instead)
        if "default" in getattr(module, "lora_A", {}):
            down = module.lora_A["default"].weight.detach().float()
            up = module.lora_B["default"].weight.detach().float()
            found[name] = (down, up * module.scaling["default"])
    return found


def check_not_rounded(artifact: Artifact) -> None:
    """Raises CannotExport for an adapter that was trained on weights rounded with it inside."""
    if artifact.rounding_format:
        raise CannotExport(
            f"This adapter was trained to be rounded as {artifact.rounding_format} "
            "inside its base's "
            "weights; beside them it is another model.",
            f"Use --to gguf --quant {artifact.rounding_format}, which merges it.",
        )


def write_multi_lora_gguf(
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
        check_not_rounded(artifact)
        write_gguf_adapter(folder / f"{name}.gguf", load_adapted_model(artifact)[0])
    model, tokenizer = load_merged_model(base)
    file = folder / f"base-{quant}.gguf"
    write_gguf(file, model, tokenizer, quant, base.base)
    return {"base": file.name, "adapters": {name: f"{name}.gguf" for name in adapters}}
