"""The process that OpenVINO runs in (see `engines.runner`).

The model keeps its keys and values inside; a question that goes on with the last one gives only
what is new.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# It tells its makers that it is used, from a forked process that may stay for ever; without it
# OpenVINO takes a stub.
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
        self._held: list[int] = []

    def next_logprobs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Log-probabilities (vocabulary,) of the token after a prompt and some tokens more."""
        wanted = [*ids, *behind]
        held = common_prefix_length(self._held, wanted)
        if held < len(self._held) or held == len(wanted):
            self._request.reset_state()
            held = 0
        given = self._request.infer(
            {
                "input_ids": np.array([wanted[held:]], dtype=np.int64),
                "attention_mask": np.ones((1, len(wanted)), dtype=np.int64),
                "position_ids": np.arange(held, len(wanted), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        self._held = wanted
        return log_softmax(given["logits"])

    def forget_prompt(self) -> None:
        """Drop the keys and values of the last prompt."""
        self._request.reset_state()
        self._held = []

    def encode_chat(self, asked: dict[str, Any]) -> list[int]:
        """Tokens of a conversation, rendered and encoded by OpenVINO GenAI itself."""
        text = self.tokenizer.apply_chat_template(
            asked["messages"], add_generation_prompt=True, tools=asked.get("tools")
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """OpenVINO's tokens."""
        made = self.tokenizer.encode(text, add_special_tokens=False)
        return [int(token) for token in made.input_ids.data[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        """OpenVINO's text."""
        return str(self.tokenizer.decode(list(tokens)))


if __name__ == "__main__":
    serve(lambda asked: OpenVinoServer(asked["folder"], asked["ends"], asked["threads"]))
