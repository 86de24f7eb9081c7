"""The module that MLflow loads from an exported folder; copied into it as `code/burnish_chat.py`.

It is self-contained: transformers answers from the folder's own weights, tokenizer and template,
and burnish needn't be installed where the model runs. Requests and responses follow `llm/v1/chat`.
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_MAX_TOKENS = 512
_SUPPORTED_FIELDS = {"messages", "max_tokens", "temperature", "top_p", "stop", "n", "stream"}
#: Values of unsupported fields that have no effect.
_IGNORED_VALUES = {"n": (None, 1), "stream": (None, False)}


class ChatModel:
    """The model behind MLflow's `predict`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True
        ).eval()
        facts = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
        self._name = str(facts.get("run", facts["base"]["name"]))
        self._system = facts.get("system")

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return the response to a request, or a list of responses to a table with several.

        Raises ValueError for unsupported requests: tools, several answers, a stream.
        """
        requests = _read_requests(model_input)
        answers = [self._answer({**request, **(params or {})}) for request in requests]
        return answers[0] if len(answers) == 1 else answers

    @torch.inference_mode()
    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        _refuse_unanswerable(request)
        messages = [_plain_message(message) for message in request["messages"]]
        if self._system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._system})
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        inputs = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")
        temperature = request.get("temperature") or 0.0
        sampling = {"temperature": temperature, "top_p": request.get("top_p") or 1.0}
        stops = list(request.get("stop") or ())
        ids = self._model.generate(
            **inputs,
            max_new_tokens=request.get("max_tokens") or _MAX_TOKENS,
            do_sample=temperature > 0,
            **(sampling if temperature > 0 else {"temperature": None, "top_p": None}),
            **({"stop_strings": stops, "tokenizer": self._tokenizer} if stops else {}),
        )[0, inputs["input_ids"].shape[1] :]
        answer = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        ends = self._model.generation_config.eos_token_id
        ended = int(ids[-1]) in ([ends] if isinstance(ends, int) else ends)
        stop_index = min([answer.find(stop) for stop in stops if stop in answer], default=None)
        counts = (inputs["input_ids"].shape[1], len(ids))
        return self._completion_body(answer[:stop_index], ended or stop_index is not None, counts)

    def _completion_body(self, answer: str, ended: bool, tokens: tuple[int, int]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer},
                    "finish_reason": "stop" if ended else "length",
                }
            ],
            "usage": {
                "prompt_tokens": tokens[0],
                "completion_tokens": tokens[1],
                "total_tokens": sum(tokens),
            },
        }


def _read_requests(model_input: Any) -> Iterable[dict[str, Any]]:
    """Return the requests in MLflow's input: a table with one per row, or a mapping."""
    rows = [model_input] if isinstance(model_input, Mapping) else model_input.to_dict("records")
    return [{key: value for key, value in row.items() if _is_given(value)} for row in rows]


def _is_given(value: Any) -> bool:
    """Return whether a table's cell has a value; an empty one is NaN, which isn't itself."""
    return value is not None and not (isinstance(value, float) and value != value)


def _plain_message(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": message["role"], "content": message.get("content") or ""}


def _refuse_unanswerable(request: Mapping[str, Any]) -> None:
    unsupported = set(request) - _SUPPORTED_FIELDS
    unsupported |= {
        name for name, ignored in _IGNORED_VALUES.items() if request.get(name) not in ignored
    }
    if unsupported:
        raise ValueError(f"This model doesn't support: {', '.join(sorted(unsupported))}.")


def _load_pyfunc(path: str) -> ChatModel:
    """Load the model: MLflow's entry point."""
    return ChatModel(Path(path))
