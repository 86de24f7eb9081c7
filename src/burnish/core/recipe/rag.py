"""The section `rag` of a recipe."""

from pydantic import Field

from burnish.core.recipe.section import Paths, Section


class Rag(Section):
    """Documents whose passages are put before the question in the retrieval routes."""

    documents: Paths = Field((), description="Folders and files that hold the facts.")
    embedder: str = Field(
        "all-minilm-l6-v2", description="The embedding model: a name of the catalogue or a folder."
    )
    chunk_tokens: int = Field(
        200, ge=16, description="Longest passage, in tokens of the embedder (it reads 256)."
    )
    k: int = Field(5, ge=1, description="Passages put before a question, if they fit.")
    rerank: str = Field(
        "",
        description="A cross-encoder (a pulled model or a folder) that reads the best passages "
        "with the question and orders them anew; none if empty.",
    )
    rerank_top: int = Field(20, ge=1, description="How many of the best passages it reads.")
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the training rows that keep the passages that hold the answer.",
    )
