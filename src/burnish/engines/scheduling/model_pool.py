"""Several models in one process, by name: a base is in memory once, with all its adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftConfig, PeftType
from transformers import AutoTokenizer

from burnish.core.errors import BadRecipe, NotFound
from burnish.engines.external.base import DEFAULT_LAUNCH, ExternalEngine, LaunchOptions
from burnish.engines.external.onnx import open_onnx_adapters
from burnish.engines.local.engine import LocalEngine, inference_dtype
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import EXTERNAL_ENGINES, HEAD_ENGINES
from burnish.engines.scheduling.served import ServedEngine
from burnish.models.artifact import Artifact, find_base, open_artifact
from burnish.models.find_artifact import find_artifact
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import LocalModel, find_model


@dataclass(frozen=True)
class ModelPool:
    """Engines by every name that they answer to. `parents` names the base of an adapter.

    `shared_models` has the weights that adapters can be added to, by the hash of their base.
    """

    engines: dict[str, ServedEngine]
    parents: dict[str, str]
    shared_models: dict[str, MultiLoraModel] = field(default_factory=dict)

    def find(self, name: str) -> ServedEngine:
        """Return the engine of that name. Raises NotFound."""
        if name not in self.engines:
            raise NotFound(
                f"The model `{name}` does not exist or you do not have access to it.",
                f"Served here: {', '.join(self.engines)}.",
            )
        return self.engines[name]

    def add(self, name: str, folder: Path) -> ServedEngine:
        """Serve one more adapter under `name`, beside the models already served.

        It may change weights in memory: call it in the thread that answers
        (`Scheduler.run_between_steps`). Raises NotFound or BadData if the folder or its base was
        changed.
        """
        artifact = open_artifact(folder)
        if not _shares_base(artifact):
            engine = open_local_engine(folder)
            engine.name = name
        else:
            local = find_base(artifact)
            if local.sha256 not in self.shared_models:
                self.shared_models[local.sha256] = MultiLoraModel(
                    load_model(local, inference_dtype())
                )
            engine = _engine_with_adapter(self.shared_models[local.sha256], artifact, name)
        self.engines[name], self.parents[name] = engine, artifact.base
        return engine

    def close(self) -> None:
        """End the child processes of engines."""
        for engine in self.engines.values():
            if isinstance(engine, ExternalEngine):
                engine.close()


def open_model_pool(
    sources: Sequence[str],
    aliases: Mapping[str, str] | None = None,
    running: LaunchOptions = DEFAULT_LAUNCH,
) -> ModelPool:
    """Load runs, artifact folders and models; `aliases` maps more names to them.

    A run answers to its id and to the name given here; an export of it, to the id with its format
    appended: it has a process of its own, started with `running`. Adapters of one base share its
    weights, except those trained on 4-bit weights. Raises NotFound for an unknown source, BadRecipe
    if nothing is named or a name is ambiguous; Unavailable or EngineFailed if an exported folder's
    engine doesn't run.
    """
    aliases = dict(aliases or {})
    names = list(dict.fromkeys([*sources, *aliases.values()]))
    if not names:
        raise BadRecipe("Nothing to serve is named.", "Name a run or a model: burnish serve last")
    adapters: dict[str, list[tuple[str, Artifact]]] = {}
    bases: dict[str, tuple[str, LocalModel]] = {}
    opened: dict[str, ServedEngine] = {}
    parents: dict[str, str] = {}
    for source in names:
        artifact = find_artifact(source)
        if artifact is None:
            local = find_model(source)
            if local.kind in ("seq2seq", "vision"):
                opened[source] = open_local_engine(source)
            else:
                bases[local.sha256] = (source, local)
        elif artifact.kind in HEAD_ENGINES:
            opened[source] = HEAD_ENGINES[artifact.kind](artifact)
        elif artifact.kind in EXTERNAL_ENGINES:
            for index, engine in enumerate(_open_exported(artifact, running)):
                # A folder of several adapters answers to its path with the first of them.
                opened[engine.name if index else source] = engine
                parents[engine.name] = artifact.base
        elif _shares_base(artifact):
            adapters.setdefault(find_base(artifact).sha256, []).append((source, artifact))
        else:
            opened[source] = open_local_engine(source)
    shared: dict[str, MultiLoraModel] = {}
    for sha256 in {**bases, **adapters}:
        group = _open_group(bases.get(sha256), adapters.get(sha256, []))
        opened |= group
        if sha256 in bases or len(group) > 1:
            shared[sha256] = next(iter(group.values())).weights
        for source, artifact in adapters.get(sha256, []):
            parents[group[source].name] = artifact.base
    return ModelPool(_index_by_name(opened, aliases), parents, shared)


def _open_group(
    base: tuple[str, LocalModel] | None, adapters: Sequence[tuple[str, Artifact]]
) -> dict[str, LocalEngine]:
    """Open the engines of one base, by source. A single one is opened as `evaluate` opens it."""
    if base is None and len(adapters) == 1:
        source = adapters[0][0]
        return {source: open_local_engine(source)}
    local = base[1] if base else find_base(adapters[0][1])
    weights = MultiLoraModel(load_model(local, inference_dtype()))
    engines: dict[str, LocalEngine] = {}
    for source, artifact in adapters:
        name = str(artifact.lineage.get("run", Path(source).name))
        engines[source] = _engine_with_adapter(weights, artifact, name)
    if base:
        engines[base[0]] = LocalEngine(weights, load_tokenizer(local), local.name)
    return engines


def _open_exported(artifact: Artifact, launch_options: LaunchOptions) -> Sequence[ExternalEngine]:
    """Open an exported folder, under a name different from its run's; each of its adapters."""
    engines: Sequence[ExternalEngine] = (
        open_onnx_adapters(artifact, launch_options)
        if "adapters" in artifact.lineage["export"]
        else [EXTERNAL_ENGINES[artifact.kind](artifact, launch_options)]
    )
    for engine in engines:
        engine.name = exported_name(engine.name, artifact)
    return engines


def exported_name(run: str, artifact: Artifact) -> str:
    """Return the name that an exported folder answers to, beside its run."""
    facts = artifact.lineage["export"]
    return f"{run}-{facts['to']}-{facts['quant']}"


def _shares_base(artifact: Artifact) -> bool:
    """Return whether its base's weights may serve other adapters: 4-bit weights differ, and PEFT
    mixes LoRA adapters only."""
    if artifact.kind != "adapter" or artifact.quantized or artifact.rounding_format:
        return False
    return bool(PeftConfig.from_pretrained(str(artifact.path)).peft_type == PeftType.LORA)


def _engine_with_adapter(weights: MultiLoraModel, artifact: Artifact, name: str) -> LocalEngine:
    """Add an adapter to the weights and return its engine."""
    key = weights.add(artifact.path, inference_dtype())
    # A tokenizer takes as much memory as an adapter; most adapters of a base share one.
    files = artifact.lineage["files"].items()
    tokenizer_files = frozenset(file for file in files if not file[0].startswith("adapter_"))
    if tokenizer_files not in weights.tokenizers:
        loaded = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        weights.tokenizers[tokenizer_files] = loaded
    tokenizer = weights.tokenizers[tokenizer_files]
    return LocalEngine(weights, tokenizer, name, adapter=key, system=artifact.system)


def _index_by_name(
    opened: Mapping[str, ServedEngine], aliases: Mapping[str, str]
) -> dict[str, ServedEngine]:
    names: dict[str, ServedEngine] = {}
    entries = [(engine.name, engine) for engine in opened.values()]
    entries += list(opened.items())
    entries += [(alias, opened[target]) for alias, target in aliases.items()]
    for name, engine in entries:
        if names.setdefault(name, engine) is not engine:
            raise BadRecipe(
                f"The name `{name}` is used for two models.", "Give one of them an --alias."
            )
    return names
