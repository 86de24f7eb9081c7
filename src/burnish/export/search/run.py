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
from burnish.core.records import clusters_of
from burnish.core.runs import Run
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.metrics import METRICS
from burnish.export.formats.importance_matrix import (
    IMPORTANCE_FORMATS,
    Importance,
    compute_importance,
)
from burnish.export.formats.registry import check_seq2seq_export, write_export
from burnish.export.layer_pruning import drop_layers
from burnish.export.parity.clients import ServedAnswer, without_choices
from burnish.export.parity.questions import (
    GateQuestions,
    TrainedAnswers,
    ask_trained,
    make_questions,
)
from burnish.export.run import ExportResult, required_context, run_gate
from burnish.export.search.limits import explain_impossible
from burnish.export.search.report import search_contents
from burnish.export.search.result import SearchResult
from burnish.export.search.successive_halving import (
    SearchRules,
    count_decisions,
    drop_violators,
    drop_worse_half,
    in_race,
    select_finalists,
)
from burnish.export.search.trial import CandidateTrial, DropReason, list_candidates
from burnish.export.search.winner import SEARCH_FILE, record_search
from burnish.models.artifact import Artifact, open_artifact
from burnish.report.export_search import write_export_search_report


def search_formats(run: Run, recipe: Recipe, out: Path | None = None) -> SearchResult:
    """Search, and write the pick with `search.json` into a folder; only that file without a pick.

    Raises CannotExport, AlreadyThere, BadRecipe before anything is written.
    """
    folder = (out or run.path / "exports" / "for-this-machine").absolute()
    if folder.exists():
        raise AlreadyThere(f"{folder} exists already.", "Choose another --out, or remove it.")
    tried = [CandidateTrial(candidate) for candidate in list_candidates(recipe.export.fit)]
    artifact = open_artifact(run.artifact)
    for trial in tried:
        check_seq2seq_export(recipe.export, trial.candidate.to, artifact)
    asked = make_questions(recipe, artifact)
    trained = ask_trained(open_local_engine(str(run.path)), asked)
    with drop_layers(recipe, artifact) as source:
        found = run_search(source, asked, trained, recipe, tried, folder)
    record_search(run, folder)
    return found


def run_search(
    artifact: Artifact,
    asked: GateQuestions,
    trained: TrainedAnswers,
    recipe: Recipe,
    trials: Sequence[CandidateTrial],
    folder: Path,
) -> SearchResult:
    """The race between trials, the gate, and the files of the result in `folder`."""
    order = list(range(len(asked.rows)))
    random.Random(recipe.evaluate.seed).shuffle(order)
    rounds = _round_ranges(len(order), recipe.export.fit.first_rows)
    score = METRICS[asked.metric]
    scores = [score(asked.rows[n].answer, trained.free[n].text) for n in order]
    settings = recipe.export
    shared = count_decisions(len(trials), len(rounds))
    clusters = clusters_of([asked.rows[n] for n in order])
    rules = SearchRules(settings, scores, 1 - (1 - settings.confidence) / shared, clusters)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".search-") as draft:
        _drop_narrow(trials, required_context(asked, trained))
        _write_formats(Path(draft), artifact, trials, compute_importance(recipe, artifact))
        _run_race(asked, trained, trials, rules, [order[a:b] for a, b in rounds])
        pick, exported, against = _pick_winner(asked, trained, recipe, trials, rules)
        if pick is None or exported is None:
            folder.mkdir()
        else:
            shutil.move(exported.artifact.path, folder)
            exported = replace(exported, artifact=open_artifact(folder))
        result = SearchResult(folder, trials, rules, asked.metric, pick, exported, against)
        write_json(folder / SEARCH_FILE, result.as_dict())
        write_export_search_report(search_contents(result), folder / "export.html")
    return result


def _round_ranges(rows: int, first: int) -> list[tuple[int, int]]:
    """Begin and end of each round's questions: together twice as many as the round before."""
    ends = [min(first, rows)]
    while ends[-1] < rows:
        ends.append(min(2 * ends[-1], rows))
    return list(zip([0, *ends], ends, strict=False))


def _write_formats(
    draft: Path, artifact: Artifact, trials: Sequence[CandidateTrial], importance: Importance | None
) -> None:
    """Each format once, whatever the threads; what can't be written is out of the race."""
    written: dict[str, Artifact | BurnishError] = {}
    for trial in trials:
        one = trial.candidate
        if one.format_name not in written:
            try:
                place = draft / f"{one.to}-{one.quant}".replace(" ", "-")
                given = importance if one.to in IMPORTANCE_FORMATS else None
                written[one.format_name] = write_export(place, artifact, one.to, one.quant, given)
            except BurnishError as error:
                written[one.format_name] = error
        made = written[one.format_name]
        if isinstance(made, BurnishError):
            trial.dropped = DropReason("failed", made.what)
        else:
            trial.artifact = made
            trial.disk_bytes = sum(file.stat().st_size for file in made.path.iterdir())


def _drop_narrow(trials: Sequence[CandidateTrial], room: int) -> None:
    """A context that the questions don't fit into would be asked for nothing."""
    for trial in trials:
        context = trial.candidate.context
        if context and context < room:
            why = f"its context of {context} tokens is too short: the questions need {room}"
            trial.dropped = DropReason("failed", why)


def _run_race(
    asked: GateQuestions,
    trained: TrainedAnswers,
    trials: Sequence[CandidateTrial],
    rules: SearchRules,
    rounds: Sequence[Sequence[int]],
) -> None:
    score = METRICS[asked.metric]
    prompts = without_choices(asked.prompts)
    room = required_context(asked, trained)
    for number, places in enumerate(rounds, 1):
        left = in_race(trials)
        if number > 1 and len(left) <= rules.fit.finalists:
            return
        with progress(f"Round {number}: {len(left)} candidates", total=len(left)) as bar:
            for trial in left:
                replies: list[ServedAnswer] = trial.ask([prompts[place] for place in places], room)
                trial.scores += [
                    score(asked.rows[place].answer, reply.text)
                    for place, reply in zip(places, replies, strict=False)
                ]
                bar.advance(note=str(trial.candidate))
        drop_violators(trials, rules)
        drop_worse_half(trials, rules)
        say(
            f"Round {number}: {len(left)} asked {len(places)} questions, "
            f"{len(in_race(trials))} left"
        )


def _pick_winner(
    asked: GateQuestions,
    trained: TrainedAnswers,
    recipe: Recipe,
    trials: Sequence[CandidateTrial],
    rules: SearchRules,
) -> tuple[CandidateTrial | None, ExportResult | None, list[str]]:
    """The first finalist that passes the gate; else why none did."""
    sure = rules.gate_confidence(len(trials))
    against: list[str] = []
    room = required_context(asked, trained)
    for trial in select_finalists(trials, rules):
        assert trial.artifact is not None
        one = trial.candidate
        say(f"{one} before the gate")
        export = recipe.export.model_copy(update={"threads": one.threads, "confidence": sure})
        try:
            changed = recipe.model_copy(update={"export": export})
            exported = run_gate(trial.artifact, asked, trained, changed, one.launch_options(room))
        except BurnishError as error:
            trial.dropped = DropReason("failed", error.what)
            continue
        if exported.parity.shippable:
            return trial, exported, []
        trial.dropped = DropReason("loss", " ".join(exported.parity.against))
        against += [f"{one}: {reason}" for reason in exported.parity.against]
    faithful = [t for t in trials if not (t.dropped and t.dropped.kind in ("loss", "failed"))]
    against = explain_impossible(faithful, rules.fit) + against
    return None, None, against or _drop_reasons(trials)


def _drop_reasons(trials: Sequence[CandidateTrial]) -> list[str]:
    """What became of each candidate, where no limit explains it."""
    return [f"{trial.candidate}: {trial.dropped.why}" for trial in trials if trial.dropped]
