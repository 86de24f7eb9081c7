"""Errors that burnish can explain to its user.

An error says what happened, why, and what to do. `status` is the HTTP status and `code` the exit
code of the shell: 2 for wrong use or bad input, 1 when a gate answered "no". Both arguments stay in
`args`, so that an error can be pickled between processes.
"""


class BurnishError(Exception):
    """An error with a cause and a remedy. `fix` is empty when nothing can be done."""

    status = 400
    code = 2

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what, fix)

    @property
    def what(self) -> str:
        """What happened and why."""
        return str(self.args[0])

    @property
    def fix(self) -> str:
        """What to do about it."""
        return str(self.args[1])

    def __str__(self) -> str:
        return "\n".join(part for part in self.args if part)


class BadRecipe(BurnishError, ValueError):
    """The recipe, or an override of one of its fields, is invalid."""


class BadData(BurnishError, ValueError):
    """A data file or one of its rows cannot be used."""


class PromptTooLong(BadData):
    """A prompt leaves no room for its answer in the model's context."""


class AuditFailed(BadData):
    """The token audit found rows that would train on the wrong tokens, or on none."""


class TestSplitChanged(BadData):
    """The frozen test split differs from the one behind earlier results."""

    __test__ = False  # the name begins with "Test"; pytest must not collect it


class NotFound(BurnishError, LookupError):
    """No model, run or file has the given name."""

    status = 404


class AlreadyThere(BurnishError, FileExistsError):
    """A folder that would be written already exists."""

    status = 409


class Busy(BurnishError):
    """Another process is working on the same run."""

    status = 409


class PullFailed(BurnishError):
    """A model could not be downloaded, checked or converted."""

    status = 502


class DoesNotFit(BurnishError):
    """The forecast says that this run does not fit into memory or onto the disk."""


class TrainingStopped(BurnishError, RuntimeError):
    """Training ended early (no memory, no disk, loss not a number); the run can be resumed."""

    code = 1


class StorageFailed(TrainingStopped):
    """The disk is full or not writable; written data is intact and work can be resumed."""

    status = 507


class TeacherStopped(BurnishError, RuntimeError):
    """Too many teacher answers failed, the teacher is unreachable or the budget is spent; finished
    answers are kept."""

    code = 1


class Unavailable(BurnishError, RuntimeError):
    """An optional dependency is not installed."""
