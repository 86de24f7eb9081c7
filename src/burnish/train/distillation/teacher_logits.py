"""What a local teacher says at every learnt place, asked once and kept on the disk.

The lessons lie under `<workspace>/cache/lessons/<hash>`, the hash being that of the teacher's
weights, the rows as tokens, the temperature and how many tokens are kept; so another training on
the same rows asks nobody. A block of rows is two files of plain numbers, read where they lie.

A teacher with other tokens reads the rows by its own template, and what it says is matched with the
student's tokens before it is kept (train.matching).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.atomic import hash_json, whole_file
from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import progress
from burnish.core.recipe.objectives import Distillation
from burnish.core.records import Row
from burnish.core.settings import workspace
from burnish.models.artifact import load_artifact_model
from burnish.models.chat_template import Encoded, encode_row
from burnish.models.find_artifact import find_artifact, weights_hash
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import find_model
from burnish.train.adapters.registry import language_model
from burnish.train.batching.examples import Example, Matched, Taught
from burnish.train.batching.micro_batches import micro_batches, trimmed
from burnish.train.batching.packed import flatten
from burnish.train.batching.token_alignment import Pairing
from burnish.train.kernels.fused_layers import fuse
from burnish.train.kernels.packed_attention import ATTENTION
from burnish.train.loop.language_model import Fit
from burnish.train.losses.cross_tokenizer import matched
from burnish.train.losses.divergence import kept
from burnish.train.losses.linear import LinearCrossEntropy
from burnish.train.objectives.registry import predicting

#: Rows of a block: what a death costs.
_BLOCK = 256


#: What of a teacher's logits (places, vocabulary), which may be overwritten, is kept for the learnt
#: tokens (places,): tokens and log-probabilities.
Told = Callable[[torch.Tensor, torch.Tensor, Distillation], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows as the student learns them (without its virtual tokens), and as the teacher reads them;
    `pairing` is None where both have the same tokens."""

    rows: Sequence[Encoded]
    read: Sequence[Encoded]
    pairing: Pairing | None = None

    def block(self, number: int) -> "Asked":
        """The rows of a block."""
        part = slice(number * _BLOCK, (number + 1) * _BLOCK)
        return Asked(self.rows[part], self.read[part], self.pairing)


def with_lessons(plan: Fit, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] = ()) -> Fit:
    """The plan whose rows know what the teacher says; as it is for objectives without a teacher.

    `rows` are those of the plan before they were tokens, which a teacher with other tokens reads.
    Raises BadRecipe if no teacher is named, BadData for plain text read as other tokens.
    """
    settings = plan.settings.objective
    if not isinstance(settings, Distillation):
        return plan
    if not settings.teacher:
        raise BadRecipe(
            "No teacher is named.",
            "Set train.objective.teacher to a run or a model of this machine.",
        )
    known = [*plan.rows, *plan.validation]
    asked = _asked(known, rows, plan, tokenizer)
    dtype = next(plan.language.parameters()).dtype
    stem = _folder(settings, dtype, asked)
    blocks = range(-(-len(known) // _BLOCK))
    missing = [number for number in blocks if not _files(stem, number)[1].exists()]
    if missing:
        # Loading draws random numbers; a training must not depend on whether it was needed.
        with torch.random.fork_rng(), progress("Asking the teacher", total=len(blocks)) as bar:
            teacher = load_teacher(settings.teacher, dtype)
            bar.advance(len(blocks) - len(missing))
            for number in missing:
                _write(stem, number, _said(teacher, asked.block(number), plan, settings))
                bar.advance()
    kind = Taught if asked.pairing is None else Matched
    lessons: list[Example] = []
    for number in blocks:
        places = [len(_places(row)) for row in asked.block(number).rows]
        own = known[len(lessons) : len(lessons) + len(places)]
        parts = _apart(_read(stem, number), places)
        lessons += [kind(row.answers[0], *part) for row, part in zip(own, parts, strict=True)]
    cut = len(plan.rows)
    return replace(plan, rows=lessons[:cut], validation=lessons[cut:])


def _asked(
    known: Sequence[Example], rows: Sequence[Row], plan: Fit, tokenizer: PreTrainedTokenizerBase
) -> Asked:
    settings = plan.settings.objective
    assert isinstance(settings, Distillation)
    # The student's virtual tokens are its own; the teacher reads the text.
    ours = [_without_virtual(row) for row in known]
    own = teachers_tokenizer(settings.teacher)
    if same_tokens(own, tokenizer):
        return Asked(ours, ours)
    if any(row.text is not None for row in rows):
        raise BadData(
            f"Some rows are plain text, and {settings.teacher} has another tokenizer than the "
            "student: only answers to questions can be matched.",
            "Write conversations, or name a teacher with the student's tokenizer.",
        )
    most = plan.settings.max_length
    theirs = [trimmed(encode_row(own, row, most)) for row in rows]
    return Asked(ours, theirs, Pairing(tokenizer, own))


def _folder(settings: Distillation, dtype: torch.dtype, asked: Asked) -> Path:
    def tokens(rows: Sequence[Encoded]) -> list[object]:
        return [[list(row.ids), _places(row)] for row in rows]

    of_whom = [weights_hash(settings.teacher), str(dtype)]
    said: list[object] = [of_whom, settings.temperature, settings.top_k, tokens(asked.read)]
    if asked.pairing:
        words = sorted(asked.pairing.ours.tokenizer.get_vocab().items())
        said += [tokens(asked.rows), hash_json(words)]
    return workspace() / "cache" / "lessons" / hash_json(said)[:24]


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    """Tokens and log-probabilities of a block; the second one is written last."""
    return folder / f"{number:05}-tokens.npy", folder / f"{number:05}-logprobs.npy"


def teacher_beside(plan: Fit, source: str) -> Any:
    """The teacher in memory, on the student's device and in its number format."""
    # Loading draws random numbers; what is learnt must not depend on it.
    with torch.random.fork_rng():
        dtype = next(plan.language.parameters()).dtype
        return load_teacher(source, dtype).to(plan.accelerator.device)


def load_teacher(source: str, dtype: torch.dtype) -> Any:
    """The teacher, ready to read flat batches."""
    artifact = find_artifact(source)
    if artifact and artifact.kind == "virtual":
        raise BadRecipe(
            f"{source} answers behind virtual tokens, which the student doesn't have.",
            "Name a teacher of train.method=lora or full.",
        )
    if artifact:
        model, _ = load_artifact_model(artifact, dtype)
        model = model.merge_and_unload() if hasattr(model, "peft_config") else model
    else:
        model = load_model(find_model(source), dtype)
    language = language_model(model)
    language.set_attn_implementation(ATTENTION)
    fuse(model)
    return language.eval()


def teachers_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """How a teacher reads. Raises NotFound."""
    artifact = find_artifact(source)
    if artifact is None:
        return load_tokenizer(find_model(source))
    return AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers have the same tokens by the same numbers."""
    return one.get_vocab() == other.get_vocab()


def _said(
    teacher: Any, asked: Asked, plan: Fit, settings: Distillation
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probabilities of all learnt places of some rows, row after row."""
    if asked.pairing is None:
        parts = _measure(teacher, asked.read, plan, _likeliest)
    else:
        told = _measure(teacher, asked.read, plan, _likeliest_and_learnt)
        both = zip(asked.rows, asked.read, told, strict=True)
        parts = [matched(ours, theirs, said, asked.pairing) for ours, theirs, said in both]
    return tuple(np.concatenate(side) for side in zip(*parts, strict=True))  # type: ignore[return-value]


def _likeliest(
    logits: torch.Tensor, learnt: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens (n, k); their log-probabilities and that of all others (n, k + 1)."""
    lesson = kept(logits, settings.temperature, settings.top_k)
    return lesson.tokens, lesson.logprobs


def _likeliest_and_learnt(
    logits: torch.Tensor, learnt: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens (n, k); the log-probabilities (n, 1 + k) of the learnt one and these."""
    own = logits.gather(1, learnt[:, None]) / settings.temperature
    own = own - (logits / settings.temperature).logsumexp(-1, keepdim=True)
    lesson = kept(logits, settings.temperature, settings.top_k)
    return lesson.tokens, torch.cat([own, lesson.logprobs[:, :-1]], 1)


@torch.no_grad()
def _measure(
    teacher: Any, rows: Sequence[Encoded], plan: Fit, told: Told
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is `told` of the learnt places of each row."""
    settings = plan.settings.objective
    assert isinstance(settings, Distillation)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    numbers = {id(row): number for number, row in enumerate(rows)}
    for some in micro_batches(rows, plan.settings.micro_batch_tokens):
        batch = flatten(some, plan.accelerator.device)
        hidden, head = predicting(teacher, batch)
        parts = []
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            parts.append(told((hidden[part] @ head.T).float(), batch.targets[part], settings))
        tokens, logprobs = (torch.cat(side).cpu().numpy() for side in zip(*parts, strict=True))
        places = [len(_places(row)) for row in some]
        apart = _apart((tokens.astype(np.int32), logprobs), places)
        found |= {numbers[id(row)]: own for row, own in zip(some, apart, strict=True)}
    return [found[number] for number in range(len(rows))]


def taught(teacher: Any, rows: Sequence[Example], plan: Fit) -> list[Taught]:
    """The rows with what a teacher in memory, of the same tokens, says at their learnt places."""
    said = _measure(teacher, [_without_virtual(row) for row in rows], plan, _likeliest)
    return [Taught(row.answers[0], *own) for row, own in zip(rows, said, strict=True)]


def _write(folder: Path, number: int, block: tuple[np.ndarray, np.ndarray]) -> None:
    for path, numbers in zip(_files(folder, number), block, strict=True):
        with whole_file(path) as file:
            np.save(file, numbers, allow_pickle=False)


def _without_virtual(row: Example) -> Encoded:
    own = row.answers[0]
    count = sum(token < 0 for token in own.ids)
    return Encoded(own.ids[count:], own.weights[count:], own.truncated)


def _read(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A block, which stays on the disk until it is used."""
    tokens, logprobs = (
        np.load(path, mmap_mode="r", allow_pickle=False) for path in _files(folder, number)
    )
    return tokens, logprobs


def _apart(
    block: tuple[np.ndarray, np.ndarray], places: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What was said at the places of all rows, row by row."""
    ends = np.cumsum(places)
    tokens, logprobs = block
    return [
        (tokens[end - own : end], logprobs[end - own : end])
        for own, end in zip(places, ends, strict=True)
    ]


def _places(row: Example) -> list[int]:
    """The learnt places of a row, in the order in which a batch has them."""
    weights = row.answers[0].weights
    return [place for place in range(1, len(weights)) if weights[place] > 0]
