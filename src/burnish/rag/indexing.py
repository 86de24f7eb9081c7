"""`burnish index`: folders and files → an index that holds exactly what they hold now.

Only what changed is embedded: a file is known by the hash of its content. Files come into the
index a few at a time, each whole, so that an indexing that was killed goes on where it stood.
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

#: Part of what a file is known by: a change in how files are read or cut makes all anew.
_VERSION = 1
#: Passages that are embedded before the files they are of are put down.
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an indexing did, in files, and how many passages the index has now.

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
        """The shape that `burnish index --json` prints."""
        skipped = [{"file": file, "reason": reason} for file, reason in self.skipped]
        return {**asdict(self), "skipped": skipped}

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        files = self.added + self.changed + self.unchanged
        lines = [
            f"{self.name}: {files} files in {self.passages} passages ({self.added} new, "
            f"{self.changed} changed, {self.unchanged} as before, {self.removed} removed)."
        ]
        lines += [f"Skipped {reason}" for _, reason in self.skipped]
        if self.not_read:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.not_read.items())
            lines.append(f"Left out, of kinds that are not read: {kinds}.")
        if self.note:
            lines.append(self.note)
        lines.append(f'Try it: burnish search {self.name} "a question"')
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How passages are made: the name of the embedder, and the tokens that a passage may have."""

    embedder: str = "all-minilm-l6-v2"
    chunk_tokens: int = 200


def build_index(
    sources: Sequence[Path], name: str, changes: Mapping[str, Any] | None = None
) -> IndexReport:
    """Make or renew the index `name` so that it holds what `sources` hold now.

    Without sources, those of last time; `changes` are fields of Making. Raises NotFound for a path
    that isn't there, BadData if there is nothing to read (no new index is left then), BadRecipe if
    the index was made in another way.
    """
    kept = index_locations()
    where = kept.where(name)
    is_new = name not in kept.names()
    before = {} if is_new else _read_facts(kept, name)
    named = [str(path.absolute()) for path in sources] or list(before.get("sources", ()))
    if not named:
        raise BadRecipe("Nothing is named to index.", f"burnish index FOLDER --name {name}")
    making = IndexSettings(**{**before.get("making", {}), **(changes or {})})
    files, not_read = find_documents(named)
    embedder = Embedder(find_model(making.embedder))
    _refuse_too_long(making, embedder)
    _refuse_other_settings(name, before, making, embedder)
    store = kept.open(name)
    work = _Indexer(store, embedder, making)
    own = {"name": embedder.name, "sha256": embedder.sha256}
    facts = {"sources": named, "making": asdict(making), "embedder": own}
    store.set_facts({**facts, "complete": False})
    counts = work.renew(files)
    store.refresh()
    store.set_facts({**facts, "complete": True})
    passages = store.count()
    store.close()
    if is_new and not passages:
        kept.remove(name)
        raise BadData("None of the files can be read.", "\n".join(r for _, r in work.skipped))
    return IndexReport(
        name, where, *counts, passages, tuple(work.skipped), not_read,
        work.unknown_scripts(), work.word_ranked, work.note(),
    )  # fmt: skip


@dataclass(slots=True)
class _Indexer:
    """One run over the files; `waiting` are those that are read and not yet put down."""

    store: PassageStore
    embedder: Embedder
    settings: IndexSettings
    pending: list[tuple[str, str, list[Passage]]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    letters: Counter[str] = field(default_factory=Counter)
    word_ranked: int = 0

    def renew(self, files: Sequence[Path]) -> tuple[int, int, int, int]:
        """Bring the store to what the files hold: (added, changed, unchanged, removed)."""
        known = self.store.digests()
        found = {str(file): digest for file in files if (digest := self._digest(file))}
        fresh = [file for file, digest in found.items() if known.get(file) != digest]
        with progress("Indexing", total=sum(_size(file) for file in fresh)) as bar:
            for file in fresh:
                passages = self._read_passages(Path(file))
                if passages:
                    self.pending.append((file, found[file], passages))
                else:
                    bar.advance(_size(file))
                if sum(len(some) for _, _, some in self.pending) >= _BLOCK:
                    self._flush(bar)
            self._flush(bar)
        broken = {file for file, _ in self.skipped}
        gone = set(known) - (set(found) - broken)
        self.store.remove(gone)
        read = [file for file in fresh if file not in broken]
        changed = sum(file in known for file in read)
        return len(read) - changed, changed, len(found) - len(fresh), len(gone)

    def _digest(self, file: Path) -> str | None:
        try:
            return f"{_VERSION}-{hash_file(file)}"
        except OSError as error:
            self._skip(file, f"{file} can't be read: {error.strerror}.")
            return None

    def _read_passages(self, file: Path) -> list[Passage]:
        """What a file says, in passages; none, and named, if it can't be read."""
        try:
            document = read_document(file)
        except (BadData, Unavailable) as error:
            self._skip(file, f"{error.what.rstrip('.')}. {error.fix}")
            return []
        for note in document.notes:
            say(f"{file}: {note}.")
        spans, most = self.embedder.token_spans, self.settings.chunk_tokens
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
            for block in chunk_document(document, spans, most)
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
        """Embed what waits, all in one go, and put it into the store file by file."""
        texts = [embedded_text(passage) for _, _, some in self.pending for passage in some]
        vectors = self.embedder.encode(texts)
        begin = 0
        for file, digest, passages in self.pending:
            self.store.replace(file, digest, passages, vectors[begin : begin + len(passages)])
            begin += len(passages)
            self._count_scripts(passages)
            bar.advance(_size(file), note=Path(file).name)
        self.pending.clear()


def embedded_text(passage: Passage) -> str:
    """What is embedded: title and headings, which a passage from the middle needs, and the text."""
    return f"{passage.section}\n{passage.text}"


def find_documents(sources: Sequence[str]) -> tuple[list[Path], dict[str, int]]:
    """Documents below the sources, sorted, and how many files of each other kind there are.

    Hidden files and folders are passed over, as `ls` does. Raises NotFound, BadData.
    """
    found: dict[Path, None] = {}
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
                found[file] = None
            else:
                others[file.suffix.lower() or "without an ending"] += 1
    if not found:
        raise BadData(
            f"There is no document in {', '.join(sources)}.",
            f"Kinds that can be read: {', '.join(readers())}.",
        )
    return list(found), dict(others)


def _read_facts(kept: IndexLocations, name: str) -> dict[str, Any]:
    store = kept.open(name)
    facts = store.facts()
    store.close()
    return facts


def _refuse_too_long(making: IndexSettings, embedder: Embedder) -> None:
    """Raise BadRecipe for passages whose end would not be in their vectors."""
    if making.chunk_tokens > embedder.max_tokens:
        raise BadRecipe(
            f"Passages of {making.chunk_tokens} tokens are longer than what {embedder.name} reads "
            f"({embedder.max_tokens} tokens).",
            "Take shorter ones, with room for the headings: --chunk-tokens 200",
        )


def _refuse_other_settings(
    name: str, facts: Mapping[str, Any], making: IndexSettings, embedder: Embedder
) -> None:
    if not facts:
        return
    if facts["making"] != asdict(making):
        made = ", ".join(f"{key} {value}" for key, value in facts["making"].items())
        raise BadRecipe(
            f"The index `{name}` was made with other settings: {made}.",
            f"Choose another --name, or remove {index_locations().where(name)}.",
        )
    refuse_other_embedder(name, facts, embedder)


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
