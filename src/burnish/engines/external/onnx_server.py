"""The process that runs ORT-GenAI (see `engines.external.server`).

A prompt's keys and values are kept for the next request with the same prompt.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from burnish.core.prefix import common_prefix_length
from burnish.engines.external.server import EngineServer, log_softmax, serve


class OnnxServer(EngineServer):
    """A folder from ORT-GenAI's model builder, with its adapters.

    `adapter` is the default for requests that name none; without it, the base answers.
    """

    def __init__(
        self, folder: str, context: int, threads: int, adapters: Sequence[str], adapter: str | None
    ) -> None:
        config = og.Config(folder)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model, self.context = og.Model(config), context
        self.tokenizer = og.Tokenizer(self.model)
        config_file = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))
        ends = config_file["model"]["eos_token_id"]
        self.ends = ends if isinstance(ends, list) else [ends]
        self._prompt: list[int] = []
        self._behind: list[int] = []
        self._generator: Any = None
        self._default = self._active = adapter
        self._adapters = og.Adapters(self.model)
        for name in adapters:
            self._adapters.load(str(Path(folder) / name), name)

    def select_adapter(self, request: dict[str, Any]) -> None:
        """Switch to the request's adapter; the cached prompt of another adapter is dropped."""
        adapter = request.get("adapter", self._default)
        if adapter != self._active:
            self._active, self._generator = adapter, None

    def next_logprobs(self, ids: Sequence[int], behind: Sequence[int]) -> np.ndarray:
        """Return log-probabilities (vocabulary,) of the token after a prompt and some further
        tokens."""
        ids, behind = list(ids), list(behind)
        if self._generator is None or self._prompt != ids or not behind:
            parameters = og.GeneratorParams(self.model)
            parameters.set_search_options(max_length=self.context)
            self._generator = og.Generator(self.model, parameters)
            if self._active:
                self._generator.set_active_adapter(self._adapters, self._active)
            self._generator.append_tokens(np.array(ids, dtype=np.int32))
            self._prompt, self._behind = ids, []
        # The last token is always fed again: its logits are needed.
        same = common_prefix_length(behind[:-1], self._behind)
        if behind:
            if same < len(self._behind):
                self._generator.rewind_to(len(ids) + same)
            for token in behind[same:]:
                self._generator.append_tokens(np.array([token], dtype=np.int32))
            self._behind = behind
        return log_softmax(self._generator.get_logits())

    def encode_chat(self, request: dict[str, Any]) -> list[int]:
        """Return the tokens of a conversation, rendered and encoded by ORT-GenAI itself."""
        text = self.tokenizer.apply_chat_template(
            json.dumps(request["messages"]),
            tools=json.dumps(request["tools"]) if request.get("tools") else None,
            add_generation_prompt=True,
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Return ORT-GenAI's tokens."""
        return [int(token) for token in self.tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return ORT-GenAI's text."""
        return str(self.tokenizer.decode(np.array(tokens, dtype=np.int32)))


if __name__ == "__main__":
    serve(lambda parameters: OnnxServer(**parameters))
