"""Check that no request gets another request's adapter: `burnish serve --self-test`.

Two adapters with random weights change every answer of the base. Each of the three models must
give, in every order and mix, the answers it gives while the others are not in memory; on CPU, where
an answer doesn't depend on its batch, exactly.
"""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from burnish.core.errors import BurnishError
from burnish.core.prefix import common_prefix_length
from burnish.core.progress import progress, say
from burnish.core.records import Message, Prompt
from burnish.engines.external.onnx import list_adapters, open_onnx
from burnish.engines.local.engine import inference_dtype
from burnish.engines.registry import EXTERNAL_ENGINES
from burnish.engines.scheduling.model_pool import ModelPool, exported_name, open_model_pool
from burnish.engines.scheduling.pending import RequestUpdate
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.engines.scheduling.served import ServedEngine
from burnish.models.artifact import Artifact, find_base, save_artifact
from burnish.models.find_artifact import find_artifact
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import LocalModel, find_model

PROBE_NAMES = ("canary-a", "canary-b")
#: A prefix long enough for the engine to compute it once and share it.
_SHARED = "one two three four five six seven eight nine ten " * 8
_QUESTIONS = ("red", "where is my parcel?", f"{_SHARED}red", f"{_SHARED}blue")
_TOKENS = 8
#: Scale of the random adapter weights: large enough to change every answer.
_SCALE = 0.2

#: (model, question) pairs that are sent together.
RequestMix = Sequence[tuple[str, str]]


class AdapterLeak(BurnishError, RuntimeError):
    """A request got an answer from another adapter."""

    code = 1


@dataclass(frozen=True, slots=True)
class IsolationReport:
    """The number of compared answers of a base, and the first wrong one, if any."""

    base: str
    compared: int
    leak: str = ""


def check_isolation(sources: Sequence[str]) -> list[IsolationReport]:
    """Check isolation for each base of these runs and models. Raises AdapterLeak, NotFound.

    An export for another engine has a process and weights of its own: nothing can mix, except in a
    folder of several adapters.
    """
    bases: dict[str, LocalModel] = {}
    reports: list[IsolationReport] = []
    for source in sources:
        artifact = find_artifact(source)
        if artifact and "adapters" in artifact.lineage.get("export", {}):
            reports.append(check_export_isolation(artifact))
            continue
        if artifact and artifact.kind in EXTERNAL_ENGINES:
            say(f"{source}: runs in its own process, without other adapters.")
            continue
        base = find_base(artifact) if artifact else find_model(source)
        if base.kind == "causal":
            bases[base.sha256] = base
    reports += [check_base_isolation(base) for base in bases.values()]
    for report in reports:
        if report.leak:
            raise AdapterLeak(
                f"Adapters of {report.base} mix: {report.leak}",
                "Serve one adapter a process, and report this.",
            )
        say(
            f"{report.base}: {report.compared} answers in every order and mix, no adapter mixed up."
        )
    return reports


def check_base_isolation(base: LocalModel) -> IsolationReport:
    """Check one base, with its adapters loaded together and added one by one."""
    with tempfile.TemporaryDirectory() as folder:
        probe_adapters = _make_probe_adapters(base, Path(folder))
        alone = {base.name: _answer_alone(base.name, base.name)}
        for name, path in probe_adapters.items():
            alone[name] = _answer_alone(base.name, str(path), name)
        for names in permutations(alone, 2):
            if any(alone[names[0]][q] == alone[names[1]][q] for q in _QUESTIONS):
                return IsolationReport(
                    base.name, 0, f"{names[0]} and {names[1]} give the same answers."
                )
        compared = 0
        for pool in (
            _open_all_at_once(base, probe_adapters),
            _open_one_by_one(base, probe_adapters),
        ):
            number, wrong = _compare(pool, alone)
            compared += number
            if wrong:
                return IsolationReport(base.name, compared, wrong)
    return IsolationReport(base.name, compared)


def check_export_isolation(artifact: Artifact) -> IsolationReport:
    """Check an exported folder of several adapters in one process, with these adapters."""
    alone: dict[str, dict[str, str]] = {}
    for adapter in list_adapters(artifact):
        with closing(open_onnx(adapter)) as engine:
            alone[exported_name(engine.name, artifact)] = _answer_questions(engine)
    pool = open_model_pool([str(artifact.path)])
    with closing(pool):
        compared, wrong = _compare(pool, alone)
    return IsolationReport(str(artifact.path), compared, wrong)


def request_mixes(names: Sequence[str]) -> Iterator[RequestMix]:
    """Yield every order of the models: one by one, at once, and at once with all questions."""
    for number, order in enumerate(permutations(names)):
        question = _QUESTIONS[number % len(_QUESTIONS)]
        yield from ([(name, question)] for name in order)
        yield [(name, question) for name in order]
        yield [(name, question) for question in _QUESTIONS for name in order]
        yield [(name, question) for name in order for question in _QUESTIONS]


def _make_probe_adapters(base: LocalModel, folder: Path) -> dict[str, Path]:
    """Return adapter folders by name."""
    tokenizer = load_tokenizer(base)
    folders = {}
    for seed, name in enumerate(PROBE_NAMES, start=1):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(load_model(base, torch.float32), config)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_" in key:
                    weight.normal_(0, _SCALE)
        folders[name] = folder / name
        save_artifact(folders[name], model, tokenizer, base, {"run": name, "system": None})
    return folders


def _answer_alone(base: str, source: str, name: str | None = None) -> dict[str, str]:
    """Return one model's answer to each question while no other adapter is in memory."""
    pool = open_model_pool(list(dict.fromkeys([base, source])))
    return _answer_questions(pool.find(name or base))


def _answer_questions(engine: ServedEngine) -> dict[str, str]:
    return {question: engine.answer([_prompt(question)])[0].text for question in _QUESTIONS}


def _open_all_at_once(base: LocalModel, probe_adapters: Mapping[str, Path]) -> ModelPool:
    return open_model_pool([base.name, *map(str, probe_adapters.values())])


def _open_one_by_one(base: LocalModel, probe_adapters: Mapping[str, Path]) -> ModelPool:
    pool = open_model_pool([base.name])
    for name, path in probe_adapters.items():
        pool.add(name, path)
    return pool


def _compare(pool: ModelPool, alone: Mapping[str, Mapping[str, str]]) -> tuple[int, str]:
    """Return the number of compared answers, and what was wrong with the first wrong one."""
    scheduler, number = Scheduler(max_batch=8), 0
    mixes = list(request_mixes(list(alone)))
    try:
        with progress("Self-test", total=len(mixes)) as bar:
            for mix in mixes:
                for (name, question), text in zip(mix, _ask(scheduler, pool, mix), strict=True):
                    number += 1
                    if not _matches_adapter(text, name, question, alone):
                        difference = f"{name} said {text!r} to {question[-20:]!r}; alone it says"
                        return number, f"{difference} {alone[name][question]!r}."
                bar.advance()
    finally:
        scheduler.close()
    return number, ""


def _ask(scheduler: Scheduler, pool: ModelPool, mix: RequestMix) -> list[str]:
    """Return the answers to questions that are sent at once."""
    answers: dict[int, str] = {}
    done = threading.Semaphore(0)

    def listener(index: int, update: RequestUpdate) -> None:
        if update.answer or update.error:
            answers[index] = update.answer.text if update.answer else str(update.error)
            done.release()

    for index, (name, question) in enumerate(mix):
        engine = pool.find(name)
        request = engine.build_request(_prompt(question))
        scheduler.submit(engine, [request], [partial(listener, index)])
    for _ in mix:
        done.acquire()
    return [answers[index] for index in range(len(mix))]


def _matches_adapter(
    text: str, name: str, question: str, alone: Mapping[str, Mapping[str, str]]
) -> bool:
    """Return whether the answer is the adapter's own. On a GPU the end of an answer may depend on
    its batch; the longest common prefix decides."""
    if inference_dtype() == torch.float32:
        return text == alone[name][question]
    return max(alone, key=lambda other: common_prefix_length(text, alone[other][question])) == name


def _prompt(question: str) -> Prompt:
    return Prompt((Message("user", question),), max_new_tokens=_TOKENS)
