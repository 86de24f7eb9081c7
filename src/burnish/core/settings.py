"""The environment variables that burnish reads or sets; nothing else touches the environment."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable: name, default as shown to people, and use."""

    name: str
    default: str
    help: str


SETTINGS = (
    Setting(
        "BURNISH_HOME",
        ".burnish",
        "The workspace: runs, indexes, frozen test splits, server state.",
    ),
    Setting("BURNISH_API_KEY", "made at first start", "The key that `burnish serve` asks for."),
    Setting("BURNISH_MODELS", "the user's cache folder", "Where pulled models are kept."),
    Setting(
        "BURNISH_INDEXES",
        "folders in the workspace",
        "A PostgreSQL database with pgvector for indexes: postgresql://user:password@host/name.",
    ),
)


def workspace() -> Path:
    """Return the folder for runs and state: `BURNISH_HOME`, or `.burnish` in the current folder."""
    return Path(os.environ.get("BURNISH_HOME") or ".burnish").absolute()


def models_folder() -> Path:
    """Return the folder of pulled models, shared by all workspaces of this user."""
    named = os.environ.get("BURNISH_MODELS")
    return Path(named or Path(platformdirs.user_cache_dir("burnish")) / "models").absolute()


def indexes_url() -> str:
    """Return the URL of the database for indexes; empty means folders of the workspace."""
    return os.environ.get("BURNISH_INDEXES") or ""


def api_key() -> str | None:
    """Return the API key from the environment, if one is set."""
    return os.environ.get("BURNISH_API_KEY") or None


#: The variable in which an engine's process finds the key of its requests.
ENGINE_KEY = "BURNISH_ENGINE_KEY"


def engine_key() -> str:
    """The key that this process, an engine's, asks for. Raises KeyError where none is set."""
    return os.environ[ENGINE_KEY]


def is_launched_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def is_worker() -> bool:
    """Return whether this process is a torchrun worker of rank above 0, which prints nothing."""
    return is_launched_by_torchrun() and os.environ["RANK"] != "0"


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `changes` applied, for a child process."""
    return {**os.environ, **changes}


def local_folder_settings() -> dict[str, str]:
    """Return the variables that locate workspace and models, for a process on another node."""
    return {"BURNISH_HOME": str(workspace()), "BURNISH_MODELS": str(models_folder())}


def secret(name: str) -> str | None:
    """Return the environment variable that a recipe names; it is never written anywhere."""
    return os.environ.get(name) or None


def yield_cores() -> None:
    """Make idle compute threads sleep soon, so that a busy neighbour doesn't stall the others.

    By default GNU OpenMP threads spin while they wait; one other busy process then makes training 5
    to 12 times slower (docs/benchmarks/engineering.md). Read when torch loads, so call it before.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def cache_compiled_kernels() -> None:
    """Make torch keep compiled layers in the user's cache folder, where they survive a reboot.

    Call it before the first compilation.
    """
    kept = Path(platformdirs.user_cache_dir("burnish")) / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))


def silence_library_hints() -> None:
    """Silence bitsandbytes' hints about optional packages each time PEFT loads it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def disable_mlflow_telemetry() -> None:
    """Disable MLflow's telemetry. Call it before MLflow loads."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
