"""GGUF file → safetensors folder, with a tokenizer proven equal.

`transformers` dequantizes the weights but rebuilds the tokenizer by guessing: it loses the digit
splitting of SmolLM2 (11 of 63 texts came out differently from llama.cpp). So the pre-tokenizer is
set from the name in the file, an unknown name is rejected, and the result is compared with the
file's own tables before anybody trains on it.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from burnish.core.errors import PullFailed

_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

#: `tokenizer.ggml.pre` → how text is cut before merging (llama.cpp, src/llama-vocab.cpp).
PRE_TOKENIZERS: dict[str, Any] = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL]),
    "gpt-2": _BYTE_LEVEL,
}

TOKENIZER_TEST_TEXTS = (
    "The capital of France is Paris.",
    "1234567890 and 3.14159, 2026-11-21",
    "\n\n1. first\n\n2. second\t\ttabs   spaces ",
    "Ελληνικά, русский, 日本語, العربية, עברית",
    "naïve café — “quotes” … ½ €100",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x**2}",
    "👩‍👩‍👧‍👦 🇬🇷 👍🏽",
    "ALLCAPS camelCase snake_case kebab-case http",
    "it's we'll they've I'm you're he'd",
    "\u200b\u00a0\ufeff",
)


def convert_gguf(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file as a safetensors folder; return what was proven.

    Raises PullFailed if the tokenizer isn't known to convert losslessly.
    """
    reader = gguf.GGUFReader(file)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(folder)
    if _read_field(reader, "tokenizer.ggml.model") == "gpt2":
        _set_pre_tokenizer(folder, str(_read_field(reader, "tokenizer.ggml.pre")))
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return {"proof": check_tokenizer(loaded, reader), "context_length": _context_length(reader)}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, reader: gguf.GGUFReader) -> dict[str, str]:
    """Compare a tokenizer with a GGUF file's own tables. Raises PullFailed at a difference."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = _read_field(reader, "tokenizer.ggml.tokens")
    ours = tokenizer.convert_ids_to_tokens(list(range(len(tokens))))
    _check_equal("vocabulary", ours, _with_plain_spaces(tokens, reader))
    proof = {"vocabulary": f"{len(tokens)} tokens equal"}
    if merges := _read_field(reader, "tokenizer.ggml.merges"):
        pairs = [
            pair if isinstance(pair, str) else " ".join(pair) for pair in _read_merges(backend)
        ]
        _check_equal("merges", pairs, merges)
        proof["merges"] = f"{len(merges)} merges equal"
    for name in ("bos", "eos"):
        number = _read_field(reader, f"tokenizer.ggml.{name}_token_id")
        _check_equal(f"{name} token", getattr(tokenizer, f"{name}_token_id"), number)
        proof[name] = tokens[number]
    template = _read_field(reader, "tokenizer.chat_template")
    _check_equal("chat template", tokenizer.chat_template, template)
    proof["template"] = "equal" if template else "none"
    proof["round_trip"] = _check_round_trips(tokenizer)
    return proof


def _with_plain_spaces(tokens: list[str], reader: gguf.GGUFReader) -> list[str]:
    """Return the file's tokens; SentencePiece writes a space as ▁, the file does in most tokens
    only."""
    if _read_field(reader, "tokenizer.ggml.model") != "llama":
        return tokens
    return [token.replace(" ", "▁") for token in tokens]


def _set_pre_tokenizer(folder: Path, name: str) -> None:
    if name not in PRE_TOKENIZERS:
        raise PullFailed(
            f"The GGUF file's pre-tokenizer `{name}` cannot be converted losslessly.",
            f"Pull the model's original from its hub id. Known: {', '.join(PRE_TOKENIZERS)}.",
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    # A model-specific class would rebuild, and lose, the pre-tokenizer at loading.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _read_merges(backend: dict[str, Any]) -> list[Any]:
    return list(backend["model"].get("merges", []))


def _check_round_trips(tokenizer: PreTrainedTokenizerBase) -> str:
    for text in TOKENIZER_TEST_TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        _check_equal("round trip", back, text)
    return f"{len(TOKENIZER_TEST_TEXTS)} texts"


def _check_equal(what: str, converted: object, expected: object) -> None:
    if converted != expected:
        raise PullFailed(
            f"The converted tokenizer differs from the file's own: {what}.",
            "Nothing was kept. Pull the model's original from its hub id instead.",
        )


def _read_field(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _context_length(reader: gguf.GGUFReader) -> int:
    return int(_read_field(reader, f"{_read_field(reader, 'general.architecture')}.context_length"))
