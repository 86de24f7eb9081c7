"""Requests for fine-tuning and jobs as OpenAI clients write and read them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from burnish.serve.store import Checkpoint, Event, Job
from burnish.serve.wire import Wire

ORGANISATION = "org-burnish"
_OWNER = "burnish"


def storable_text(value: str) -> str:
    """Raises ValueError for text that a database cannot hold."""
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("it holds a character that cannot be stored")
    return value


Labels = Annotated[
    dict[
        Annotated[str, Field(max_length=64), AfterValidator(storable_text)],
        Annotated[str, Field(max_length=512), AfterValidator(storable_text)],
    ]
    | None,
    Field(max_length=16),
]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]


_AUTO = BeforeValidator(lambda value: None if value in ("auto", -1) else value)


class Closed(Wire):
    """A part of a job's request: what is unknown here would be promised and not done."""

    model_config = ConfigDict(extra="forbid")


class Hyperparameters(Closed):
    """How to train; `auto` (for Azure's clients -1, or nothing) leaves a number to us."""

    n_epochs: Annotated[int | None, _AUTO] = Field(None, ge=1, le=50)
    batch_size: Annotated[int | None, _AUTO] = Field(None, ge=1, le=256)
    learning_rate_multiplier: Annotated[float | None, _AUTO] = Field(None, gt=0, le=100)


class DpoHyperparameters(Hyperparameters):
    """The same, and how strongly the model is held to where it began."""

    beta: Annotated[float | None, _AUTO] = Field(None, gt=0, le=2)


class Supervised(Closed):
    """Learning from whole answers."""

    hyperparameters: Hyperparameters | None = None


class Dpo(Closed):
    """Learning from pairs of answers (direct preference optimisation)."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Closed):
    """What is learnt from a row."""

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None

    @model_validator(mode="after")
    def _says_only_what_it_does(self) -> "Method":
        if (self.dpo and self.type != "dpo") or (self.supervised and self.type != "supervised"):
            raise ValueError(f"the settings of another method than `{self.type}` are given")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the method that is meant."""
        if self.type == "dpo":
            return (self.dpo and self.dpo.hyperparameters) or DpoHyperparameters()
        return (self.supervised and self.supervised.hyperparameters) or Hyperparameters()


class CreateJob(Closed):
    """POST /fine_tuning/jobs."""

    model: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable_text)]
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    seed: int | None = Field(None, ge=0, lt=2**31)
    metadata: Labels = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="The older place of `method.supervised.hyperparameters`."
    )
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    trainingType: str | int | None = Field(None, description="Azure's; there is one kind here.")

    @property
    def kind(self) -> str:
        """The method by its name."""
        return self.method.type if self.method else "supervised"

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyperparameters, wherever they were written; the method's own go first."""
        older = self.hyperparameters.model_dump() if self.hyperparameters else {}
        chosen = self.method.hyperparameters.model_dump() if self.method else older
        names = chosen or Hyperparameters().model_dump()
        return {name: chosen.get(name) or older.get(name) or "auto" for name in names}


def model_name(job: Job) -> str:
    """The name of the job's model: the same however often it is asked."""
    return f"ft:{job.model}:{_OWNER}:{(job.suffix or '').lower()}:{job.id[-8:]}"


def job_body(job: Job) -> dict[str, Any]:
    """A job as clients read it."""
    shared = {name: job.hyperparameters[name] for name in Hyperparameters.model_fields}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "estimated_finish": job.estimated_finish,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": ORGANISATION,
        "status": job.status,
        "error": job.error,
        "hyperparameters": shared,
        "method": {"type": job.method, job.method: {"hyperparameters": job.hyperparameters}},
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "seed": job.seed,
        "integrations": [],
        "metadata": job.labels,
        "user_provided_suffix": job.suffix,
    }


def event_body(event: Event) -> dict[str, Any]:
    """An event as clients read it."""
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


def checkpoint_body(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as clients read it."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": checkpoint.job,
        "step_number": checkpoint.step,
        "metrics": checkpoint.metrics,
    }
