"""`burnish index`: folders and files → an index of exactly their current content.

Only changed files are embedded: a file is identified by the hash of its content. Files enter the
index a few at a time, each completely, so that a killed indexing resumes where it stopped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.atomic import hash_file
from burnish.core.errors import BadData, BadRecipe, NotFound, Unavailable
from burnish.core.progress import Bar, progress, say
from burnish.core.scripts import count_letters
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.rag.chunking import chunk_document
from burnish.rag.locations import IndexLocations, index_locations
from burnish.rag.readers import read_document, readers
from burnish.rag.search import refuse_other_embedder, suggest_multilingual
from burnish.rag.store import Passage, PassageStore

#: Part of a file's digest: incremented when reading or chunking changes, to index all files anew.
_VERSION = 1
#: Passages that are embedded before their files are stored.
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The result of an indexing, in files, and the number of passages in the index.

    `skipped` names each file that could not be read, with the reason. `unknown_scripts` is script →
    share of the letters, in the files that were read now, of scripts that the embedder doesn't
    know; `word_ranked` is how many of their passages only words can find, and `note` says so with
    the remedy.
    """

    name: str
    path: str
    added: int
    changed: int
    unchanged: int
    removed: int
    passages: int
    skipped: tuple[tuple[str, str], ...]
    not_read: dict[str, int]
    unknown_scripts: dict[str, float] = field(default_factory=dict)
    word_ranked: int = 0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish index --json` prints."""
        skipped = [{"file": file, "reason": reason} for file, reason in self.skipped]
        return {**asdict(self), "skipped": skipped}

    def as_text(self) -> str:
        """Return the report for the terminal."""
        files = self.added + self.changed + self.unchanged
        lines = [
            f"{self.name}: {files} files in {self.passages} passages ({self.added} new, "
            f"{self.changed} changed, {self.unchanged} as before, {self.removed} removed)."
        ]
        lines += [f"Skipped {reason}" for _, reason in self.skipped]
        if self.not_read:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.not_read.items())
            lines.append(f"Ignored files of other kinds: {kinds}.")
        if self.note:
            lines.append(self.note)
        lines.append(f'Try it: burnish search {self.name} "a question"')
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How passages are made: the embedder's name, and the token limit of a passage."""

    embedder: str = "all-minilm-l6-v2"
    chunk_tokens: int = 200


def build_index(
    sources: Sequence[Path], name: str, changes: Mapping[str, Any] | None = None
) -> IndexReport:
    """Create or update the index `name` so that it has the current content of `sources`.

    Without sources, those of last time; `changes` are fields of IndexSettings. Raises NotFound for
    a missing path, BadData if there is nothing to read (no new index is left then), BadRecipe if
    the index was made with other settings.
    """
    locations = index_locations()
    location = locations.where(name)
    is_new = name not in locations.names()
    previous_facts = {} if is_new else _read_facts(locations, name)
    source_names = [str(path.absolute()) for path in sources] or list(
        previous_facts.get("sources", ())
    )
    if not source_names:
        raise BadRecipe("Nothing is named to index.", f"burnish index FOLDER --name {name}")
    settings = IndexSettings(**{**previous_facts.get("making", {}), **(changes or {})})
    files, not_read = find_documents(source_names)
    embedder = Embedder(find_model(settings.embedder))
    _refuse_too_long(settings, embedder)
    _refuse_other_settings(name, previous_facts, settings, embedder)
    store = locations.open(name)
    indexer = _Indexer(store, embedder, settings)
    embedder_facts = {"name": embedder.name, "sha256": embedder.sha256}
    facts = {"sources": source_names, "making": asdict(settings), "embedder": embedder_facts}
    store.set_facts({**facts, "complete": False})
    counts = indexer.renew(files)
    store.refresh()
    store.set_facts({**facts, "complete": True})
    passages = store.count()
    store.close()
    if is_new and not passages:
        locations.remove(name)
        raise BadData("None of the files can be read.", "\n".join(r for _, r in indexer.skipped))
    return IndexReport(
        name, location, *counts, passages, tuple(indexer.skipped), not_read,
        indexer.unknown_scripts(), indexer.word_ranked, indexer.note(),
    )  # fmt: skip


@dataclass(slots=True)
class _Indexer:
    """One run over the files; `pending` are those that are read but not stored yet."""

    store: PassageStore
    embedder: Embedder
    settings: IndexSettings
    pending: list[tuple[str, str, list[Passage]]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    letters: Counter[str] = field(default_factory=Counter)
    word_ranked: int = 0

    def renew(self, files: Sequence[Path]) -> tuple[int, int, int, int]:
        """Bring the store to the files' content: (added, changed, unchanged, removed)."""
        known = self.store.digests()
        digests = {str(file): digest for file in files if (digest := self._digest(file))}
        stale = [file for file, digest in digests.items() if known.get(file) != digest]
        with progress("Indexing", total=sum(_size(file) for file in stale)) as bar:
            for file in stale:
                passages = self._read_passages(Path(file))
                if passages:
                    self.pending.append((file, digests[file], passages))
                else:
                    bar.advance(_size(file))
                if sum(len(waiting) for _, _, waiting in self.pending) >= _BLOCK:
                    self._flush(bar)
            self._flush(bar)
        broken = {file for file, _ in self.skipped}
        removed = set(known) - (set(digests) - broken)
        self.store.remove(removed)
        indexed = [file for file in stale if file not in broken]
        changed = sum(file in known for file in indexed)
        return len(indexed) - changed, changed, len(digests) - len(stale), len(removed)

    def _digest(self, file: Path) -> str | None:
        try:
            return f"{_VERSION}-{hash_file(file)}"
        except OSError as error:
            self._skip(file, f"{file} can't be read: {error.strerror}.")
            return None

    def _read_passages(self, file: Path) -> list[Passage]:
        """Return a file's passages; none, and a report, if it can't be read."""
        try:
            document = read_document(file)
        except (BadData, Unavailable) as error:
            self._skip(file, f"{error.what.rstrip('.')}. {error.fix}")
            return []
        for note in document.notes:
            say(f"{file}: {note}.")
        spans, max_tokens = self.embedder.token_spans, self.settings.chunk_tokens
        return [
            Passage(
                file=str(file),
                title=document.title,
                headings=block.headings,
                page=block.page,
                start=block.start,
                end=block.end,
                text=document.text[block.start : block.end],
            )
            for block in chunk_document(document, spans, max_tokens)
        ]

    def unknown_scripts(self) -> dict[str, float]:
        """Return script → share of the letters read, of scripts that the embedder doesn't know."""
        known = self.embedder.scripts or tuple(self.letters)
        total = self.letters.total()
        return {
            script: count / total
            for script, count in self.letters.most_common()
            if script not in known
        }

    def note(self) -> str:
        """Say how many of the passages only words can find; empty if there are none."""
        if not self.word_ranked:
            return ""
        shares = [f"{share:.0%} {script}" for script, share in self.unknown_scripts().items()]
        return (
            f"{self.word_ranked} of the passages read are found by words alone "
            f"({', '.join(shares)} letters): {suggest_multilingual(self.embedder)}"
        )

    def _count_scripts(self, passages: Sequence[Passage]) -> None:
        for passage in passages:
            self.letters += count_letters(passage.text)
            self.word_ranked += not self.embedder.knows(passage.text)

    def _skip(self, file: Path, reason: str) -> None:
        self.skipped.append((str(file), reason))
        say(f"Skipped {reason}")

    def _flush(self, bar: Bar) -> None:
        """Embed the pending passages together, and store them file by file."""
        texts = [embedded_text(passage) for _, _, waiting in self.pending for passage in waiting]
        vectors = self.embedder.encode(texts)
        begin = 0
        for file, digest, passages in self.pending:
            self.store.replace(file, digest, passages, vectors[begin : begin + len(passages)])
            begin += len(passages)
            self._count_scripts(passages)
            bar.advance(_size(file), note=Path(file).name)
        self.pending.clear()


def embedded_text(passage: Passage) -> str:
    """Return the text to embed: title and headings, which a passage from the middle needs, and the
    text."""
    return f"{passage.section}\n{passage.text}"


def find_documents(sources: Sequence[str]) -> tuple[list[Path], dict[str, int]]:
    """Return the documents below the sources, sorted, and the number of files of each other kind.

    Hidden files and folders are skipped, as `ls` does. Raises NotFound, BadData.
    """
    documents: dict[Path, None] = {}
    others: Counter[str] = Counter()
    for source in map(Path, sources):
        if not source.exists():
            raise NotFound(f"{source} is neither a file nor a folder.", "Check the path.")
        inside = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in inside:
            hidden = any(part.startswith(".") for part in file.relative_to(source).parts)
            if hidden or not file.is_file():
                continue
            if file.suffix.lower() in readers():
                documents[file] = None
            else:
                others[file.suffix.lower() or "without an ending"] += 1
    if not documents:
        raise BadData(
            f"There is no document in {', '.join(sources)}.",
            f"Supported kinds: {', '.join(readers())}.",
        )
    return list(documents), dict(others)


def _read_facts(locations: IndexLocations, name: str) -> dict[str, Any]:
    store = locations.open(name)
    facts = store.facts()
    store.close()
    return facts


def _refuse_too_long(settings: IndexSettings, embedder: Embedder) -> None:
    """Raise BadRecipe for passages that exceed the embedder's limit, which would cut them."""
    if settings.chunk_tokens > embedder.max_tokens:
        raise BadRecipe(
            f"Passages of {settings.chunk_tokens} tokens exceed the limit of {embedder.name} "
            f"({embedder.max_tokens} tokens).",
            "Use shorter ones, with room for the headings: --chunk-tokens 200",
        )


def _refuse_other_settings(
    name: str, facts: Mapping[str, Any], settings: IndexSettings, embedder: Embedder
) -> None:
    if not facts:
        return
    if facts["making"] != asdict(settings):
        description = ", ".join(f"{key} {value}" for key, value in facts["making"].items())
        raise BadRecipe(
            f"The index `{name}` was made with other settings: {description}.",
            f"Choose another --name, or remove {index_locations().where(name)}.",
        )
    refuse_other_embedder(name, facts, embedder)


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
