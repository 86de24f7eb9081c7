"""A LoRA adapter as a GGUF file beside its base: llama.cpp applies it at inference.

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
    """Write the adapter of a PEFT model of the Llama family, its scaling folded into the weights.

    Raises CannotExport for another method than LoRA, or a layer that GGUF doesn't have.
    """
    config: Any = adapted.peft_config["default"]
    if config.peft_type != "LORA" or config.use_dora:
        raise CannotExport(
            "Only a plain LoRA adapter can be a GGUF file.", "Use --to gguf, which merges it."
        )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / rank, unless alpha is 0; rsLoRA and per-layer alphas scale
    # differently.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    model_config = adapted.get_base_model().config
    for name, (down, up) in extract_lora_pairs(adapted, "Use --to gguf.").items():
        target, layer, permuted = map_layer_tensor(f"{name}.weight", up, model_config)
        tensor_name = f"blk.{layer}.{target}.weight"
        writer.add_tensor(f"{tensor_name}.lora_a", down.cpu().numpy())
        writer.add_tensor(f"{tensor_name}.lora_b", permuted.cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def extract_lora_pairs(
    adapted: PeftModel, instead: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return a LoRA adapter by layer, float32: A (rank, in), and B (out, rank) with the scaling.

    Raises CannotExport, with `instead` as the remedy, if the embedding is adapted too.
    """
    pairs = {}
    for name, module in adapted.get_base_model().named_modules():
        if "default" in getattr(module, "lora_embedding_A", {}):
            raise CannotExport("The embedding has an adapter too.", instead)
        if "default" in getattr(module, "lora_A", {}):
            down = module.lora_A["default"].weight.detach().float()
            up = module.lora_B["default"].weight.detach().float()
            pairs[name] = (down, up * module.scaling["default"])
    return pairs


def check_not_rounded(artifact: Artifact) -> None:
    """Raise CannotExport for an adapter trained to be merged and rounded with its base."""
    if artifact.rounding_format:
        raise CannotExport(
            f"This adapter was trained to be merged and rounded to {artifact.rounding_format}; "
            "beside its base it is a different model.",
            f"Use --to gguf --quant {artifact.rounding_format}, which merges it.",
        )


def write_multi_lora_gguf(
    folder: Path, base: Artifact, adapters: Mapping[str, Artifact], quant: str
) -> dict[str, Any]:
    """Write `base-QUANT.gguf` and `NAME.gguf` for each adapter into `folder`; return their names.

    Raises BadData for an adapter of another base, CannotExport for one that isn't plain LoRA, or
    was trained with rounding.
    """
    wanted = base.lineage["base"]["sha256"]
    foreign = [n for n, adapter in adapters.items() if adapter.lineage["base"]["sha256"] != wanted]
    if foreign:
        raise BadData(
            f"{', '.join(foreign)} was trained on a base other than {base.base}.",
            "Adapters share a base only if they were trained on it.",
        )
    for name, artifact in adapters.items():
        check_not_rounded(artifact)
        write_gguf_adapter(folder / f"{name}.gguf", load_adapted_model(artifact)[0])
    model, tokenizer = load_merged_model(base)
    file = folder / f"base-{quant}.gguf"
    write_gguf(file, model, tokenizer, quant, base.base)
    return {"base": file.name, "adapters": {name: f"{name}.gguf" for name in adapters}}
