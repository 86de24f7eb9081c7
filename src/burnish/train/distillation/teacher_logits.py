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

from burnish.core.atomic import atomic_file, hash_json
from burnish.core.errors import BadData, BadRecipe
from burnish.core.progress import progress
from burnish.core.recipe.objectives import Distillation
from burnish.core.records import Row
from burnish.core.settings import workspace
from burnish.models.artifact import load_artifact_model
from burnish.models.chat_template import TokenizedRow, encode_row
from burnish.models.find_artifact import find_artifact, hash_weights
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import find_model
from burnish.train.adapters.registry import language_model
from burnish.train.batching.examples import CrossTokenizerExample, DistillationExample, Example
from burnish.train.batching.micro_batches import trim_to_target
from burnish.train.batching.packed import pack
from burnish.train.batching.token_alignment import TokenAligner
from burnish.train.forward.path import batches_of, target_states
from burnish.train.forward.proof import choose_forward_path
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.losses.cross_tokenizer import align_teacher_logprobs
from burnish.train.losses.divergence import top_k_logprobs
from burnish.train.losses.linear import LinearCrossEntropy, head_logits

#: Rows of a block: what a death costs.
_BLOCK = 256


#: What of a teacher's logits (places, vocabulary), which may be overwritten, is kept for the learnt
#: tokens (places,): tokens and log-probabilities.
ReadLogits = Callable[[torch.Tensor, torch.Tensor, Distillation], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """Rows as the student learns them (without its virtual tokens), and as the teacher reads them;
    `pairing` is None where both have the same tokens."""

    rows: Sequence[TokenizedRow]
    teacher_rows: Sequence[TokenizedRow]
    aligner: TokenAligner | None = None

    def block(self, number: int) -> "TeacherInputs":
        """The rows of a block."""
        part = slice(number * _BLOCK, (number + 1) * _BLOCK)
        return TeacherInputs(self.rows[part], self.teacher_rows[part], self.aligner)


def add_teacher_logits(
    plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] = ()
) -> LanguageModelModule:
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
    asked = _make_teacher_inputs(known, rows, plan, tokenizer)
    dtype = next(plan.language.parameters()).dtype
    stem = _cache_folder(settings, dtype, asked)
    blocks = range(-(-len(known) // _BLOCK))
    missing = [number for number in blocks if not _block_files(stem, number)[1].exists()]
    if missing:
        # Loading draws random numbers; a training must not depend on whether it was needed.
        with torch.random.fork_rng(), progress("Asking the teacher", total=len(blocks)) as bar:
            teacher = load_teacher(settings.teacher, dtype, plan.settings.max_length)
            bar.advance(len(blocks) - len(missing))
            for number in missing:
                _write(stem, number, _score_block(teacher, asked.block(number), plan, settings))
                bar.advance()
    kind = DistillationExample if asked.aligner is None else CrossTokenizerExample
    lessons: list[Example] = []
    for number in blocks:
        places = [len(_target_positions(row)) for row in asked.block(number).rows]
        own = known[len(lessons) : len(lessons) + len(places)]
        parts = _split_rows(_read(stem, number), places)
        lessons += [kind(row.answers[0], *part) for row, part in zip(own, parts, strict=True)]
    cut = len(plan.rows)
    return replace(plan, rows=lessons[:cut], validation=lessons[cut:])


def _make_teacher_inputs(
    known: Sequence[Example],
    rows: Sequence[Row],
    plan: LanguageModelModule,
    tokenizer: PreTrainedTokenizerBase,
) -> TeacherInputs:
    settings = plan.settings.objective
    assert isinstance(settings, Distillation)
    # The student's virtual tokens are its own; the teacher reads the text.
    ours = [_strip_virtual_tokens(row) for row in known]
    own = load_teacher_tokenizer(settings.teacher)
    if have_same_tokens(own, tokenizer):
        return TeacherInputs(ours, ours)
    if any(row.text is not None for row in rows):
        raise BadData(
            f"Some rows are plain text, and {settings.teacher} has another tokenizer than the "
            "student: only answers to questions can be matched.",
            "Write conversations, or name a teacher with the student's tokenizer.",
        )
    most = plan.settings.max_length
    theirs = [trim_to_target(encode_row(own, row, most)) for row in rows]
    return TeacherInputs(ours, theirs, TokenAligner(tokenizer, own))


def _cache_folder(settings: Distillation, dtype: torch.dtype, asked: TeacherInputs) -> Path:
    def tokens(rows: Sequence[TokenizedRow]) -> list[object]:
        return [[list(row.ids), _target_positions(row)] for row in rows]

    of_whom = [hash_weights(settings.teacher), str(dtype)]
    said: list[object] = [of_whom, settings.temperature, settings.top_k, tokens(asked.teacher_rows)]
    if asked.aligner:
        words = sorted(asked.aligner.ours.tokenizer.get_vocab().items())
        said += [tokens(asked.rows), hash_json(words)]
    return workspace() / "cache" / "lessons" / hash_json(said)[:24]


def _block_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Tokens and log-probabilities of a block; the second one is written last."""
    return folder / f"{number:05}-tokens.npy", folder / f"{number:05}-logprobs.npy"


def teacher_on_device(plan: LanguageModelModule, source: str) -> Any:
    """The teacher in memory, on the student's device and in its number format."""
    # Loading draws random numbers; what is learnt must not depend on it.
    with torch.random.fork_rng():
        dtype = next(plan.language.parameters()).dtype
        return load_teacher(source, dtype, plan.settings.max_length).to(plan.accelerator.device)


def load_teacher(source: str, dtype: torch.dtype, longest: int) -> Any:
    """Load the teacher, on the forward path that is proven for rows of up to `longest` tokens."""
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
    language.requires_grad_(False)
    choose_forward_path(language, language, source, longest)
    return language.eval()


def load_teacher_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """How a teacher reads. Raises NotFound."""
    artifact = find_artifact(source)
    if artifact is None:
        return load_tokenizer(find_model(source))
    return AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)


def have_same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers have the same tokens by the same numbers."""
    return one.get_vocab() == other.get_vocab()


def _score_block(
    teacher: Any, asked: TeacherInputs, plan: LanguageModelModule, settings: Distillation
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probabilities of all learnt places of some rows, row after row."""
    if asked.aligner is None:
        parts = _score_rows(teacher, asked.teacher_rows, plan, _top_k)
    else:
        told = _score_rows(teacher, asked.teacher_rows, plan, _target_and_top_k)
        both = zip(asked.rows, asked.teacher_rows, told, strict=True)
        parts = [
            align_teacher_logprobs(ours, theirs, said, asked.aligner) for ours, theirs, said in both
        ]
    return tuple(np.concatenate(side) for side in zip(*parts, strict=True))  # type: ignore[return-value]


def _top_k(
    logits: torch.Tensor, learnt: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens (n, k); their log-probabilities and that of all others (n, k + 1)."""
    lesson = top_k_logprobs(logits, settings.temperature, settings.top_k)
    return lesson.tokens, lesson.logprobs


def _target_and_top_k(
    logits: torch.Tensor, learnt: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens (n, k); the log-probabilities (n, 1 + k) of the learnt one and these."""
    own = logits.gather(1, learnt[:, None]) / settings.temperature
    own = own - (logits / settings.temperature).logsumexp(-1, keepdim=True)
    lesson = top_k_logprobs(logits, settings.temperature, settings.top_k)
    return lesson.tokens, torch.cat([own, lesson.logprobs[:, :-1]], 1)


@torch.no_grad()
def _score_rows(
    teacher: Any, rows: Sequence[TokenizedRow], plan: LanguageModelModule, told: ReadLogits
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is `told` of the learnt places of each row."""
    settings = plan.settings.objective
    assert isinstance(settings, Distillation)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    numbers = {id(row): number for number, row in enumerate(rows)}
    for some in batches_of(teacher, rows, plan.settings.micro_batch_tokens):
        batch = pack(some, plan.accelerator.device)
        hidden, head = target_states(teacher, batch)
        parts = []
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], head)
            parts.append(told(logits, batch.targets[part], settings))
        tokens, logprobs = (torch.cat(side).cpu().numpy() for side in zip(*parts, strict=True))
        places = [len(_target_positions(row)) for row in some]
        apart = _split_rows((tokens.astype(np.int32), logprobs), places)
        found |= {numbers[id(row)]: own for row, own in zip(some, apart, strict=True)}
    return [found[number] for number in range(len(rows))]


def score_with_teacher(
    teacher: Any, rows: Sequence[Example], plan: LanguageModelModule
) -> list[DistillationExample]:
    """The rows with what a teacher in memory, of the same tokens, says at their learnt places."""
    said = _score_rows(teacher, [_strip_virtual_tokens(row) for row in rows], plan, _top_k)
    return [DistillationExample(row.answers[0], *own) for row, own in zip(rows, said, strict=True)]


def _write(folder: Path, number: int, block: tuple[np.ndarray, np.ndarray]) -> None:
    for path, numbers in zip(_block_files(folder, number), block, strict=True):
        with atomic_file(path) as file:
            np.save(file, numbers, allow_pickle=False)


def _strip_virtual_tokens(row: Example) -> TokenizedRow:
    own = row.answers[0]
    count = sum(token < 0 for token in own.ids)
    return TokenizedRow(own.ids[count:], own.weights[count:], own.truncated)


def _read(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A block, which stays on the disk until it is used."""
    tokens, logprobs = (
        np.load(path, mmap_mode="r", allow_pickle=False) for path in _block_files(folder, number)
    )
    return tokens, logprobs


def _split_rows(
    block: tuple[np.ndarray, np.ndarray], places: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What was said at the places of all rows, row by row."""
    ends = np.cumsum(places)
    tokens, logprobs = block
    return [
        (tokens[end - own : end], logprobs[end - own : end])
        for own, end in zip(places, ends, strict=True)
    ]


def _target_positions(row: Example) -> list[int]:
    """The learnt places of a row, in the order in which a batch has them."""
    weights = row.answers[0].weights
    return [place for place in range(1, len(weights)) if weights[place] > 0]
