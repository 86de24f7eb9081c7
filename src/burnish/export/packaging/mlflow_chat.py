"""What MLflow loads from an exported folder; copied into it as `code/burnish_chat.py`.

It stands alone: transformers answers from the folder's own weights, tokenizer and template, and
burnish needn't be where the model runs. Requests and answers are those of `llm/v1/chat`.
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
#: What a request may say without asking for anything.
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
        """The answer to a request, or a list of answers to a table with several.

        Raises ValueError for what can't be answered: tools, several answers, a stream.
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
        asked = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")
        temperature = request.get("temperature") or 0.0
        drawn = {"temperature": temperature, "top_p": request.get("top_p") or 1.0}
        stops = list(request.get("stop") or ())
        ids = self._model.generate(
            **asked,
            max_new_tokens=request.get("max_tokens") or _MAX_TOKENS,
            do_sample=temperature > 0,
            **(drawn if temperature > 0 else {"temperature": None, "top_p": None}),
            **({"stop_strings": stops, "tokenizer": self._tokenizer} if stops else {}),
        )[0, asked["input_ids"].shape[1] :]
        answer = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        ends = self._model.generation_config.eos_token_id
        ended = int(ids[-1]) in ([ends] if isinstance(ends, int) else ends)
        before = min([answer.find(stop) for stop in stops if stop in answer], default=None)
        counts = (asked["input_ids"].shape[1], len(ids))
        return self._completion_body(answer[:before], ended or before is not None, counts)

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
    """The requests in what MLflow hands over: a table with one a row, or a mapping."""
    rows = [model_input] if isinstance(model_input, Mapping) else model_input.to_dict("records")
    return [{key: value for key, value in row.items() if _is_given(value)} for row in rows]


def _is_given(value: Any) -> bool:
    """Whether a table's cell holds anything; an empty one is NaN, which isn't itself."""
    return value is not None and not (isinstance(value, float) and value != value)


def _plain_message(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": message["role"], "content": message.get("content") or ""}


def _refuse_unanswerable(request: Mapping[str, Any]) -> None:
    asked = set(request) - _SUPPORTED_FIELDS
    asked |= {name for name, said in _IGNORED_VALUES.items() if request.get(name) not in said}
    if asked:
        raise ValueError(f"This model doesn't answer a request with: {', '.join(sorted(asked))}.")


def _load_pyfunc(path: str) -> ChatModel:
    """MLflow's way in."""
    return ChatModel(Path(path))
