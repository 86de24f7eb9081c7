"""Hybrid search: vector search and word search, fused by rank.

Vectors count only where the embedder was trained for the script of the question and the passage.
A cross-encoder, if one is named, reranks the best hits together with the question.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.errors import BadRecipe, NotFound
from burnish.core.progress import progress, say
from burnish.models.heads.embedder import Embedder
from burnish.models.heads.reranker import Reranker
from burnish.models.local_models import find_model
from burnish.rag.locations import index_locations
from burnish.rag.store import Passage, PassageStore, Ranking

#: The constant of reciprocal rank fusion, as in the paper.
_RRF_K = 60
#: Minimum depth of each of the two rankings.
_DEPTH = 50


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A passage that was found. `score` is the fused one, `similarity` the cosine to the question.

    `by_meaning` and `by_words` are its ranks, from 1; `relevance` is the cross-encoder's score, in
    its own unit. Each is None if that ranking doesn't contain the passage.
    """

    passage: Passage
    score: float
    similarity: float | None
    by_meaning: int | None
    by_words: int | None
    relevance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish search --json` prints."""
        fields = asdict(self)
        passage = fields.pop("passage")
        return {**passage, "headings": list(passage["headings"]), **fields}


class SearchHits(list[SearchHit]):
    """The passages that were found, best first; `note` says why words alone ranked them, if so."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Reranking:
    """A cross-encoder, and how many of the best hits it reads."""

    model: Reranker
    top: int = 20

    def rerank(self, question: str, hits: Sequence[SearchHit]) -> list[SearchHit]:
        """Return the first `top` hits by relevance; those behind them stay behind."""
        head = hits[: self.top]
        texts = [f"{hit.passage.section}\n{hit.passage.text}" for hit in head]
        scores = self.model.score(question, texts).tolist()
        scored = [replace(hit, relevance=score) for hit, score in zip(head, scores, strict=True)]
        return [*sorted(scored, key=lambda hit: -(hit.relevance or 0)), *hits[self.top :]]


@dataclass(slots=True)
class Index:
    """An open index: its store, and the embedder that made its vectors."""

    name: str
    store: PassageStore
    embedder: Embedder
    root: Path
    reranking: Reranking | None = None

    def search(self, question: str, k: int = 5, files: str | None = None) -> SearchHits:
        """Return the `k` best passages, best first; `files` is a pattern that their file must
        match.

        Raises NotFound if no file of the index matches it.
        """
        hits = self.nearest(question, self.embedder.encode([question])[0], k, files)
        if hits.note:
            say(hits.note)
        return hits

    def search_all(self, questions: Sequence[str], k: int = 5) -> list[SearchHits]:
        """Search for many questions, embedded together."""
        with progress("Searching", total=len(questions)) as bar:
            vectors = self.embedder.encode(questions, advance=bar.advance)
            found = [
                self.nearest(question, vector, k)
                for question, vector in zip(questions, vectors, strict=True)
            ]
        if by_words := [hits.note for hits in found if hits.note]:
            say(f"{len(by_words)} of {len(found)} questions: {by_words[0]}")
        return found

    def nearest(
        self, question: str, vector: np.ndarray, k: int = 5, files: str | None = None
    ) -> SearchHits:
        """Search for a question with a given vector: float32 of shape (width,)."""
        wanted = self._matching_files(files) if files else None
        depth = max(k, self.reranking.top) if self.reranking else k
        fused = self._fuse(question, vector, depth, wanted)
        ranked = self.reranking.rerank(question, fused) if self.reranking and fused else fused
        hits = SearchHits(ranked[:k])
        hits.note = self._explain_word_ranking(question, fused, hits)
        return hits

    def _explain_word_ranking(
        self, question: str, fused: Sequence[SearchHit], hits: Sequence[SearchHit]
    ) -> str:
        """Say which hits words alone ranked, and what to do; empty if the embedder knows all."""
        known = self.embedder.knows
        by_meaning = known(question) and any(item.by_meaning for item in fused)
        unknown = sum(not known(item.passage.text) for item in hits)
        if not self.embedder.scripts or (by_meaning and not unknown):
            return ""
        ranked = f"{unknown} of {len(hits)} passages were" if by_meaning else "The passages were"
        return f"{ranked} ranked by words alone: {suggest_multilingual(self.embedder)}"

    def _fuse(
        self, question: str, vector: np.ndarray, k: int, wanted: Collection[str] | None
    ) -> list[SearchHit]:
        depth = max(_DEPTH, k)
        meaning = rank_by_meaning(self.store, self.embedder, question, vector, depth, wanted)
        words = self.store.search_words(question, depth, wanted)
        fused = reciprocal_rank_fusion([_ids(meaning), _ids(words)])[:k]
        passages = self.store.passages([passage_id for passage_id, _ in fused])
        cosines = dict(meaning)
        ranks = [
            {passage_id: rank for rank, passage_id in enumerate(_ids(ranking), 1)}
            for ranking in (meaning, words)
        ]
        return [
            SearchHit(
                passage=replace(passage, file=self.display_name(passage.file)),
                score=score,
                similarity=cosines.get(passage_id),
                by_meaning=ranks[0].get(passage_id),
                by_words=ranks[1].get(passage_id),
            )
            for (passage_id, score), passage in zip(fused, passages, strict=True)
        ]

    def display_name(self, file: str) -> str:
        """Return a file's name as shown to people: relative to the indexed folder."""
        path = Path(file)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else file

    def _matching_files(self, pattern: str) -> set[str]:
        files = self.store.digests()
        wanted = {file for file in files if fnmatch(self.display_name(file), pattern)}
        if not wanted:
            raise NotFound(
                f"No file of the index `{self.name}` matches `{pattern}`.",
                f"Its files: {', '.join(sorted(map(self.display_name, files))[:10])}",
            )
        return wanted


def rank_by_meaning(
    store: PassageStore,
    embedder: Embedder,
    question: str,
    vector: np.ndarray,
    depth: int,
    files: Collection[str] | None = None,
) -> Ranking:
    """Return the nearest passages among the first `depth`, of scripts that the embedder knows.

    Vectors of other scripts say nothing: a question in one has no nearest passages at all.
    """
    if not embedder.knows(question):
        return []
    ranking = store.search_vectors(vector, depth, files)
    if not embedder.scripts:
        return ranking
    passages = store.passages(_ids(ranking))
    pairs = zip(ranking, passages, strict=True)
    return [ranked for ranked, passage in pairs if embedder.knows(passage.text)]


def suggest_multilingual(embedder: Embedder) -> str:
    """Say what the embedder was trained for, and how to take another one."""
    return (
        f"{embedder.name} was trained for {embedder.trained_for}. Name a multilingual embedding "
        "model: `burnish index --embedder MODEL` with another --name, or rag.embedder in a recipe."
    )


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[int]], k: int = _RRF_K
) -> list[tuple[int, float]]:
    """Return (id, score), best first: the sum of 1 / (k + rank) over the rankings, ranks from 1.

    Cormack, Clarke & Büttcher 2009 (SIGIR), k = 60. Ties go to the earlier of the first ranking.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, passage_id in enumerate(ranking, start=1):
            scores[passage_id] = scores.get(passage_id, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def open_index(name: str, rerank: str = "", rerank_top: int = 20) -> Index:
    """Open an existing index; `rerank` names a cross-encoder. Raises NotFound, BadRecipe."""
    reranking = Reranking(Reranker(find_model(rerank)), rerank_top) if rerank else None
    locations = index_locations()
    if name not in (names := locations.names()):
        raise NotFound(
            f"There is no index `{name}` in this workspace (there are: "
            f"{', '.join(names) or 'none yet'}).",
            f"burnish index FOLDER --name {name}",
        )
    store = locations.open(name)
    facts = store.facts()
    if not facts:
        raise NotFound(f"The index `{name}` is empty.", f"burnish index FOLDER --name {name}")
    if not facts["complete"]:
        say(f"The indexing of `{name}` was interrupted; resume with: burnish index --name {name}")
    embedder = Embedder(find_model(facts["embedder"]["name"]))
    refuse_other_embedder(name, facts, embedder)
    return Index(name, store, embedder, common_folder(facts["sources"]), reranking)


def refuse_other_embedder(name: str, facts: Mapping[str, Any], embedder: Embedder) -> None:
    """Raise BadRecipe if the vectors of the index are from another model."""
    if facts["embedder"]["sha256"] != embedder.sha256:
        raise BadRecipe(
            f"The index `{name}` was made with another version of {facts['embedder']['name']}; its "
            f"vectors can't be compared with those of {embedder.name}.",
            f"Choose another --name, or remove {index_locations().where(name)}.",
        )


def common_folder(sources: Sequence[str]) -> Path:
    """Return the folder that file names are relative to: the indexed folder, or the common
    parent."""
    folders = [Path(source) if Path(source).is_dir() else Path(source).parent for source in sources]
    return Path(os.path.commonpath(folders)) if folders else Path("/")


def _ids(ranking: Ranking) -> list[int]:
    return [passage_id for passage_id, _ in ranking]
