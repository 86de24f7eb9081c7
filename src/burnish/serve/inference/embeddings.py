"""Embed texts with the embedding models that have been pulled (`client.embeddings`)."""

import base64
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi.concurrency import run_in_threadpool

from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model, list_embedders
from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.errors import ModelNotFound, RequestError
from burnish.serve.inference.protocol import EmbeddingList, EmbeddingObject, EmbeddingRequest


@dataclass
class Embedders:
    """Embedding models by name, each loaded on first use; `aliases` are more names."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    loaded: dict[str, Embedder] = field(default_factory=dict)
    #: One at a time: a fast tokenizer must not be used by two threads at once.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """Return the names of all embedding models, aliases included."""
        pulled = [model.name for model in list_embedders()]
        return pulled + [alias for alias, name in self.aliases.items() if name in pulled]

    async def embed(self, request: EmbeddingRequest) -> EmbeddingList:
        """Embed the texts of a request. Raises ModelNotFound, RequestError."""
        return await run_in_threadpool(self._embed_sync, request)

    def encode(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """Embed any number of texts of any length: (texts, width). Raises ModelNotFound."""
        embedder = self.open(name)
        with self.lock:
            return embedder.encode(texts)

    def open(self, name: str) -> Embedder:
        """Load a model by its name. Raises ModelNotFound, or BadRecipe for an unknown kind."""
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

    def _embed_sync(self, request: EmbeddingRequest) -> EmbeddingList:
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
                "Split it and send the parts.",
                "input",
                "context_length_exceeded",
            )
        vectors = _truncate(self.encode(request.model, texts), width)
        encode = _ENCODINGS[request.encoding_format or "float"]
        tokens = sum(counts)
        return EmbeddingList(
            data=[
                EmbeddingObject(index=index, embedding=encode(vector))
                for index, vector in enumerate(vectors)
            ],
            model=request.model,
            usage={"prompt_tokens": tokens, "total_tokens": tokens},
        )


def _as_text(embedder: Embedder, item: str | list[int]) -> str:
    """Return a text, decoded if it came as tokens. Raises RequestError if it is unusable."""
    if isinstance(item, list):
        vocabulary = len(embedder.tokenizer)
        if max(item) >= vocabulary:
            raise RequestError(
                f"The model's tokens are 0 to {vocabulary - 1}; these come from another tokenizer. "
                "Send texts (LangChain: check_embedding_ctx_length=False).",
                "input",
            )
        item = str(embedder.tokenizer.decode(item, skip_special_tokens=True))
    if not item.strip():
        raise RequestError("A text is empty.", "input")
    if any("\ud800" <= letter <= "\udfff" for letter in item):
        raise RequestError("A text contains half a character (a lone surrogate).", "input")
    return item


def _truncate(vectors: np.ndarray, width: int) -> np.ndarray:
    """Cut vectors (texts, dimensions) to `width` dimensions and normalise them again."""
    if width == vectors.shape[1]:
        return vectors
    cut = vectors[:, :width]
    unit: np.ndarray = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return unit


_ENCODINGS: Mapping[str, Any] = {
    "float": lambda vector: vector.astype(float).tolist(),
    "base64": lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode(),
}
