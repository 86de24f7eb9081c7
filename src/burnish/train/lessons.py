"""What a local teacher says at every learnt place, asked once and kept on the disk.

The lessons lie under `<workspace>/cache/lessons/<hash>`, the hash being that of the teacher's
weights, the rows as tokens, the temperature and how many tokens are kept; so another training on
the same rows asks nobody. A block of rows is two files of plain numbers, read where they lie.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.folders import hash_json, whole_file
from burnish.core.progress import progress
from burnish.core.settings import workspace
from burnish.core.teaching import Distillation
from burnish.engines.local import find_artifact, weights_hash
from burnish.models.artifact import load_artifact_model
from burnish.models.chat import Encoded
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local import find_model
from burnish.train.adapters import language_model
from burnish.train.attention import ATTENTION
from burnish.train.batches import micro_batches
from burnish.train.divergence import kept
from burnish.train.examples import Example, Taught
from burnish.train.flat import flatten
from burnish.train.layers import fuse
from burnish.train.loop import Fit
from burnish.train.losses import LinearCrossEntropy
from burnish.train.objectives import predicting

#: Rows of a block: what a death costs.
_BLOCK = 256


def with_lessons(plan: Fit, tokenizer: PreTrainedTokenizerBase) -> Fit:
    """The plan whose rows know what the teacher says; as it is for objectives without a teacher.

    Raises BadRecipe if no teacher is named, or if it reads text as other tokens than the student.
    """
    settings = plan.settings.objective
    if not isinstance(settings, Distillation):
        return plan
    if not settings.teacher:
        raise BadRecipe(
            "No teacher is named.",
            "Set train.objective.teacher to a run or a model of this machine.",
        )
    rows = [*plan.rows, *plan.validation]
    # The student's virtual tokens are its own; the teacher reads the text.
    asked = [_without_virtual(row) for row in rows]
    dtype = next(plan.language.parameters()).dtype
    blocks = [asked[begin : begin + _BLOCK] for begin in range(0, len(asked), _BLOCK)]
    stem = _folder(settings, dtype, asked)
    missing = [number for number in range(len(blocks)) if not _files(stem, number)[1].exists()]
    if missing:
        # Loading draws random numbers; a training must not depend on whether it was needed.
        with torch.random.fork_rng(), progress("Asking the teacher", total=len(blocks)) as bar:
            teacher = load_teacher(settings.teacher, dtype, tokenizer)
            bar.advance(len(blocks) - len(missing))
            for number in missing:
                _write(stem, number, _measure(teacher, blocks[number], plan, settings))
                bar.advance()
    read = (row for number, block in enumerate(blocks) for row in _read(stem, number, block))
    known = [replace(lesson, row=row.answers[0]) for lesson, row in zip(read, rows, strict=True)]
    cut = len(plan.rows)
    return replace(plan, rows=known[:cut], validation=known[cut:])


def _folder(settings: Distillation, dtype: torch.dtype, rows: Sequence[Example]) -> Path:
    said = [[list(answer.ids), _places(row)] for row in rows for answer in row.answers]
    of_whom = [weights_hash(settings.teacher), str(dtype)]
    key = hash_json([of_whom, settings.temperature, settings.top_k, said])
    return workspace() / "cache" / "lessons" / key[:24]


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    """Tokens and log-probabilities of a block; the second one is written last."""
    return folder / f"{number:05}-tokens.npy", folder / f"{number:05}-logprobs.npy"


def load_teacher(source: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The teacher, ready to read flat batches. Raises BadRecipe for another tokenizer."""
    artifact = find_artifact(source)
    if artifact and artifact.kind == "virtual":
        raise BadRecipe(
            f"{source} answers behind virtual tokens, which the student doesn't have.",
            "Name a teacher of train.method=lora or full.",
        )
    if artifact:
        model, own = load_artifact_model(artifact, dtype)
        model = model.merge_and_unload() if hasattr(model, "peft_config") else model
    else:
        base = find_model(source)
        model, own = load_model(base, dtype), load_tokenizer(base)
    if own.get_vocab() != tokenizer.get_vocab():
        raise BadRecipe(
            f"{source} has another tokenizer than the student, so their distributions can't be "
            "compared token by token.",
            "Set train.objective=sft: the student then learns from the teacher's words.",
        )
    language = language_model(model)
    language.set_attn_implementation(ATTENTION)
    fuse(model)
    return language.eval()


@torch.no_grad()
def _measure(
    teacher: Any, rows: Sequence[Example], plan: Fit, settings: Distillation
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, k) and log-probabilities (n, k + 1) of all learnt places, row after row."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    numbers = {id(row): number for number, row in enumerate(rows)}
    for some in micro_batches(rows, plan.settings.micro_batch_tokens):
        hidden, head = predicting(teacher, flatten(some, plan.accelerator.device))
        parts = []
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            logits = (hidden[begin : begin + LinearCrossEntropy.CHUNK] @ head.T).float()
            parts.append(kept(logits, settings.temperature, settings.top_k))
        tokens = torch.cat([part.tokens for part in parts]).cpu().numpy().astype(np.int32)
        logprobs = torch.cat([part.logprobs for part in parts]).cpu().numpy()
        begin = 0
        for row in some:
            end = begin + len(_places(row))
            found[numbers[id(row)]] = tokens[begin:end], logprobs[begin:end]
            begin = end
    ordered = [found[number] for number in range(len(rows))]
    return tuple(np.concatenate(side) for side in zip(*ordered, strict=True))  # type: ignore[return-value]


def taught(teacher: Any, rows: Sequence[Example], plan: Fit) -> list[Taught]:
    """The rows with what a teacher in memory says at their learnt places."""
    settings = plan.settings.objective
    assert isinstance(settings, Distillation)
    said = _measure(teacher, [_without_virtual(row) for row in rows], plan, settings)
    return _apart(rows, *said)


def _write(folder: Path, number: int, block: tuple[np.ndarray, np.ndarray]) -> None:
    for path, numbers in zip(_files(folder, number), block, strict=True):
        with whole_file(path) as file:
            np.save(file, numbers, allow_pickle=False)


def _without_virtual(row: Example) -> Encoded:
    own = row.answers[0]
    count = sum(token < 0 for token in own.ids)
    return Encoded(own.ids[count:], own.weights[count:], own.truncated)


def _read(folder: Path, number: int, rows: Sequence[Example]) -> list[Taught]:
    """The rows with their lessons, which stay on the disk until they are used."""
    tokens, logprobs = (
        np.load(path, mmap_mode="r", allow_pickle=False) for path in _files(folder, number)
    )
    return _apart(rows, tokens, logprobs)


def _apart(rows: Sequence[Example], tokens: np.ndarray, logprobs: np.ndarray) -> list[Taught]:
    """What was said at the places of all rows, row by row."""
    known: list[Taught] = []
    begin = 0
    for row in rows:
        end = begin + len(_places(row))
        known.append(Taught(row.answers[0], tokens[begin:end], logprobs[begin:end]))
        begin = end
    return known


def _places(row: Example) -> list[int]:
    """The learnt places of a row, in the order in which a batch has them."""
    weights = row.answers[0].weights
    return [place for place in range(1, len(weights)) if weights[place] > 0]
