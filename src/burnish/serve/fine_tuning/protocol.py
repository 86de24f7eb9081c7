"""Requests for fine-tuning and jobs as OpenAI clients write and read them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from burnish.serve.graders.protocol import RewardGrader
from burnish.serve.protocol import Id, Labels, StrictApiModel, storable_text
from burnish.serve.store.schema import Job, JobCheckpoint, JobEventRow

_AUTO = BeforeValidator(lambda value: None if value in ("auto", -1) else value)


class Hyperparameters(StrictApiModel):
    """How to train; `auto` (for Azure's clients -1, or nothing) leaves a number to us."""

    n_epochs: Annotated[int | None, _AUTO] = Field(None, ge=1, le=50)
    batch_size: Annotated[int | None, _AUTO] = Field(None, ge=1, le=256)
    learning_rate_multiplier: Annotated[float | None, _AUTO] = Field(None, gt=0, le=100)


class DpoHyperparameters(Hyperparameters):
    """The same, and how strongly the model is held to where it began."""

    beta: Annotated[float | None, _AUTO] = Field(None, gt=0, le=2)


class ReinforcementHyperparameters(Hyperparameters):
    """The same; `compute_multiplier` is of the answers drawn to a question (8), `eval_interval` in
    steps, `eval_samples` the answers to a validation's question (1: the likeliest)."""

    compute_multiplier: Annotated[float | None, _AUTO] = Field(None, gt=1e-5, le=10)
    eval_interval: Annotated[int | None, _AUTO] = Field(None, ge=1)
    eval_samples: Annotated[int | None, _AUTO] = Field(None, ge=1, le=64)
    reasoning_effort: Literal["default"] | None = Field(
        None, description="The models here do not reason."
    )


class SupervisedMethod(StrictApiModel):
    """Learning from whole answers."""

    hyperparameters: Hyperparameters | None = None


class DpoMethod(StrictApiModel):
    """Learning from pairs of answers (direct preference optimisation)."""

    hyperparameters: DpoHyperparameters | None = None


class ReinforcementMethod(StrictApiModel):
    """Learning from what the model's own answers are worth (GRPO)."""

    grader: RewardGrader
    hyperparameters: ReinforcementHyperparameters | None = None


class JobMethod(StrictApiModel):
    """What is learnt from a row."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="after")
    def _check_settings(self) -> "JobMethod":
        if any(getattr(self, name) for name in _HYPERPARAMETERS if name != self.type):
            raise ValueError(f"the settings of another method than `{self.type}` are given")
        if self.type == "reinforcement" and self.reinforcement is None:
            raise ValueError("the method `reinforcement` needs a `grader`")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the method that is meant."""
        own = getattr(self, self.type)
        return (own and own.hyperparameters) or _HYPERPARAMETERS[self.type]()

    @property
    def grader(self) -> dict[str, Any] | None:
        """What rewards answers, as it was written."""
        found = self.reinforcement and self.reinforcement.grader
        return found.model_dump(exclude_none=True) if found else None


#: The methods, and which numbers each has.
_HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {
    "supervised": Hyperparameters,
    "dpo": DpoHyperparameters,
    "reinforcement": ReinforcementHyperparameters,
}


class CreateJob(StrictApiModel):
    """POST /fine_tuning/jobs."""

    model: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable_text)]
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    seed: int | None = Field(None, ge=0, lt=2**31)
    metadata: Labels = None
    method: JobMethod | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="The older place of `method.supervised.hyperparameters`."
    )
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    trainingType: str | int | None = Field(None, description="Azure's; there is one kind here.")

    @property
    def method_name(self) -> str:
        """The method by its name."""
        return self.method.type if self.method else "supervised"

    @property
    def requested_hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters, wherever they were written; the method's own go first."""
        older = self.hyperparameters.model_dump() if self.hyperparameters else {}
        chosen = self.method.hyperparameters.model_dump() if self.method else older
        names = chosen or Hyperparameters().model_dump()
        return {name: chosen.get(name) or older.get(name) or "auto" for name in names}

    @property
    def requested(self) -> dict[str, Any]:
        """The hyperparameters, and the grader where there is one."""
        grader = self.method.grader if self.method else None
        return (
            {**self.requested_hyperparameters, "grader": grader}
            if grader
            else self.requested_hyperparameters
        )


def model_name(job: Job) -> str:
    """The name of the job's model: the same however often it is asked."""
    return f"ft:{job.model}:{job.organization}:{(job.suffix or '').lower()}:{job.id[-8:]}"


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
        "organization_id": f"org-{job.organization}",
        "status": job.status,
        "error": job.error,
        "hyperparameters": shared,
        "method": {"type": job.method, job.method: _method_body(job)},
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "seed": job.seed,
        "integrations": [],
        "metadata": job.labels,
        "user_provided_suffix": job.suffix,
    }


def _method_body(job: Job) -> dict[str, Any]:
    grader = {"grader": job.asked["grader"]} if "grader" in job.asked else {}
    return {**grader, "hyperparameters": job.hyperparameters}


def event_body(event: JobEventRow) -> dict[str, Any]:
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


def checkpoint_body(checkpoint: JobCheckpoint) -> dict[str, Any]:
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
