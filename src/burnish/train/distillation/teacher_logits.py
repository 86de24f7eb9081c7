"""Teacher log-probabilities at every target token, computed once and cached on disk.

The cache is `<workspace>/cache/lessons/<hash>`, the hash being that of the teacher's weights, the
rows as tokens, the temperature and the number of tokens that are kept; so another training on the
same rows doesn't load the teacher. A block of rows is two files of plain numbers, memory-mapped.

A teacher with another tokenizer reads the rows by its own template, and its log-probabilities are
aligned with the student's tokens before they are cached (`losses.cross_tokenizer`).
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
from burnish.core.runs import Run
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
from burnish.train.loop.context import TrainContext
from burnish.train.loop.language_model import LanguageModelModule, Stage
from burnish.train.losses.cross_tokenizer import align_teacher_logprobs
from burnish.train.losses.divergence import top_k_logprobs
from burnish.train.losses.linear import LinearCrossEntropy, head_logits

#: Rows of a block: what is lost if the process dies.
_BLOCK = 256

#: Tokens and log-probabilities of some rows, or of one.
Scores = tuple[np.ndarray, np.ndarray]

#: What is kept of a teacher's logits (targets, vocabulary), which may be overwritten, for the
#: target tokens (targets,): tokens and log-probabilities.
ReadLogits = Callable[[torch.Tensor, torch.Tensor, Distillation], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class TeacherLogits(Stage):
    """Adds the teacher's distributions to the rows of a module."""

    settings: Distillation

    def prepare(
        self, module: LanguageModelModule, context: TrainContext, run: Run
    ) -> LanguageModelModule:
        """See `add_to`. The main process fills the cache, which the others read afterwards."""
        split, is_main = context.dataset.split, module.process_group.is_main
        rows = (*split.train, *split.validation)
        complete = self.add_to(module, context.tokenizer, rows) if is_main else module
        module.process_group.broadcast("cached")
        return complete if is_main else self.add_to(module, context.tokenizer, rows)

    def add_to(
        self,
        module: LanguageModelModule,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row] = (),
    ) -> LanguageModelModule:
        """Return the module with the teacher's distributions in its rows.

        `rows` are the module's rows before tokenization, which a teacher with another tokenizer
        reads. Raises BadRecipe if no teacher is named, BadData for plain text that a teacher with
        another tokenizer would have to read.
        """
        settings = self.settings
        if not settings.teacher:
            raise BadRecipe(
                "No teacher is named.",
                "Set train.objective.teacher to a run or a model of this machine.",
            )
        known = [*module.rows, *module.validation]
        inputs = self._make_teacher_inputs(known, rows, module.settings.max_length, tokenizer)
        dtype = next(module.language.parameters()).dtype
        folder = _cache_folder(settings, dtype, inputs)
        blocks = range(-(-len(known) // _BLOCK))
        missing = [number for number in blocks if not _block_files(folder, number)[1].exists()]
        if missing:
            # Loading draws random numbers; a training must not depend on whether it was needed.
            with torch.random.fork_rng(), progress("Asking the teacher", total=len(blocks)) as bar:
                teacher = load_teacher(settings.teacher, dtype, module.settings.max_length)
                bar.advance(len(blocks) - len(missing))
                for number in missing:
                    scores = _score_block(teacher, inputs.block(number), module, settings)
                    _write(folder, number, scores)
                    bar.advance()
        kind = DistillationExample if inputs.aligner is None else CrossTokenizerExample
        examples: list[Example] = []
        for number in blocks:
            counts = [len(_target_positions(row)) for row in inputs.block(number).rows]
            block_rows = known[len(examples) : len(examples) + len(counts)]
            parts = _split_rows(_read(folder, number), counts)
            examples += [
                kind(row.answers[0], *scores) for row, scores in zip(block_rows, parts, strict=True)
            ]
        train_count = len(module.rows)
        return replace(module, rows=examples[:train_count], validation=examples[train_count:])

    def _make_teacher_inputs(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        max_length: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> "TeacherInputs":
        # The student's virtual tokens are its own; the teacher reads the text.
        student_rows = [_strip_virtual_tokens(row) for row in examples]
        teacher_tokenizer = load_teacher_tokenizer(self.settings.teacher)
        if have_same_tokens(teacher_tokenizer, tokenizer):
            return TeacherInputs(student_rows, student_rows)
        if any(row.text is not None for row in rows):
            raise BadData(
                f"Some rows are plain text, and {self.settings.teacher} has another tokenizer than "
                "the student: only answers to questions can be matched.",
                "Write conversations, or name a teacher with the student's tokenizer.",
            )
        teacher_rows = [
            trim_to_target(encode_row(teacher_tokenizer, row, max_length)) for row in rows
        ]
        return TeacherInputs(student_rows, teacher_rows, TokenAligner(tokenizer, teacher_tokenizer))


@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """Rows as the student learns them (without its virtual tokens), and as the teacher reads them;
    `aligner` is None where both have the same tokens."""

    rows: Sequence[TokenizedRow]
    teacher_rows: Sequence[TokenizedRow]
    aligner: TokenAligner | None = None

    def block(self, number: int) -> "TeacherInputs":
        """Return the rows of a block."""
        part = slice(number * _BLOCK, (number + 1) * _BLOCK)
        return TeacherInputs(self.rows[part], self.teacher_rows[part], self.aligner)


def _cache_folder(settings: Distillation, dtype: torch.dtype, inputs: TeacherInputs) -> Path:
    def tokens(rows: Sequence[TokenizedRow]) -> list[object]:
        return [[list(row.ids), _target_positions(row)] for row in rows]

    teacher = [hash_weights(settings.teacher), str(dtype)]
    key: list[object] = [
        teacher, settings.temperature, settings.top_k, tokens(inputs.teacher_rows),
    ]  # fmt: skip
    if inputs.aligner:
        vocabulary = sorted(inputs.aligner.student.tokenizer.get_vocab().items())
        key += [tokens(inputs.rows), hash_json(vocabulary)]
    return workspace() / "cache" / "lessons" / hash_json(key)[:24]


def _block_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Return the files of a block's tokens and log-probabilities; the second is written last."""
    return folder / f"{number:05}-tokens.npy", folder / f"{number:05}-logprobs.npy"


def teacher_on_device(module: LanguageModelModule, source: str) -> Any:
    """Load the teacher to the student's device, in the student's number format."""
    # Loading draws random numbers; what is learned must not depend on it.
    with torch.random.fork_rng():
        dtype = next(module.language.parameters()).dtype
        return load_teacher(source, dtype, module.settings.max_length).to(module.accelerator.device)


def load_teacher(source: str, dtype: torch.dtype, longest: int) -> Any:
    """Load the teacher, on the forward path that is proven for rows of up to `longest` tokens.

    Raises BadRecipe, NotFound.
    """
    artifact = find_artifact(source)
    if artifact and artifact.kind == "virtual":
        raise BadRecipe(
            f"{source} answers after virtual tokens, which the student doesn't have.",
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
    """Load a teacher's tokenizer. Raises NotFound."""
    artifact = find_artifact(source)
    if artifact is None:
        return load_tokenizer(find_model(source))
    return AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)


def have_same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Return True if two tokenizers have the same tokens with the same ids."""
    return one.get_vocab() == other.get_vocab()


def _score_block(
    teacher: Any, inputs: TeacherInputs, module: LanguageModelModule, settings: Distillation
) -> Scores:
    """Return the tokens and log-probabilities at all targets of some rows, row after row."""
    if inputs.aligner is None:
        parts = _score_rows(teacher, inputs.teacher_rows, module, settings, _top_k)
    else:
        scores = _score_rows(teacher, inputs.teacher_rows, module, settings, _target_and_top_k)
        parts = [
            align_teacher_logprobs(student_row, teacher_row, score, inputs.aligner)
            for student_row, teacher_row, score in zip(
                inputs.rows, inputs.teacher_rows, scores, strict=True
            )
        ]
    return tuple(np.concatenate(side) for side in zip(*parts, strict=True))  # type: ignore[return-value]


def _top_k(
    logits: torch.Tensor, targets: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest tokens (n, k); their log-probabilities and that of all others
    (n, k + 1)."""
    distribution = top_k_logprobs(logits, settings.temperature, settings.top_k)
    return distribution.tokens, distribution.logprobs


def _target_and_top_k(
    logits: torch.Tensor, targets: torch.Tensor, settings: Distillation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest tokens (n, k); the log-probabilities (n, 1 + k) of the target and
    these."""
    target = logits.gather(1, targets[:, None]) / settings.temperature
    target = target - (logits / settings.temperature).logsumexp(-1, keepdim=True)
    distribution = top_k_logprobs(logits, settings.temperature, settings.top_k)
    return distribution.tokens, torch.cat([target, distribution.logprobs[:, :-1]], 1)


@torch.no_grad()
def _score_rows(
    teacher: Any,
    rows: Sequence[TokenizedRow],
    module: LanguageModelModule,
    settings: Distillation,
    read_logits: ReadLogits,
) -> list[Scores]:
    """Return what `read_logits` keeps at the targets of each row."""
    scores: dict[int, Scores] = {}
    numbers = {id(row): number for number, row in enumerate(rows)}
    for batch_rows in batches_of(teacher, rows, module.settings.micro_batch_tokens):
        batch = pack(batch_rows, module.accelerator.device)
        hidden, head = target_states(teacher, batch)
        chunks = []
        for begin in range(0, len(hidden), LinearCrossEntropy.CHUNK):
            part = slice(begin, begin + LinearCrossEntropy.CHUNK)
            logits = head_logits(hidden[part], head)
            chunks.append(read_logits(logits, batch.targets[part], settings))
        tokens, logprobs = (torch.cat(side).cpu().numpy() for side in zip(*chunks, strict=True))
        counts = [len(_target_positions(row)) for row in batch_rows]
        parts = _split_rows((tokens.astype(np.int32), logprobs), counts)
        scores |= {numbers[id(row)]: part for row, part in zip(batch_rows, parts, strict=True)}
    return [scores[number] for number in range(len(rows))]


def score_with_teacher(
    teacher: Any, rows: Sequence[Example], module: LanguageModelModule, settings: Distillation
) -> list[DistillationExample]:
    """Return the rows with the distributions of a loaded teacher with the same tokens."""
    stripped = [_strip_virtual_tokens(row) for row in rows]
    scores = _score_rows(teacher, stripped, module, settings, _top_k)
    return [
        DistillationExample(row.answers[0], *own) for row, own in zip(rows, scores, strict=True)
    ]


def _write(folder: Path, number: int, block: Scores) -> None:
    for path, numbers in zip(_block_files(folder, number), block, strict=True):
        with atomic_file(path) as file:
            np.save(file, numbers, allow_pickle=False)


def _strip_virtual_tokens(row: Example) -> TokenizedRow:
    answer = row.answers[0]
    count = sum(token < 0 for token in answer.ids)
    return TokenizedRow(answer.ids[count:], answer.weights[count:], answer.truncated)


def _read(folder: Path, number: int) -> Scores:
    """Memory-map a block."""
    tokens, logprobs = (
        np.load(path, mmap_mode="r", allow_pickle=False) for path in _block_files(folder, number)
    )
    return tokens, logprobs


def _split_rows(block: Scores, counts: Sequence[int]) -> list[Scores]:
    """Split the scores of a block into those of its rows, which have `counts` targets."""
    ends = np.cumsum(counts)
    tokens, logprobs = block
    return [
        (tokens[end - count : end], logprobs[end - count : end])
        for count, end in zip(counts, ends, strict=True)
    ]


def _target_positions(row: Example) -> list[int]:
    """Return the target positions of a row, in the order in which a batch has them."""
    weights = row.answers[0].weights
    return [position for position in range(1, len(weights)) if weights[position] > 0]
