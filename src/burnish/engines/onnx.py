"""ORT-GenAI behind the engine's protocol: an ONNX folder in a child, asked with our own tokens."""

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from transformers import AutoTokenizer

from burnish.core.errors import Unavailable
from burnish.core.records import Answer, Prompt, TokenLogprob
from burnish.engines.alone import ChildEngine
from burnish.engines.child import Child
from burnish.models.artifact import Artifact
from burnish.models.chat import end_of_turn

#: Longest context that is asked for unless told otherwise: keys and values cost memory at once.
_CONTEXT = 4096


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


class OnnxEngine(ChildEngine):
    """Answers with a folder that ORT-GenAI's model builder made. `close` ends its process."""

    def __init__(self, artifact: Artifact, threads: int = 0, context: int = 0) -> None:
        """Zero threads are as many as cores; no context is the model's own, but at most 4096.

        Raises Unavailable without onnxruntime-genai, EngineFailed if the folder can't be loaded.
        """
        if importlib.util.find_spec("onnxruntime_genai") is None:
            raise Unavailable("ONNX needs onnxruntime-genai.", "pip install 'burnish[onnx]'")
        self.folder, self.system = artifact.path, artifact.system
        self.name = str(artifact.lineage.get("run", artifact.path.name))
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        self.ends = end_of_turn(self.tokenizer)
        told = json.loads((artifact.path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = min(context or _CONTEXT, int(told["model"]["context_length"]))
        asked = {
            "folder": str(artifact.path.absolute()),
            "context": self.context_length,
            "threads": threads or psutil.cpu_count(logical=False) or 1,
        }
        self.child = Child("ORT-GenAI", ("burnish.engines.onnx_child", json.dumps(asked)))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(file.stat().st_size for file in self.folder.glob("model.onnx*"))

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


def open_onnx(artifact: Artifact) -> OnnxEngine:
    """The engine of an exported ONNX folder. Raises Unavailable, EngineFailed."""
    return OnnxEngine(artifact)
