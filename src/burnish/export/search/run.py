"""`burnish export --for-this-machine`: find the best format here by asking all of them.

Cheap first: few questions to all candidates, more to the remaining ones
(`export.search.successive_halving`). The best that keeps the limits must then pass the parity gate;
if it fails, the next one may try.
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
        raise AlreadyThere(f"{folder} already exists.", "Choose another --out, or remove it.")
    trials = [CandidateTrial(candidate) for candidate in list_candidates(recipe.export.fit)]
    artifact = open_artifact(run.artifact)
    for trial in trials:
        check_seq2seq_export(recipe.export, trial.candidate.to, artifact)
    questions = make_questions(recipe, artifact)
    trained = ask_trained(open_local_engine(str(run.path)), questions)
    with drop_layers(recipe, artifact) as source:
        result = run_search(source, questions, trained, recipe, trials, folder)
    record_search(run, folder)
    return result


def run_search(
    artifact: Artifact,
    questions: GateQuestions,
    trained: TrainedAnswers,
    recipe: Recipe,
    trials: Sequence[CandidateTrial],
    folder: Path,
) -> SearchResult:
    """Run the trials and the gate, and write the result's files into `folder`."""
    order = list(range(len(questions.rows)))
    random.Random(recipe.evaluate.seed).shuffle(order)
    rounds = _round_ranges(len(order), recipe.export.fit.first_rows)
    score = METRICS[questions.metric]
    scores = [score(questions.rows[n].answer, trained.free[n].text) for n in order]
    settings = recipe.export
    decisions = count_decisions(len(trials), len(rounds))
    clusters = clusters_of([questions.rows[n] for n in order])
    rules = SearchRules(settings, scores, 1 - (1 - settings.confidence) / decisions, clusters)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".search-") as draft:
        _drop_narrow(trials, required_context(questions, trained))
        _write_formats(Path(draft), artifact, trials, compute_importance(recipe, artifact))
        _run_race(questions, trained, trials, rules, [order[a:b] for a, b in rounds])
        pick, exported, against = _pick_winner(questions, trained, recipe, trials, rules)
        if pick is None or exported is None:
            folder.mkdir()
        else:
            shutil.move(exported.artifact.path, folder)
            exported = replace(exported, artifact=open_artifact(folder))
        result = SearchResult(folder, trials, rules, questions.metric, pick, exported, against)
        write_json(folder / SEARCH_FILE, result.as_dict())
        write_export_search_report(search_contents(result), folder / "export.html")
    return result


def _round_ranges(rows: int, first: int) -> list[tuple[int, int]]:
    """Return (begin, end) of each round's questions; each round doubles the total."""
    ends = [min(first, rows)]
    while ends[-1] < rows:
        ends.append(min(2 * ends[-1], rows))
    return list(zip([0, *ends], ends, strict=False))


def _write_formats(
    draft: Path, artifact: Artifact, trials: Sequence[CandidateTrial], importance: Importance | None
) -> None:
    """Write each format once, whatever the threads; formats that fail are dropped."""
    written: dict[str, Artifact | BurnishError] = {}
    for trial in trials:
        candidate = trial.candidate
        if candidate.format_name not in written:
            try:
                folder = draft / f"{candidate.to}-{candidate.quant}".replace(" ", "-")
                format_importance = importance if candidate.to in IMPORTANCE_FORMATS else None
                written[candidate.format_name] = write_export(
                    folder, artifact, candidate.to, candidate.quant, format_importance
                )
            except BurnishError as error:
                written[candidate.format_name] = error
        result = written[candidate.format_name]
        if isinstance(result, BurnishError):
            trial.dropped = DropReason("failed", result.what)
        else:
            trial.artifact = result
            trial.disk_bytes = sum(file.stat().st_size for file in result.path.iterdir())


def _drop_narrow(trials: Sequence[CandidateTrial], required: int) -> None:
    """Drop candidates whose context is too short for the questions."""
    for trial in trials:
        context = trial.candidate.context
        if context and context < required:
            why = f"its context of {context} tokens is too short: the questions need {required}"
            trial.dropped = DropReason("failed", why)


def _run_race(
    questions: GateQuestions,
    trained: TrainedAnswers,
    trials: Sequence[CandidateTrial],
    rules: SearchRules,
    rounds: Sequence[Sequence[int]],
) -> None:
    score = METRICS[questions.metric]
    prompts = without_choices(questions.prompts)
    context = required_context(questions, trained)
    for number, indices in enumerate(rounds, 1):
        remaining = in_race(trials)
        if number > 1 and len(remaining) <= rules.fit.finalists:
            return
        with progress(f"Round {number}: {len(remaining)} candidates", total=len(remaining)) as bar:
            for trial in remaining:
                replies: list[ServedAnswer] = trial.ask(
                    [prompts[index] for index in indices], context
                )
                trial.scores += [
                    score(questions.rows[index].answer, reply.text)
                    for index, reply in zip(indices, replies, strict=False)
                ]
                bar.advance(note=str(trial.candidate))
        drop_violators(trials, rules)
        drop_worse_half(trials, rules)
        say(
            f"Round {number}: {len(remaining)} candidates asked {len(indices)} questions, "
            f"{len(in_race(trials))} left"
        )


def _pick_winner(
    questions: GateQuestions,
    trained: TrainedAnswers,
    recipe: Recipe,
    trials: Sequence[CandidateTrial],
    rules: SearchRules,
) -> tuple[CandidateTrial | None, ExportResult | None, list[str]]:
    """Return the first finalist that passes the gate; else why none did."""
    gate_confidence = rules.gate_confidence(len(trials))
    against: list[str] = []
    context = required_context(questions, trained)
    for trial in select_finalists(trials, rules):
        assert trial.artifact is not None
        candidate = trial.candidate
        say(f"{candidate}: parity gate")
        export = recipe.export.model_copy(
            update={"threads": candidate.threads, "confidence": gate_confidence}
        )
        try:
            trial_recipe = recipe.model_copy(update={"export": export})
            exported = run_gate(
                trial.artifact, questions, trained, trial_recipe, candidate.launch_options(context)
            )
        except BurnishError as error:
            trial.dropped = DropReason("failed", error.what)
            continue
        if exported.parity.shippable:
            return trial, exported, []
        trial.dropped = DropReason("loss", " ".join(exported.parity.against))
        against += [f"{candidate}: {reason}" for reason in exported.parity.against]
    faithful = [t for t in trials if not (t.dropped and t.dropped.kind in ("loss", "failed"))]
    against = explain_impossible(faithful, rules.fit) + against
    return None, None, against or _drop_reasons(trials)


def _drop_reasons(trials: Sequence[CandidateTrial]) -> list[str]:
    """Return why each candidate was dropped, where no limit explains it."""
    return [f"{trial.candidate}: {trial.dropped.why}" for trial in trials if trial.dropped]
