"""Looks: each verdict over the same questions spends its share of alpha.

Collecting more rows until a fine-tune ships is optional stopping, and so is trying one fine-tune
after another on one test split: at 5 % each, the chance that one of them ships by luck grows with
every look. So look k gets `alpha / (k (k + 1))`, which adds up to alpha over all looks, whatever
the reason to look again (alpha spending, Lan & DeMets 1983, Biometrika 70:659; by Bonferroni's
inequality, so nothing is assumed about the dependence of looks).

Looks are kept in the workspace. They belong together if they share most of their test rows; the
same answers to the same rows are the same look, however often the command is repeated.
"""

import json
import time
from collections.abc import Mapping, Sequence

from burnish.core.atomic import hash_json, write_json
from burnish.core.records import Row, Scores
from burnish.core.settings import workspace
from burnish.data.duplicates import content_hash

#: Looks that share this much of the smaller one's rows belong together.
_SHARED = 0.5


def alpha_of(alpha: float, look: int) -> float:
    """Return the alpha that look number `look` (from 1) may spend."""
    return alpha / (look * (look + 1))


def look_at(rows: Sequence[Row], routes: Mapping[str, Scores], run: str) -> int:
    """Record a look at the rows and return its number, from 1."""
    hashes = [content_hash(row)[:16] for row in rows]
    values = {name: scores.values for name, scores in sorted(routes.items())}
    folder = workspace() / "looks"
    file = folder / f"{hash_json([hashes, values])[:24]}.json"
    if file.exists():
        return int(json.loads(file.read_text(encoding="utf-8"))["look"])
    row_hashes = set(hashes)
    earlier = [
        json.loads(look_file.read_text(encoding="utf-8")) for look_file in folder.glob("*.json")
    ]
    number = 1 + sum(_shares(row_hashes, set(look["rows"])) for look in earlier)
    facts = {"look": number, "run": run, "at": int(time.time()), "rows": hashes}
    write_json(file, facts)
    return number


def _shares(first: set[str], second: set[str]) -> bool:
    return len(first & second) >= _SHARED * min(len(first), len(second))
