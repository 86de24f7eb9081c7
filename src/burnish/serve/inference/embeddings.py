"""`client.embeddings`: texts to vectors by the embedding models that have been pulled."""

import base64
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model, list_embedders
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.inference.protocol import TokenId
from burnish.serve.protocol import ApiModel, Text

#: Texts of one request, as in the hosted API.
MAX_TEXTS = 2048
_Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=100_000)]


class EmbeddingRequest(ApiModel):
    """POST /embeddings."""

    model: Text
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
        | _Tokens
        | Annotated[list[_Tokens], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**16)

    @property
    def items(self) -> Sequence[str | list[int]]:
        """The texts, or the tokens of each."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]  # type: ignore[list-item]
        return self.input  # type: ignore[return-value]


@dataclass
class Embedders:
    """Embedding models by name; `aliases` are more names. Each is loaded when it is first asked."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    loaded: dict[str, Embedder] = field(default_factory=dict)
    #: One at a time: a fast tokenizer must not be used by two threads at once.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """All names that answer."""
        pulled = [model.name for model in list_embedders()]
        return pulled + [alias for alias, name in self.aliases.items() if name in pulled]

    async def embed(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Vectors of a request. Raises ModelNotFound, Refused."""
        return await run_in_threadpool(self._embed_sync, request)

    def encode(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, as many as there are, however long. Raises ModelNotFound."""
        embedder = self.open(name)
        with self.lock:
            return embedder.encode(texts)

    def open(self, name: str) -> Embedder:
        """The model of that name. Raises ModelNotFound, or BadRecipe for an unknown kind."""
        allowed = [known for known in self.names() if CURRENT_KEY.get().allows_model(known)]
        if name not in allowed:
            raise ModelNotFound(
                f"The model `{name}` does not exist or makes no embeddings. "
                f"Embedding models here: {', '.join(allowed) or 'none; burnish pull one'}.",
                "model",
                "model_not_found",
            )
        source = self.aliases.get(name, name)
        with self.lock:
            if source not in self.loaded:
                self.loaded[source] = Embedder(find_model(source))
            return self.loaded[source]

    def _embed_sync(self, request: EmbeddingRequest) -> dict[str, Any]:
        embedder = self.open(request.model)
        width = request.dimensions or embedder.width
        if width > embedder.width:
            raise RequestError(
                f"The model's vectors have {embedder.width} dimensions.", "dimensions"
            )
        with self.lock:
            texts = [_as_text(embedder, item) for item in request.items]
            counts = [len(embedder.tokenizer(text, verbose=False)["input_ids"]) for text in texts]
        if max(counts) > embedder.max_tokens:
            raise RequestError(
                f"A text has {max(counts)} tokens; the model reads {embedder.max_tokens}. "
                "Send it in pieces.",
                "input",
                "context_length_exceeded",
            )
        vectors = _truncate(self.encode(request.model, texts), width)
        shape = _ENCODINGS[request.encoding_format or "float"]
        data = [
            {"object": "embedding", "index": place, "embedding": shape(vector)}
            for place, vector in enumerate(vectors)
        ]
        used = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return {"object": "list", "data": data, "model": request.model, "usage": used}


def _as_text(embedder: Embedder, item: str | list[int]) -> str:
    """A text as it is, or read back from its tokens."""
    if isinstance(item, list):
        known = len(embedder.tokenizer)
        if max(item) >= known:
            raise RequestError(
                f"The model knows tokens 0 to {known - 1}: these are another tokenizer's. Send "
                "texts (LangChain: check_embedding_ctx_length=False).",
                "input",
            )
        item = str(embedder.tokenizer.decode(item, skip_special_tokens=True))
    if not item.strip():
        raise RequestError("A text is empty.", "input")
    if any("\ud800" <= letter <= "\udfff" for letter in item):
        raise RequestError("A text holds half a character.", "input")
    return item


def _truncate(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first `width` numbers of each vector, brought to length 1 again."""
    if width == vectors.shape[1]:
        return vectors
    cut = vectors[:, :width]
    unit: np.ndarray = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return unit


_ENCODINGS: Mapping[str, Any] = {
    "float": lambda vector: [float(number) for number in vector],
    "base64": lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode(),
}
