"""The frozen test split: only results on the same questions can be compared.

The first run on some data writes the hash of every test row into the workspace. A later run gets
the same rows or is rejected.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.core.atomic import hash_json, write_json
from burnish.core.errors import TestSplitChanged
from burnish.core.recipe.data import Data
from burnish.core.records import Row
from burnish.core.settings import workspace
from burnish.data.duplicates import content_hash, earlier_hash

#: Version of the hash function; files without one are of the first version.
_FORM = 2


@dataclass(frozen=True, slots=True)
class Frozen:
    """The frozen test rows of some data: their hashes, in order, and the hash function."""

    rows: list[str]
    hash_of: Callable[[Row], str]


def frozen_rows(data: Data) -> Frozen | None:
    """Return the frozen test rows of this data; None before the first run."""
    file = _file(data)
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    is_current = content.get("form") == _FORM
    return Frozen(content["rows"], content_hash if is_current else earlier_hash)


def freeze(data: Data, test: Sequence[Row]) -> str:
    """Freeze the test split, or check that it is the frozen one; return its hash.

    Raises TestSplitChanged if it differs from the split of an earlier run.
    """
    hashes = [content_hash(row) for row in test]
    frozen = frozen_rows(data)
    current_hashes = [frozen.hash_of(row) for row in test] if frozen else []
    if frozen is None or frozen.rows == current_hashes:
        if current_hashes != hashes:
            write_json(_file(data), {"form": _FORM, "files": _files(data), "rows": hashes})
    else:
        removed, new = (
            len(set(frozen.rows) - set(current_hashes)),
            len(set(current_hashes) - set(frozen.rows)),
        )
        raise TestSplitChanged(
            f"The test split has changed since it was frozen: {removed} rows are gone, {new} are "
            "new. Results on different questions can't be compared.",
            "Restore the file; or accept the new one with `burnish check --refreeze` and measure "
            "everything again.",
        )
    return hash_json(hashes)


def thaw(data: Data) -> None:
    """Delete the frozen split: the next run freezes its own."""
    _file(data).unlink(missing_ok=True)


def _file(data: Data) -> Path:
    drawn = None if data.test else [data.seed, data.test_share, data.group, data.near_duplicate]
    columns = data.columns.model_dump(mode="json")
    name = hash_json([_files(data), drawn, columns])[:16]
    return workspace() / "frozen" / f"{name}.json"


def _files(data: Data) -> list[str]:
    return [str(path) for path in data.test or data.train]
