"""What does it cost that the rows of a pass have different adapters?

    OMP_NUM_THREADS=1 python benchmarks/mixed_adapters.py --rows 16 --adapters 1 8 16 --json

One token for each row, by a base with random LoRA adapters (rank 8): without adapters, with PEFT's
mixed batches (`adapter_names`), and with ours (`engines/weights.py`), in turn. The figures
are the least processor seconds of a pass, which other work on the machine disturbs little; and how
far our logits are from PEFT's.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.artifact import save_artifact
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import find_model


def loaded(name: str, count: int, rank: int) -> tuple[MultiLoraModel, list[str], PeftModel]:
    """A base with so many random adapters and their keys; and the same as PEFT has it."""
    base = find_model(name)
    weights = MultiLoraModel(load_model(base, torch.float32))
    shape = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model, tokenizer = get_peft_model(load_model(base, torch.float32), shape), load_tokenizer(base)
    keys, theirs = [], None
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if "lora_" in key:
                        weight.normal_(0, 0.02)
            place = Path(folder) / str(number)
            save_artifact(place, model, tokenizer, base, {"run": str(number)})
            keys.append(weights.add(place, torch.float32))
            if theirs:
                theirs.load_adapter(str(place), keys[-1], autocast_adapter_dtype=False)
            else:
                plain = load_model(base, torch.float32)
                theirs = PeftModel.from_pretrained(plain, str(place), keys[-1])
    assert theirs
    return weights, keys, theirs.eval()


def least(passes: dict[str, Callable[[], torch.Tensor]], times: int) -> dict[str, float]:
    """The least processor seconds of each, taken in turn."""
    found = {name: float("inf") for name in passes}
    for turn in range(times + 1):
        for name, one in passes.items():
            begun = time.process_time()
            one()
            if turn:  # the first is a rehearsal
                found[name] = min(found[name], time.process_time() - begun)
    return found


@torch.inference_mode()
def measured(
    weights: MultiLoraModel, keys: list[str], theirs: PeftModel, rows: int, times: int
) -> dict[str, float]:
    """One row of the table."""
    own = [keys[row % len(keys)] for row in range(rows)]
    ids = torch.arange(rows)[:, None] + 50

    def base() -> torch.Tensor:
        with weights.only_adapter(None):
            return torch.as_tensor(weights.model(ids, use_cache=False).logits)

    def peft() -> torch.Tensor:
        return torch.as_tensor(theirs(input_ids=ids, use_cache=False, adapter_names=own).logits)

    def ours() -> torch.Tensor:
        with weights.rows_with_adapters(own):
            return torch.as_tensor(weights.model(ids, use_cache=False).logits)

    apart = float((ours() - peft()).abs().max())
    seconds = least({"base": base, "peft": peft, "ours": ours}, times)
    return {"rows": rows, "adapters": len(keys), **seconds, "largest_difference": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    weights, keys, theirs = loaded(options.model, max(options.adapters), options.rank)
    found = [
        measured(weights, keys[:count], theirs, options.rows, options.times)
        for count in sorted(options.adapters)
    ]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(
            f"{row['rows']} rows of {row['adapters']:2} adapters: base {row['base'] * 1e3:.0f} ms, "
            f"PEFT {row['peft'] * 1e3:.0f} ms, ours {row['ours'] * 1e3:.0f} ms; logits differ by "
            f"at most {row['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
