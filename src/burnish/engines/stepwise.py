"""An engine in a child that tells the next token's log-probabilities (`engines.runner`)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import AutoTokenizer

from burnish.core.records import Answer, Prompt, TokenLogprob
from burnish.engines.alone import ChildEngine
from burnish.engines.child import Child
from burnish.models.artifact import Artifact
from burnish.models.chat import end_of_turn


@dataclass(frozen=True, slots=True)
class _Table:
    """Log-probabilities of the next token of an answer, asked for where they are needed."""

    child: Child
    ids: Sequence[int]
    wanted: Sequence[int]
    known: dict[tuple[int, ...], dict[int, float]]

    def shown(self, behind: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """All tokens of the choices; no other one is asked for."""
        if behind not in self.known:
            body = {"ids": list(self.ids), "behind": list(behind), "wanted": list(self.wanted)}
            logs = self.child.ask("/next", body)
            self.known[behind] = dict(zip(self.wanted, logs, strict=True))
        return self.known[behind], float("-inf")

    def everything(self, behind: tuple[int, ...]) -> dict[int, float]:
        """The same."""
        return self.shown(behind)[0]


class StepwiseEngine(ChildEngine):
    """Answers with an exported folder, one token after the other. `close` ends its process."""

    #: The files that hold the weights.
    weights: ClassVar[str]

    def __init__(self, artifact: Artifact) -> None:
        """Only what the folder says; whoever inherits starts the child."""
        self.folder: Path = artifact.path
        self.system = artifact.system
        self.name = str(artifact.lineage.get("run", artifact.path.name))
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        self.ends = end_of_turn(self.tokenizer)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(file.stat().st_size for file in self.folder.glob(self.weights))

    def table(self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1) -> _Table:
        """Only what is wanted is asked for."""
        return _Table(self.child, ids, wanted, {})

    def write(self, prompt: Prompt, ids: Sequence[int], begun: float) -> Answer:
        """A free answer."""
        body = {
            "ids": list(ids),
            "most": prompt.max_new_tokens,
            "ends": sorted(self.ends),
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "seed": prompt.seed,
            "top": prompt.top_logprobs or 0,
        }
        given = self.child.ask("/complete", body)
        text = str(self.tokenizer.decode(given["tokens"], skip_special_tokens=True))
        stops = [place for stop in prompt.stop if (place := text.find(stop)) >= 0]
        logprobs = tuple(
            TokenLogprob(
                self._piece(token),
                told["logprob"],
                tuple((self._piece(other), log) for other, log in told["top"]),
            )
            for token, told in zip(given["tokens"], given["told"], strict=True)
        )
        return Answer(
            text=text[: min(stops, default=len(text))],
            tokens_in=len(ids),
            tokens_out=len(given["tokens"]),
            seconds=time.perf_counter() - begun,
            finish_reason="stop" if given["ended"] or stops else "length",
            logprobs=() if prompt.top_logprobs is None else logprobs,
        )

    def _piece(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))
