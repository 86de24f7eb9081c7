"""The verbs as Python functions: the same names and arguments as on the command line.

    from burnish import api

    result = api.compare(train=["tickets.jsonl"], model="smollm2-135m-instruct")
    print(result.verdict.reason)

Heavy libraries load inside the verb that needs them, once what it was told makes sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe, with_absolute_paths
from burnish.core.records import Finding, Prompt
from burnish.core.runs import Run, find_run, list_runs
from burnish.preflight import check_inputs, check_known, load_rows
from burnish.projects import init as init

if TYPE_CHECKING:
    from burnish.compare.run import Comparison
    from burnish.compat.olive.report import OliveReport as OliveReport
    from burnish.compat.openai_import import ImportReport
    from burnish.distill.report import DistillationResult
    from burnish.engines.chat import ChatSession
    from burnish.evaluate.run import Evaluation
    from burnish.export.run import ExportResult
    from burnish.export.search.result import SearchResult
    from burnish.models.local_models import LocalModel
    from burnish.rag.answer import CitedAnswer
    from burnish.rag.indexing import IndexReport
    from burnish.rag.search import SearchHit
    from burnish.train.report import TrainReport
    from burnish.train.search.run import SearchReport

Source = Path | str


class RecipeInputs(TypedDict, total=False):
    """Rows and a model named directly, beside or instead of a recipe file."""

    train: Sequence[Source]
    validation: Sequence[Source]
    test: Sequence[Source]
    model: str | None
    changes: Iterable[str]


def resolve(recipe: Source | None = None, **files: Unpack[RecipeInputs]) -> Recipe:
    """The recipe that a file, or rows and a model named directly, mean.

    Raises BadRecipe if it can't be understood or names no rows.
    """
    values = (load_recipe(Path(recipe)) if recipe else Recipe()).model_dump(mode="json")
    for name in ("train", "validation", "test"):
        paths: Sequence[Source] = files.get(name) or ()  # type: ignore[assignment]
        if paths:
            values["data"][name] = [str(Path(path).absolute()) for path in paths]
    if model := files.get("model"):
        values["model"]["name"] = model
    resolved = with_absolute_paths(make_recipe(values, files.get("changes") or ()), Path.cwd())
    if not resolved.data.train and not resolved.data.test:
        raise BadRecipe(
            "No data is named.", "Give a recipe, or files: --train rows.jsonl --test more.jsonl"
        )
    return resolved


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found; `ok` is false if there is an error among the findings."""

    findings: tuple[Finding, ...]
    rows: int

    @property
    def ok(self) -> bool:
        """Whether training may begin."""
        return not any(finding.severity == "error" for finding in self.findings)


def pull(name: str) -> LocalModel:
    """Fetch, convert and prove a model; at once if it is here already. Raises PullFailed."""
    from burnish.models.pull import pull as pull_model

    return pull_model(name)


def models() -> list[LocalModel]:
    """The models that are on this machine."""
    from burnish.models.local_models import list_models

    return list_models()


def runs() -> list[Run]:
    """The runs of this workspace, oldest first."""
    return list_runs()


def check(
    files: Sequence[Source], model: str | None = None, changes: Iterable[str] = ()
) -> CheckReport:
    """Check data files, or all files of a recipe; with `model`, the tokens too.

    Several files are taken as splits that must not share rows. Raises BadRecipe, NotFound.
    """
    from burnish.data.check import check as check_rows
    from burnish.data.infer_task import infer_task
    from burnish.data.read import read_files

    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        recipe = resolve(paths[0], model=model, changes=changes)
        paths = [*recipe.data.train, *recipe.data.validation, *recipe.data.test]
        model = recipe.model.name
    else:
        recipe = resolve(train=paths, changes=changes)
    result = read_files(paths, recipe.data, recipe.task)
    rows, findings = result.rows, check_rows(result, recipe.data.near_duplicate)
    # An encoder reads texts as they are: no template, and no token of an answer.
    if model and not recipe.train.is_encoding:
        from burnish.models.token_audit import audit_for

        findings = [*findings, *audit_for(model, rows, recipe.train.max_length)]
    if rows:
        say(infer_task(rows, recipe.task)[1])
    return CheckReport(tuple(findings), len(rows))


def train(
    recipe: Source | None = None,
    out: Path | None = None,
    resume: str | None = None,
    **files: Unpack[RecipeInputs],
) -> TrainReport:
    """Fine-tune a model; or, with `resume`, go on with the run of that id.

    Raises AuditFailed, BadData, DoesNotFit before anything is trained; TrainingStopped after.
    """
    run = find_run(resume, unfinished=True) if resume else None
    if run:
        resolved = make_recipe(run.recipe.model_dump(mode="json"), files.get("changes") or ())
    else:
        resolved = check_inputs(resolve(recipe, **files))
    dataset = load_rows(resolved, answered=resolved.train.needs_answers)
    from burnish.train.run import train as train_model

    return train_model(resolved, dataset, out, run.path if run else None)


def train_search(
    recipe: Source | None = None, out: Path | None = None, **files: Unpack[RecipeInputs]
) -> SearchReport:
    """Try the settings of the recipe's `search` section and train the best with several seeds."""
    resolved = check_inputs(resolve(recipe, **files))
    dataset = load_rows(resolved)
    from burnish.train.search.run import search as search_settings

    return search_settings(resolved, dataset, out)


def compare(
    recipe: Source | None = None, out: Path | None = None, **files: Unpack[RecipeInputs]
) -> Comparison:
    """Measure every route on the same frozen test split and say which to take."""
    resolved = check_inputs(resolve(recipe, **files))
    dataset = load_rows(resolved)
    from burnish.compare.run import compare as compare_routes

    return compare_routes(resolved, dataset, out)


def distill(
    recipe: Source | None = None, out: Path | None = None, **files: Unpack[RecipeInputs]
) -> DistillationResult:
    """Let a teacher answer the rows' questions, train a student on the answers, measure both.

    Raises BadData, BadRecipe before anything is asked; TeacherStopped when the teacher gives out.
    """
    resolved = check_inputs(resolve(recipe, **files))
    from burnish.distill.run import distill as distil_student

    return distil_student(resolved, out=out)


def evaluate(
    recipe: Source | None = None,
    source: str | None = None,
    out: Path | None = None,
    **files: Unpack[RecipeInputs],
) -> Evaluation:
    """Measure one model or run on the frozen test split of a recipe."""
    resolved = check_inputs(resolve(recipe, **files), source)
    from burnish.evaluate.run import evaluate_source

    return evaluate_source(resolved, source, out)


def export(
    run: str,
    to: str | None = None,
    quant: str | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
) -> ExportResult:
    """Write a run as what will be served and ask it there; `changes` are of the run's recipe.

    Raises CannotExport, AlreadyThere, BadRecipe before anything is written.
    """
    found = find_run(run)
    told = [f"export.to={to}"] if to else []
    told += [f"export.quant={quant}"] if quant else []
    recipe = make_recipe(found.recipe.model_dump(mode="json"), [*told, *changes])
    from burnish.export.run import export as export_run

    return export_run(found, recipe, Path(out) if out else None)


def export_fit(
    run: str,
    limits: Mapping[str, str | float] | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
) -> SearchResult:
    """Try all formats on this machine and write the best within `limits` (`latency_p95="300ms"`).

    Raises CannotExport, AlreadyThere, BadRecipe before anything is written.
    """
    found = find_run(run)
    told = [f"export.fit.{name}={value}" for name, value in (limits or {}).items()]
    recipe = make_recipe(found.recipe.model_dump(mode="json"), [*told, *changes])
    from burnish.export.search.run import search_formats

    return search_formats(found, recipe, Path(out) if out else None)


def olive(words: Sequence[str]) -> OliveReport:
    """Run a command line of Microsoft Olive: `["finetune", "--method", "lora", ...]`.

    Raises BadFlag for a flag that can't be honoured, and what training and exporting raise.
    """
    from burnish.compat.olive.commands import run_command as run_words

    return run_words(words)


def index(
    sources: Sequence[Source],
    name: str,
    embedder: str | None = None,
    chunk_tokens: int | None = None,
) -> IndexReport:
    """Make or renew an index so that it holds what folders and files hold now.

    Without sources, those of last time. Raises NotFound, BadData, BadRecipe.
    """
    from burnish.rag.indexing import build_index

    wanted = {"embedder": embedder, "chunk_tokens": chunk_tokens}
    changes = {key: value for key, value in wanted.items() if value is not None}
    return build_index([Path(source) for source in sources], name, changes)


def search(
    name: str, question: str, k: int = 5, files: str | None = None, rerank: str = ""
) -> list[SearchHit]:
    """The `k` best passages of an index, of files that match the pattern.

    `rerank` names a cross-encoder that orders the best anew. Raises NotFound, BadRecipe.
    """
    from burnish.rag.search import open_index

    return open_index(name, rerank).search(question, k, files)


class AskOptions(TypedDict, total=False):
    """How a question is asked: see `rag.ask.Asking`."""

    k: int
    files: str | None
    least_similarity: float
    max_new_tokens: int
    least_support: float


def ask(
    model: str, question: str, index: str, rerank: str = "", **options: Unpack[AskOptions]
) -> CitedAnswer:
    """Answer a question from the passages of an index, with citations.

    `rerank` names a cross-encoder that orders the passages. Raises NotFound, BadRecipe.
    """
    check_known(model)
    from burnish.engines.local.open import open_local_engine
    from burnish.rag.answer import AnswerSettings
    from burnish.rag.answer import ask as ask_engine
    from burnish.rag.search import open_index

    opened = open_index(index, rerank)
    return ask_engine(open_local_engine(model), opened, question, AnswerSettings(**options))


def chat(
    source: str = "last",
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
) -> ChatSession:
    """Open a conversation with a run, what was exported of it, or a model.

    A run speaks with the prompt of its training.
    """
    check_known(source)
    from burnish.engines.chat import ChatSession
    from burnish.engines.registry import open_text_engine

    settings = Prompt((), max_new_tokens=max_new_tokens, temperature=temperature)
    return ChatSession(open_text_engine(source), system, settings)


def serve(sources: Sequence[str], aliases: Iterable[str] = (), changes: Iterable[str] = ()) -> None:
    """Serve runs and models over HTTP until stopped. `aliases` are `name=model`."""
    pairs = {}
    for alias in aliases:
        name, equals, model = alias.partition("=")
        if not (name and equals and model):
            raise BadRecipe(f"`--alias {alias}` is not NAME=MODEL.", "--alias gpt-4o-mini=last")
        pairs[name] = model
    settings = make_recipe({}, changes).serve
    check_known(*(s for s in (*sources, *pairs.values()) if s not in settings.upstream))
    from burnish.serve.run import serve as serve_models

    serve_models(sources, settings, pairs)


def check_isolation(sources: Sequence[str]) -> None:
    """Prove for each base of `sources` that adapters do not mix. Raises AdaptersMix."""
    from burnish.engines.scheduling.isolation_check import check_isolation

    check_isolation(sources)


def keys() -> list[dict[str, Any]]:
    """The keys of the server, without their values."""
    from burnish.serve.auth.keys import open_keys

    return [
        {name: value for name, value in asdict(key).items() if name != "sha256"}
        for key in open_keys().all()
    ]


def make_key(
    name: str,
    models: Sequence[str] = (),
    routes: Sequence[str] = (),
    **limits: Any,
) -> str:
    """A new key for the server; its value is kept nowhere. Raises AlreadyThere, BadRecipe.

    `limits` are the other fields of `serve.keys.Key`: `per_minute`, `organization`, `most_bytes`,
    `most_jobs`.
    """
    from burnish.serve.auth.keys import ApiKey, open_keys

    return open_keys().add(ApiKey(name, "", list(models), list(routes), **limits))


def remove_key(name: str) -> None:
    """Let a key open nothing any more. Raises NotFound."""
    from burnish.serve.auth.keys import open_keys

    open_keys().remove(name)


def import_openai(
    folder: Source, base: str = "smollm2-135m-instruct", out: Path | None = None
) -> ImportReport:
    """Train the fine-tuning jobs that were exported from OpenAI again, on a model of this machine,
    and compare old answers with new ones. Raises BadData, NotFound."""
    from burnish.compat.openai_import import import_openai as import_jobs

    return import_jobs(Path(folder), base, out)


def refreeze(recipe: Source) -> None:
    """Accept the test split as it is now; figures measured before can't be compared any more."""
    from burnish.data.frozen_split import thaw

    thaw(resolve(recipe).data)
