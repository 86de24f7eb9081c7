"""The process that runs OpenVINO (see `engines.external.server`).

The model keeps its keys and values inside; a request that continues the last one sends only its new
tokens.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Its telemetry runs in a forked process that may stay forever; without the module OpenVINO uses a
# stub.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402

from burnish.core.prefix import common_prefix_length  # noqa: E402
from burnish.engines.external.server import EngineServer, log_softmax, serve  # noqa: E402


class OpenVinoServer(EngineServer):
    """A folder with OpenVINO's model and tokenizer."""

    def __init__(self, folder: str, ends: Sequence[int], threads: int) -> None:
        core = ov.Core()
        model = core.read_model(Path(folder) / "openvino_model.xml")
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self.tokenizer = genai.Tokenizer(folder)
        self.ends = list(ends)
        self._cached: list[int] = []

    def next_logprobs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Return log-probabilities (vocabulary,) of the token after a prompt and some further
        tokens."""
        tokens = [*ids, *behind]
        cached = common_prefix_length(self._cached, tokens)
        if cached < len(self._cached) or cached == len(tokens):
            self._request.reset_state()
            cached = 0
        output = self._request.infer(
            {
                "input_ids": np.array([tokens[cached:]], dtype=np.int64),
                "attention_mask": np.ones((1, len(tokens)), dtype=np.int64),
                "position_ids": np.arange(cached, len(tokens), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        self._cached = tokens
        return log_softmax(output["logits"])

    def forget_prompt(self) -> None:
        """Drop the keys and values of the last prompt."""
        self._request.reset_state()
        self._cached = []

    def encode_chat(self, request: dict[str, Any]) -> list[int]:
        """Return the tokens of a conversation, rendered and encoded by OpenVINO GenAI itself."""
        text = self.tokenizer.apply_chat_template(
            request["messages"], add_generation_prompt=True, tools=request.get("tools")
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Return OpenVINO's tokens."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return [int(token) for token in encoding.input_ids.data[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return OpenVINO's text."""
        return str(self.tokenizer.decode(list(tokens)))


if __name__ == "__main__":
    serve(lambda p: OpenVinoServer(p["folder"], p["ends"], p["threads"]))
