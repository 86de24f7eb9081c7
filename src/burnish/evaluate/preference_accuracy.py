"""Accuracy of a reward model on pairs: how often it prefers the better answer."""

import time
from collections.abc import Sequence

from burnish.core.errors import BadData
from burnish.core.progress import progress
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Prediction, Row, Scores
from burnish.evaluate.scoring import with_interval
from burnish.models.artifact import Artifact
from burnish.models.heads.reward_model import load_reward_model

METRIC = "pair_accuracy"


def evaluate_pairs(artifact: Artifact, rows: Sequence[Row], settings: Evaluate) -> Scores:
    """Return the share of rows whose chosen answer scores higher than the rejected one, with its
    interval.

    Each pair is read by itself, so that its `seconds` are those of a single request. Raises BadData
    for a row that isn't a pair.
    """
    if single := next((row for row in rows if row.rejected is None), None):
        raise BadData(
            f"{single.id}: the row has one answer; a reward model is measured on pairs.",
            "Give every test row a chosen and a rejected answer.",
        )
    reward, predictions = load_reward_model(artifact), []
    with progress("Judging pairs", total=len(rows)) as bar:
        for row in rows:
            begun = time.perf_counter()
            better, worse = reward.score([side.messages for side in row.sides])
            seconds = time.perf_counter() - begun
            assert row.rejected is not None
            preferred = row.answer if better > worse else row.rejected.content
            token_count = sum(len(reward.encode(side.messages)) for side in row.sides)
            question = "\n".join(message.content for message in row.prompt)
            predictions.append(
                Prediction(
                    row.id, question, row.answer, preferred, float(better > worse), token_count, 0,
                    seconds, group=row.group or "",
                )
            )  # fmt: skip
            bar.advance()
    return with_interval(METRIC, predictions, settings, {})
