"""Looks: each verdict over the same questions spends its share of alpha.

To collect more rows until something ships is optional stopping, and so is to try one fine-tune
after the other on one test split: at 5 % each, the chance that one of them ships by luck grows with
every look. So look k has `alpha / (k (k + 1))`, which adds up to alpha over all looks there may
ever be, whatever made one look again (alpha spending, Lan & DeMets 1983, Biometrika 70:659; by
Bonferroni's inequality, so that nothing is assumed of how looks hang together).

Looks are kept in the workspace. They belong together where they share most of their test rows; the
same answers to the same rows are the same look, however often the command is repeated.
"""

import json
import time
from collections.abc import Mapping, Sequence

from burnish.core.atomic import hash_json, write_json
from burnish.core.records import Row, Scores
from burnish.core.settings import workspace
from burnish.data.duplicates import content_hash

#: Looks that share this much of the smaller one's rows are looks at one question.
_SHARED = 0.5


def alpha_of(alpha: float, look: int) -> float:
    """What look number `look` (from 1) may spend of alpha."""
    return alpha / (look * (look + 1))


def look_at(rows: Sequence[Row], routes: Mapping[str, Scores], run: str) -> int:
    """The number of this look at the rows, from 1, which is written down."""
    hashes = [content_hash(row)[:16] for row in rows]
    values = {name: scores.values for name, scores in sorted(routes.items())}
    folder = workspace() / "looks"
    file = folder / f"{hash_json([hashes, values])[:24]}.json"
    if file.exists():
        return int(json.loads(file.read_text(encoding="utf-8"))["look"])
    own = set(hashes)
    before = [json.loads(one.read_text(encoding="utf-8")) for one in folder.glob("*.json")]
    number = 1 + sum(_shares(own, set(look["rows"])) for look in before)
    facts = {"look": number, "run": run, "at": int(time.time()), "rows": hashes}
    write_json(file, facts)
    return number


def _shares(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= _SHARED * min(len(one), len(other))
