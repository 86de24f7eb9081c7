"""`burnish export --for-this-machine`: which format answers best here, found by asking all of them.

Cheap first: few questions to all candidates, more to those that are left (`export.halving`). The
best that keeps the limits then has to pass the parity gate; if it doesn't, the next one may try.
"""

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.atomic import write_json
from burnish.core.errors import AlreadyThere, BurnishError
from burnish.core.progress import progress, say
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.engines.local.open import open_engine
from burnish.evaluate.metrics import METRICS
from burnish.export.formats.importance_matrix import WEIGHED, Importance, importance_of
from burnish.export.formats.registry import refuse_pairs, write_export
from burnish.export.layer_pruning import shortened
from burnish.export.parity.clients import Reply, free
from burnish.export.parity.questions import Questions, Trained, ask_trained, questions
from burnish.export.run import Exported, context_room, gate
from burnish.export.search.limits import impossible
from burnish.export.search.report import page_of
from burnish.export.search.result import Fitted
from burnish.export.search.successive_halving import (
    Rules,
    alive,
    decisions,
    finalists,
    halve,
    refuse,
)
from burnish.export.search.trial import Drop, Trial, candidates
from burnish.export.search.winner import FOUND, note_search
from burnish.models.artifact import Artifact, open_artifact
from burnish.report.export_search import write_fit_report


def fit(run: Run, recipe: Recipe, out: Path | None = None) -> Fitted:
    """Search, and write the pick with `search.json` into a folder; only that file without a pick.

    Raises CannotExport, AlreadyThere, BadRecipe before anything is written.
    """
    folder = (out or run.path / "exports" / "for-this-machine").absolute()
    if folder.exists():
        raise AlreadyThere(f"{folder} exists already.", "Choose another --out, or remove it.")
    tried = [Trial(candidate) for candidate in candidates(recipe.export.fit)]
    artifact = open_artifact(run.artifact)
    for trial in tried:
        refuse_pairs(recipe.export, trial.candidate.to, artifact)
    asked = questions(recipe, artifact)
    trained = ask_trained(open_engine(str(run.path)), asked)
    with shortened(recipe, artifact) as source:
        found = search(source, asked, trained, recipe, tried, folder)
    note_search(run, folder)
    return found


def search(
    artifact: Artifact,
    asked: Questions,
    trained: Trained,
    recipe: Recipe,
    trials: Sequence[Trial],
    folder: Path,
) -> Fitted:
    """The race between trials, the gate, and the files of the result in `folder`."""
    order = list(range(len(asked.rows)))
    random.Random(recipe.evaluate.seed).shuffle(order)
    rounds = _rounds(len(order), recipe.export.fit.first_rows)
    score = METRICS[asked.metric]
    scores = [score(asked.rows[n].answer, trained.free[n].text) for n in order]
    settings = recipe.export
    shared = decisions(len(trials), len(rounds))
    rules = Rules(settings, scores, 1 - (1 - settings.confidence) / shared)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".search-") as draft:
        _refuse_narrow(trials, context_room(asked, trained))
        _write(Path(draft), artifact, trials, importance_of(recipe, artifact))
        _race(asked, trained, trials, rules, [order[a:b] for a, b in rounds])
        pick, exported, against = _decide(asked, trained, recipe, trials, rules)
        if pick is None or exported is None:
            folder.mkdir()
        else:
            shutil.move(exported.artifact.path, folder)
            exported = replace(exported, artifact=open_artifact(folder))
        result = Fitted(folder, trials, rules, asked.metric, pick, exported, against)
        write_json(folder / FOUND, result.as_dict())
        write_fit_report(page_of(result), folder / "export.html")
    return result


def _rounds(rows: int, first: int) -> list[tuple[int, int]]:
    """Begin and end of each round's questions: together twice as many as the round before."""
    ends = [min(first, rows)]
    while ends[-1] < rows:
        ends.append(min(2 * ends[-1], rows))
    return list(zip([0, *ends], ends, strict=False))


def _write(
    draft: Path, artifact: Artifact, trials: Sequence[Trial], importance: Importance | None
) -> None:
    """Each format once, whatever the threads; what can't be written is out of the race."""
    written: dict[str, Artifact | BurnishError] = {}
    for trial in trials:
        one = trial.candidate
        if one.form not in written:
            try:
                place = draft / f"{one.to}-{one.quant}".replace(" ", "-")
                given = importance if one.to in WEIGHED else None
                written[one.form] = write_export(place, artifact, one.to, one.quant, given)
            except BurnishError as error:
                written[one.form] = error
        made = written[one.form]
        if isinstance(made, BurnishError):
            trial.dropped = Drop("failed", made.what)
        else:
            trial.artifact = made
            trial.disk_bytes = sum(file.stat().st_size for file in made.path.iterdir())


def _refuse_narrow(trials: Sequence[Trial], room: int) -> None:
    """A context that the questions don't fit into would be asked for nothing."""
    for trial in trials:
        context = trial.candidate.context
        if context and context < room:
            why = f"its context of {context} tokens is too short: the questions need {room}"
            trial.dropped = Drop("failed", why)


def _race(
    asked: Questions,
    trained: Trained,
    trials: Sequence[Trial],
    rules: Rules,
    rounds: Sequence[Sequence[int]],
) -> None:
    score = METRICS[asked.metric]
    prompts = free(asked.prompts)
    room = context_room(asked, trained)
    for number, places in enumerate(rounds, 1):
        left = alive(trials)
        if number > 1 and len(left) <= rules.fit.finalists:
            return
        with progress(f"Round {number}: {len(left)} candidates", total=len(left)) as bar:
            for trial in left:
                replies: list[Reply] = trial.ask([prompts[place] for place in places], room)
                trial.scores += [
                    score(asked.rows[place].answer, reply.text)
                    for place, reply in zip(places, replies, strict=False)
                ]
                bar.advance(note=str(trial.candidate))
        refuse(trials, rules)
        halve(trials, rules)
        say(f"Round {number}: {len(left)} asked {len(places)} questions, {len(alive(trials))} left")


def _decide(
    asked: Questions, trained: Trained, recipe: Recipe, trials: Sequence[Trial], rules: Rules
) -> tuple[Trial | None, Exported | None, list[str]]:
    """The first finalist that passes the gate; else why none did."""
    # Several tries at one gate share its error rate.
    sure = 1 - (1 - recipe.export.confidence) / rules.fit.finalists
    against: list[str] = []
    room = context_room(asked, trained)
    for trial in finalists(trials, rules):
        assert trial.artifact is not None
        one = trial.candidate
        say(f"{one} before the gate")
        export = recipe.export.model_copy(update={"threads": one.threads, "confidence": sure})
        try:
            changed = recipe.model_copy(update={"export": export})
            exported = gate(trial.artifact, asked, trained, changed, one.running(room))
        except BurnishError as error:
            trial.dropped = Drop("failed", error.what)
            continue
        if exported.parity.shippable:
            return trial, exported, []
        trial.dropped = Drop("loss", " ".join(exported.parity.against))
        against += [f"{one}: {reason}" for reason in exported.parity.against]
    faithful = [t for t in trials if not (t.dropped and t.dropped.kind in ("loss", "failed"))]
    against = impossible(faithful, rules.fit) + against
    return None, None, against or _nothing_left(trials)


def _nothing_left(trials: Sequence[Trial]) -> list[str]:
    """What became of each candidate, where no limit explains it."""
    return [f"{trial.candidate}: {trial.dropped.why}" for trial in trials if trial.dropped]
