"""`burnish import-openai`: what a team leaves behind at OpenAI, trained and asked again here.

A folder holds what `examples/openai_export.py` saved: jobs, their files, and stored completions.
Every job that succeeded is trained again on the same rows with the same hyperparameters, and each
new model is asked what the old one was asked; the old answers are the standard.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from burnish.core.atomic import write_atomic, write_json
from burnish.core.errors import BadData
from burnish.core.progress import say
from burnish.core.recipe.data import Data, Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Row, Scores
from burnish.core.runs import Run, new_run
from burnish.core.stats import PairedTest, paired_test
from burnish.data.draws import grouped
from burnish.data.load import load
from burnish.data.read import read_files
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.prediction_cache import evaluate_cached
from burnish.evaluate.scoring import PromptSet, save_predictions
from burnish.evaluate.tasks import answer_length, as_prompt
from burnish.models.find_artifact import hash_weights
from burnish.serve.errors import RequestError
from burnish.serve.fine_tuning.recipe import METHODS, JobSpec, recipe_for_job
from burnish.serve.graders.protocol import RewardGrader, reject_code
from burnish.train.cached_run import train_cached


@dataclass(frozen=True, slots=True)
class OpenAIExport:
    """What a folder holds: jobs, files by id, and answers of old models as chat rows, by model.

    `broken` says of a job's file by id why it isn't JSON.
    """

    jobs: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    broken: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReplayedJob:
    """One old model and the new one; how near base and new model come to the old answers."""

    job: str
    old: str
    run: str
    hyperparameters: Mapping[str, Any]
    questions: int = 0
    base: float | None = None
    new: float | None = None
    same: float | None = None
    gain: PairedTest | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """All jobs that were trained again, and why the others weren't."""

    run: Run
    replayed: Sequence[ReplayedJob]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The shape that `burnish import-openai --json` prints."""
        return {
            "run": self.run.id,
            "jobs": [asdict(job) for job in self.replayed],
            "skipped": dict(self.skipped),
        }

    def as_text(self) -> str:
        """What a person reads on the terminal."""
        lines = []
        for job in self.replayed:
            lines.append(
                f"{job.old} is now {job.run}: burnish serve {job.run} --alias {job.old}={job.run}"
            )
            if job.gain:
                low, high = job.gain.gain.low, job.gain.gain.high
                lines.append(
                    f"  {job.questions} old answers, likeness (ROUGE-L): base {job.base:.1%}, new "
                    f"{job.new:.1%}; {job.same:.1%} word for word; gain {100 * low:+.1f} to "
                    f"{100 * high:+.1f} points"
                )
            else:
                lines.append("  no stored answers of the old model: nothing to compare with")
        lines += [f"{job} was not trained again: {why}" for job, why in self.skipped.items()]
        return "\n".join(lines) or "The folder holds no jobs."


def import_openai(folder: Path, base: str, out: Path | None = None) -> ImportReport:
    """Train the exported jobs again on `base` and compare old answers with new ones.

    Raises BadData if the folder holds nothing of OpenAI's, NotFound without the base. Interrupted,
    it finds its trainings and answers again when the same command is repeated.
    """
    export = read_export(folder)
    recipe = make_recipe({"model": {"name": base}})
    run = new_run("import-openai", recipe, {"folder": str(folder), "jobs": len(export.jobs)}, out)
    replayed, skipped = [], {}
    for job in export.jobs:
        reason = _skip_reason(job, export)
        if reason:
            skipped[str(job["id"])] = reason
            continue
        replayed.append(_replay(job, export, base, run))
    result = ImportReport(run, replayed, skipped)
    write_json(run.path / "report.json", result.as_dict())
    return result


def read_export(folder: Path) -> OpenAIExport:
    """Sort what a folder holds by what it is. Raises BadData if nothing of it is OpenAI's.

    OpenAI keeps the file of a job that failed over it, so a job's file may be no JSON; any other
    file that isn't raises BadData.
    """
    jobs: dict[str, Mapping[str, Any]] = {}
    answers: dict[str, list[Mapping[str, Any]]] = {}
    broken: dict[str, BadData] = {}
    texts = sorted(path for path in folder.rglob("*.json*") if path.is_file())
    for path in texts:
        try:
            entries = _read_objects(path)
        except BadData as error:
            broken[path.stem] = error
            continue
        for entry in entries:
            if entry.get("object") == "fine_tuning.job":
                jobs[str(entry["id"])] = entry
            elif entry.get("object") == "chat.completion" and entry.get("messages"):
                said = entry["choices"][0]["message"]
                row = {"messages": [*map(_clean_message, entry["messages"]), _clean_message(said)]}
                answers.setdefault(str(entry["model"]), []).append(row)
    of_jobs = {name for job in jobs.values() for name in _file_ids(job)}
    for name, fault in broken.items():
        if name not in of_jobs:
            raise fault
    if not jobs:
        raise BadData(
            f"{folder} holds no fine-tuning jobs.",
            "Save them with `python examples/openai_export.py FOLDER` and your OPENAI_API_KEY.",
        )
    files = {path.stem: path for path in texts}
    why = {name: fault.what for name, fault in broken.items()}
    return OpenAIExport(list(jobs.values()), files, answers, why)


def _read_objects(path: Path) -> list[Mapping[str, Any]]:
    """The JSON objects of a file: one, a list of OpenAI's, or one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not text in UTF-8: {error}.", "Export it again.") from error
    try:
        found = json.loads(text)
        entries = found.get("data", [found]) if isinstance(found, dict) else found
    except json.JSONDecodeError:
        try:
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        except json.JSONDecodeError as error:
            raise BadData(f"{path} is not JSON: {error}.", "Export it again.") from error
    return [entry for entry in entries if isinstance(entry, dict)]


def _clean_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what only the hosted API fills in."""
    kept = ("role", "content", "name", "tool_calls", "tool_call_id")
    return {key: message[key] for key in kept if message.get(key) is not None}


def _skip_reason(job: Mapping[str, Any], export: OpenAIExport) -> str:
    """Why a job can't be trained again; empty if it can."""
    method = _method_name(job)
    if job["status"] != "succeeded":
        return f"it ended as {job['status']}"
    if method not in METHODS:
        return f"the method {method} isn't known here"
    if method == "reinforcement" and (why := _grader_fault(job)):
        return why
    for name in _file_ids(job):
        if name in export.broken:
            return export.broken[name]
    missing = [name for name in _file_ids(job) if name not in export.files]
    return f"{', '.join(missing)} is not in the folder" if missing else ""


def _grader_fault(job: Mapping[str, Any]) -> str:
    """Why a job's grader can't reward answers here; empty if it can."""
    try:
        grader = job["method"]["reinforcement"]["grader"]
        reject_code(TypeAdapter(RewardGrader).validate_python(grader), allowed=False)
    except RequestError:
        return "its grader is code (`python`), which runs only on a server that allows it"
    except (LookupError, TypeError):
        return "its grader is not in the export"
    except ValidationError as error:
        return f"its grader isn't known here: {error.errors()[0]['msg']}"
    return ""


def _method_name(job: Mapping[str, Any]) -> str:
    return str((job.get("method") or {}).get("type", "supervised"))


def _file_ids(job: Mapping[str, Any]) -> list[str]:
    return [job[key] for key in ("training_file", "validation_file") if job.get(key)]


def _replay(job: Mapping[str, Any], export: OpenAIExport, base: str, run: Run) -> ReplayedJob:
    """Train one job again and ask its model what the old one was asked."""
    files = [export.files[name] for name in _file_ids(job)]
    method = _method_name(job)
    own = (job.get("method") or {}).get(method) or {}
    asked = {**(job.get("hyperparameters") or {}), **(own.get("hyperparameters") or {})}
    if "grader" in own:
        asked["grader"] = own["grader"]
    wish = JobSpec(
        base=base,
        train=files[0],
        validation=files[1] if len(files) > 1 else None,
        requested=asked,
        seed=int(job.get("seed") or 0),
        file_ids={str(path): path.stem for path in files},
        method=method,
    )
    recipe, numbers = recipe_for_job(wish)
    say(f"{job['id']}: training {base} on {files[0].name} again")
    training = train_cached(recipe, load(recipe, answered=method != "reinforcement"))
    old = str(job["fine_tuned_model"])
    done = ReplayedJob(str(job["id"]), old, training.id, numbers)
    rows = export.answers.get(old)
    return _compare_answers(done, rows, base, str(training.artifact), run) if rows else done


def _compare_answers(
    done: ReplayedJob, answers: Sequence[Mapping[str, Any]], base: str, artifact: str, run: Run
) -> ReplayedJob:
    """How near the base and the new model come to the old answers, question by question."""
    golden = run.path / f"golden-{done.job}.jsonl"
    write_atomic(golden, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers))
    read_again = read_files([golden], Data(), Task()).rows
    rows = grouped([row for row in read_again if row.prompt and row.answer])
    before, after = (_score_model(source, rows) for source in (base, artifact))
    for name, scores in (("base", before), ("new", after)):
        save_predictions(run.path / f"predictions-{done.job}-{name}.jsonl", scores.predictions)
    same = [item.answer.strip() == item.expected.strip() for item in after.predictions]
    return replace(
        done,
        questions=len(rows),
        base=before.interval.value,
        new=after.interval.value,
        same=sum(same) / len(same),
        gain=paired_test(*after.paired_with(before)),
    )


def _score_model(source: str, rows: Sequence[Row]) -> Scores:
    """The model's answers to the rows' questions, scored against the old ones."""
    engine, task, settings = open_local_engine(source), Task(kind="generation"), Evaluate()
    length = answer_length(rows, settings, engine.count_tokens)
    prompts = [as_prompt(row, task, length) for row in rows]
    asked = PromptSet(rows, prompts, f"Asking {engine.name}")
    return evaluate_cached(hash_weights(source), engine, asked, task, settings)
