"""An engine in a child that tells the next token's log-probabilities (`engines.runner`)."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from transformers import AutoTokenizer

from burnish.core.records import TokenLogprob
from burnish.engines.external.base import LaunchOptions, LogprobEngine
from burnish.engines.external.process import EngineProcess
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.artifact import Artifact


@dataclass(frozen=True, slots=True)
class _StepwiseLogprobs:
    """Log-probabilities of the next token of an answer, asked for where they are needed."""

    child: EngineProcess
    ids: Sequence[int]
    wanted: Sequence[int]
    cache: dict[tuple[int, ...], dict[int, float]]
    extra_fields: Mapping[str, Any]

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """All tokens of the choices; no other one is asked for."""
        if behind not in self.cache:
            body = {"ids": list(self.ids), "behind": list(behind), "wanted": list(self.wanted)}
            logs = self.child.ask("/next", {**body, **self.extra_fields})
            self.cache[behind] = dict(zip(self.wanted, logs, strict=True))
        return self.cache[behind], float("-inf")

    def all_logprobs(self, behind: tuple[int, ...]) -> dict[int, float]:
        """The same."""
        return self.top_logprobs(behind)[0]


class StepwiseEngine(LogprobEngine):
    """Answers with an exported folder, one token after the other. `close` ends its process."""

    #: The files that hold the weights.
    weights_pattern: ClassVar[str]
    #: What each request to the child says besides.
    extra_fields: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, artifact: Artifact, running: LaunchOptions) -> None:
        """Only what the folder says; whoever inherits starts the child."""
        name = str(artifact.lineage.get("run", artifact.path.name))
        tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        super().__init__(name, tokenizer, artifact.system, running)
        self.folder: Path = artifact.path
        self.vocabulary = len(tokenizer)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(file.stat().st_size for file in self.folder.glob(self.weights_pattern))

    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> _StepwiseLogprobs:
        """Only what is wanted is asked for."""
        fields = {**self.extra_fields, "owner": owner}
        return _StepwiseLogprobs(self.child, ids, wanted, {}, fields)

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """A free answer, token by token."""
        prompt = request.prompt
        body = {
            "ids": list(request.ids),
            "most": prompt.max_new_tokens,
            "ends": sorted(self.ends),
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "seed": prompt.seed,
            "top": prompt.top_logprobs or 0,
            "owner": request.owner,
            **self.extra_fields,
        }
        with closing(self.child.stream("/complete", body)) as said:
            for one in said:
                if one.get("stop"):
                    request.finish = request.finish or ("stop" if one["ended"] else "length")
                else:
                    if prompt.top_logprobs is not None:
                        request.logprobs.append(self._logprob(one))
                    request.append_token(one["token"])
                yield

    def _logprob(self, told: Mapping[str, Any]) -> TokenLogprob:
        top = tuple((self._decode_token(other), log) for other, log in told["top"])
        return TokenLogprob(self._decode_token(told["token"]), told["logprob"], top)

    def _decode_token(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))
