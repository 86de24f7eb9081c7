"""Atomic writes: files and folders that are complete or absent, and content hashes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from burnish.core.errors import AlreadyThere, NotFound


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 as a lower-case hex string."""
    return hashlib.sha256(content).hexdigest()


def refuse_missing(file: Path) -> None:
    """Raise NotFound unless `file`, a path that a user typed, is a file."""
    if not file.is_file():
        raise NotFound(f"{file} is not a file.", "Check the path.")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hash_bytes(text.encode())


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` in one step (temporary file, fsync, rename): readers see old or new content.

    Raises OSError when the disk is full or the folder is not writable; `path` is then untouched.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file open for writing bytes; it becomes `path`, on disk, only if the block
    succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync_folder(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a draft folder that becomes `path` only if the block succeeds.

    Raises AlreadyThere at once, before any work, when `path` exists and `replace` is off.
    """
    if path.exists() and not replace:
        raise AlreadyThere(f"{path} already exists.", "Choose another name, or remove it.")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync_tree(draft)
    if path.exists():
        retired = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(retired)
        draft.rename(path)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        draft.rename(path)
    sync_folder(path.parent)


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
