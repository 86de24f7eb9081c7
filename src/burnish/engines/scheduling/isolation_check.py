"""The proof that no request gets another one's adapter: `burnish serve --self-test`.

Two adapters with random weights turn the same questions into wholly other answers than the base.
What each of the three says while the others are not in memory is what it has to say in every order
and every mix; on CPU, where an answer doesn't depend on its batch, letter for letter.
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
#: A beginning that is long enough for the engine to compute it once and share it.
_SHARED = "one two three four five six seven eight nine ten " * 8
_QUESTIONS = ("red", "where is my parcel?", f"{_SHARED}red", f"{_SHARED}blue")
_TOKENS = 8
#: Of the random adapters: large enough that no answer is left as it was.
_SCALE = 0.2

#: (model, question) pairs that are asked together.
RequestMix = Sequence[tuple[str, str]]


class AdapterLeak(BurnishError, RuntimeError):
    """A request got an answer that isn't its own adapter's."""

    code = 1


@dataclass(frozen=True, slots=True)
class IsolationReport:
    """How many answers of a base were compared, and the first that was wrong, if one was."""

    base: str
    compared: int
    leak: str = ""


def check_isolation(sources: Sequence[str]) -> list[IsolationReport]:
    """Prove it for each base of these runs and models. Raises AdaptersMix, NotFound.

    What was exported for another engine has a process and weights of its own: nothing can mix, but
    in a folder of several adapters.
    """
    bases: dict[str, LocalModel] = {}
    proofs: list[IsolationReport] = []
    for source in sources:
        artifact = find_artifact(source)
        if artifact and "adapters" in artifact.lineage.get("export", {}):
            proofs.append(check_export_isolation(artifact))
            continue
        if artifact and artifact.kind in EXTERNAL_ENGINES:
            say(f"{source}: in a process of its own, with no other adapter.")
            continue
        base = find_base(artifact) if artifact else find_model(source)
        if base.kind == "causal":
            bases[base.sha256] = base
    proofs += [check_base_isolation(base) for base in bases.values()]
    for proof in proofs:
        if proof.leak:
            raise AdapterLeak(
                f"Adapters of {proof.base} mix: {proof.leak}",
                "Serve one adapter a process, and report this.",
            )
        say(f"{proof.base}: {proof.compared} answers in every order and mix, none of them mixed.")
    return proofs


def check_base_isolation(base: LocalModel) -> IsolationReport:
    """The proof for one base, loaded with its adapters and adopting them one by one."""
    with tempfile.TemporaryDirectory() as folder:
        canaries = _make_probe_adapters(base, Path(folder))
        alone = {base.name: _answer_alone(base.name, base.name)}
        for name, path in canaries.items():
            alone[name] = _answer_alone(base.name, str(path), name)
        for names in permutations(alone, 2):
            if any(alone[names[0]][q] == alone[names[1]][q] for q in _QUESTIONS):
                return IsolationReport(
                    base.name, 0, f"{names[0]} and {names[1]} cannot be told apart."
                )
        compared = 0
        for fleet in (_open_all_at_once(base, canaries), _open_one_by_one(base, canaries)):
            number, wrong = _compare(fleet, alone)
            compared += number
            if wrong:
                return IsolationReport(base.name, compared, wrong)
    return IsolationReport(base.name, compared)


def check_export_isolation(artifact: Artifact) -> IsolationReport:
    """The proof for an exported folder of several adapters in one process, with these adapters."""
    alone: dict[str, dict[str, str]] = {}
    for one in list_adapters(artifact):
        with closing(open_onnx(one)) as engine:
            alone[exported_name(engine.name, artifact)] = _answer_questions(engine)
    fleet = open_model_pool([str(artifact.path)])
    with closing(fleet):
        compared, wrong = _compare(fleet, alone)
    return IsolationReport(str(artifact.path), compared, wrong)


def request_mixes(names: Sequence[str]) -> Iterator[RequestMix]:
    """Every order of the models: one by one, at once, and at once with all questions."""
    for number, order in enumerate(permutations(names)):
        question = _QUESTIONS[number % len(_QUESTIONS)]
        yield from ([(name, question)] for name in order)
        yield [(name, question) for name in order]
        yield [(name, question) for question in _QUESTIONS for name in order]
        yield [(name, question) for name in order for question in _QUESTIONS]


def _make_probe_adapters(base: LocalModel, folder: Path) -> dict[str, Path]:
    """Adapter folders by name."""
    tokenizer = load_tokenizer(base)
    made = {}
    for seed, name in enumerate(PROBE_NAMES, start=1):
        torch.manual_seed(seed)
        shape = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(load_model(base, torch.float32), shape)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_" in key:
                    weight.normal_(0, _SCALE)
        made[name] = folder / name
        save_artifact(made[name], model, tokenizer, base, {"run": name, "system": None})
    return made


def _answer_alone(base: str, source: str, name: str | None = None) -> dict[str, str]:
    """What one model says to each question while no other adapter is in memory."""
    fleet = open_model_pool(list(dict.fromkeys([base, source])))
    return _answer_questions(fleet.find(name or base))


def _answer_questions(engine: ServedEngine) -> dict[str, str]:
    return {question: engine.answer([_prompt(question)])[0].text for question in _QUESTIONS}


def _open_all_at_once(base: LocalModel, probe_adapters: Mapping[str, Path]) -> ModelPool:
    return open_model_pool([base.name, *map(str, probe_adapters.values())])


def _open_one_by_one(base: LocalModel, probe_adapters: Mapping[str, Path]) -> ModelPool:
    fleet = open_model_pool([base.name])
    for name, path in probe_adapters.items():
        fleet.add(name, path)
    return fleet


def _compare(fleet: ModelPool, alone: Mapping[str, Mapping[str, str]]) -> tuple[int, str]:
    """How many answers were compared, and what was wrong with the first wrong one."""
    scheduler, number = Scheduler(max_batch=8), 0
    asked = list(request_mixes(list(alone)))
    try:
        with progress("Self-test", total=len(asked)) as bar:
            for mix in asked:
                for (name, question), text in zip(mix, _ask(scheduler, fleet, mix), strict=True):
                    number += 1
                    if not _matches_adapter(text, name, question, alone):
                        said = f"{name} said {text!r} to {question[-20:]!r}; alone it says"
                        return number, f"{said} {alone[name][question]!r}."
                bar.advance()
    finally:
        scheduler.close()
    return number, ""


def _ask(scheduler: Scheduler, fleet: ModelPool, mix: RequestMix) -> list[str]:
    """The answers to questions that are asked at once."""
    found: dict[int, str] = {}
    done = threading.Semaphore(0)

    def listener(place: int, update: RequestUpdate) -> None:
        if update.answer or update.error:
            found[place] = update.answer.text if update.answer else str(update.error)
            done.release()

    for place, (name, question) in enumerate(mix):
        engine = fleet.find(name)
        request = engine.build_request(_prompt(question))
        scheduler.submit(engine, [request], [partial(listener, place)])
    for _ in mix:
        done.acquire()
    return [found[place] for place in range(len(mix))]


def _matches_adapter(
    text: str, name: str, question: str, alone: Mapping[str, Mapping[str, str]]
) -> bool:
    """On a GPU the end of an answer may depend on its batch; its beginning tells whose it is."""
    if inference_dtype() == torch.float32:
        return text == alone[name][question]
    return max(alone, key=lambda own: common_prefix_length(text, alone[own][question])) == name


def _prompt(question: str) -> Prompt:
    return Prompt((Message("user", question),), max_new_tokens=_TOKENS)
