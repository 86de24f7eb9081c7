"""Fine-tuning requests, jobs, events and checkpoints as OpenAI clients write and read them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from burnish.serve.graders.protocol import RewardGrader
from burnish.serve.protocol import (
    ApiObject,
    Id,
    IdentifiedObject,
    Labels,
    OmittedIfNone,
    StrictApiModel,
    storable_text,
)
from burnish.serve.store.schema import Job, JobCheckpoint, JobEventRow

_AUTO = BeforeValidator(lambda value: None if value in ("auto", -1) else value)


class Hyperparameters(StrictApiModel):
    """Hyperparameters; `auto`, nothing, or Azure's -1 leave the choice to burnish."""

    n_epochs: Annotated[int | None, _AUTO] = Field(None, ge=1, le=50)
    batch_size: Annotated[int | None, _AUTO] = Field(None, ge=1, le=256)
    learning_rate_multiplier: Annotated[float | None, _AUTO] = Field(None, gt=0, le=100)


class DpoHyperparameters(Hyperparameters):
    """Hyperparameters with `beta`, the weight of the divergence from the initial model."""

    beta: Annotated[float | None, _AUTO] = Field(None, gt=0, le=2)


class ReinforcementHyperparameters(Hyperparameters):
    """Hyperparameters of reinforcement.

    `compute_multiplier` scales the answers sampled per question (8), `eval_interval` counts steps,
    `eval_samples` counts the answers per validation question (1: greedy).
    """

    compute_multiplier: Annotated[float | None, _AUTO] = Field(None, gt=1e-5, le=10)
    eval_interval: Annotated[int | None, _AUTO] = Field(None, ge=1)
    eval_samples: Annotated[int | None, _AUTO] = Field(None, ge=1, le=64)
    reasoning_effort: Literal["default"] | None = Field(
        None, description="The models here do not reason."
    )


class SupervisedMethod(StrictApiModel):
    """Supervised fine-tuning (SFT)."""

    hyperparameters: Hyperparameters | None = None


class DpoMethod(StrictApiModel):
    """Direct preference optimisation (DPO) on pairs of answers."""

    hyperparameters: DpoHyperparameters | None = None


class ReinforcementMethod(StrictApiModel):
    """Reinforcement with a grader (GRPO)."""

    grader: RewardGrader
    hyperparameters: ReinforcementHyperparameters | None = None


class JobMethod(StrictApiModel):
    """The method of a job and its settings."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="after")
    def _check_settings(self) -> "JobMethod":
        if any(getattr(self, name) for name in _HYPERPARAMETERS if name != self.type):
            raise ValueError(f"settings are given for a method that is not `{self.type}`")
        if self.type == "reinforcement" and self.reinforcement is None:
            raise ValueError("the method `reinforcement` needs a `grader`")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters of the chosen method."""
        settings = getattr(self, self.type)
        return (settings and settings.hyperparameters) or _HYPERPARAMETERS[self.type]()

    @property
    def grader(self) -> dict[str, Any] | None:
        """The grader of a reinforcement, as the client wrote it."""
        grader = self.reinforcement and self.reinforcement.grader
        return grader.model_dump(exclude_none=True) if grader else None


#: The hyperparameters by method.
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
    trainingType: str | int | None = Field(
        None, description="Azure's field; ignored, as there is one kind here."
    )

    @property
    def method_name(self) -> str:
        """The name of the method."""
        return self.method.type if self.method else "supervised"

    @property
    def requested_hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters from both places; the method's own take precedence."""
        older = self.hyperparameters.model_dump() if self.hyperparameters else {}
        chosen = self.method.hyperparameters.model_dump() if self.method else older
        names = chosen or Hyperparameters().model_dump()
        return {name: chosen.get(name) or older.get(name) or "auto" for name in names}

    @property
    def requested(self) -> dict[str, Any]:
        """The hyperparameters, and the grader if there is one."""
        grader = self.method.grader if self.method else None
        return (
            {**self.requested_hyperparameters, "grader": grader}
            if grader
            else self.requested_hyperparameters
        )


def model_name(job: Job) -> str:
    """Return the name of the job's model, which depends on the job alone."""
    return f"ft:{job.model}:{job.organization}:{(job.suffix or '').lower()}:{job.id[-8:]}"


Hyperparameter = int | float | str


class SharedHyperparametersObject(ApiObject):
    """The hyperparameters that every method has, as numbers once the files are checked."""

    n_epochs: Hyperparameter
    batch_size: Hyperparameter
    learning_rate_multiplier: Hyperparameter


class MethodSettingsObject(ApiObject):
    """All hyperparameters of a method, and the grader of a reinforcement."""

    grader: OmittedIfNone[dict[str, Any]] = None
    hyperparameters: dict[str, Hyperparameter]


class MethodObject(ApiObject):
    """The method of a job; its settings stand under its name."""

    type: str
    supervised: OmittedIfNone[MethodSettingsObject] = None
    dpo: OmittedIfNone[MethodSettingsObject] = None
    reinforcement: OmittedIfNone[MethodSettingsObject] = None


class JobErrorObject(ApiObject):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class JobObject(IdentifiedObject):
    """A fine-tuning job; times are Unix seconds."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    error: JobErrorObject | None
    hyperparameters: SharedHyperparametersObject
    method: MethodObject
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    integrations: list[Any]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None


class JobEventObject(IdentifiedObject):
    """An event of a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


class JobCheckpointObject(IdentifiedObject):
    """A model saved during a job."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, int | float]


def job_object(job: Job) -> JobObject:
    """Describe a job."""
    shared = {name: job.hyperparameters[name] for name in Hyperparameters.model_fields}
    settings = MethodSettingsObject(
        grader=job.asked.get("grader"), hyperparameters=job.hyperparameters
    )
    return JobObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=job.estimated_finish,
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=f"org-{job.organization}",
        status=job.status,
        error=JobErrorObject(**job.error) if job.error else None,
        hyperparameters=SharedHyperparametersObject(**shared),
        method=MethodObject(type=job.method, **{job.method: settings}),
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=job.result_files,
        trained_tokens=job.trained_tokens,
        seed=job.seed,
        integrations=[],
        metadata=job.labels,
        user_provided_suffix=job.suffix,
    )


def event_object(event: JobEventRow) -> JobEventObject:
    """Describe an event."""
    return JobEventObject(
        id=event.id,
        created_at=event.created_at,
        level=event.level,
        type=event.type,
        message=event.message,
        data=event.data,
    )


def checkpoint_object(checkpoint: JobCheckpoint) -> JobCheckpointObject:
    """Describe a checkpoint."""
    return JobCheckpointObject(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.name,
        fine_tuning_job_id=checkpoint.job,
        step_number=checkpoint.step,
        metrics=checkpoint.metrics,
    )
