"""Every fault that burnish can explain to whoever asked.

An error says what happened, why, and what to do. `status` answers HTTP and `code` answers the
shell: 2 for wrong use or bad input, 1 where a gate answered "no". Both arguments stay in `args`,
so that an error survives the trip from another process.
"""


class BurnishError(Exception):
    """A fault with a cause and a remedy. `fix` may be empty where there is nothing to do."""

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
    """The recipe, or an override of one of its fields, cannot be understood."""


class BadData(BurnishError, ValueError):
    """A data file or one of its rows cannot be used."""


class PromptTooLong(BadData):
    """A prompt leaves no room for its answer in the model's context."""


class AuditFailed(BadData):
    """The token audit found rows that would train on the wrong tokens, or on none."""


class TestSplitChanged(BadData):
    """The frozen test split is not the one that earlier figures were measured on."""

    __test__ = False  # the name begins with "Test"; pytest must not collect it


class NotFound(BurnishError, LookupError):
    """A model, run or file that was named is not here."""

    status = 404


class AlreadyThere(BurnishError, FileExistsError):
    """A folder that would be written exists already."""

    status = 409


class Busy(BurnishError):
    """Another process is working on the same run."""

    status = 409


class PullFailed(BurnishError):
    """A model could not be fetched, checked or converted."""

    status = 502


class DoesNotFit(BurnishError):
    """The forecast says that this run does not fit into memory or onto the disk."""


class TrainingStopped(BurnishError, RuntimeError):
    """Training ended early (no memory, no disk, loss not a number); the run can be resumed."""

    code = 1


class StorageFailed(TrainingStopped):
    """The disk is full or cannot be written; what is on it is whole, and work can go on later."""

    status = 507


class TeacherStopped(BurnishError, RuntimeError):
    """Too many of a teacher's answers failed, it can't be reached, or the budget is spent; what it
    has answered is kept, and the same command goes on from there."""

    code = 1


class Unavailable(BurnishError, RuntimeError):
    """An optional part is not installed."""
