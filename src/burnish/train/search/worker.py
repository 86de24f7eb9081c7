"""`python -m burnish.train.search.worker RECIPE RUN OUTCOME`: one training in a worker process.

It may be killed at any moment: restarted, it resumes from the run's last checkpoint. It holds a
lock beside its recipe, so that no other process trains in the same folder, and exits when its
parent does.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from burnish.core.atomic import write_json
from burnish.core.errors import BurnishError
from burnish.core.executors.process import exit_with_parent
from burnish.core.progress import LineReporter, set_reporter
from burnish.core.recipe.recipe import Recipe, load_recipe
from burnish.core.runs import Run
from burnish.train.run import train_in


def main(paths: Sequence[str], then: Callable[[Run, Recipe], None] | None = None) -> int:
    """Train, or resume; write an error to OUTCOME. `then` is called after the training."""
    recipe, run, outcome = map(Path, paths)
    exit_with_parent()
    set_reporter(LineReporter())
    with FileLock(recipe.with_name("lock")):
        try:
            settings = load_recipe(recipe)
            train_in(run, settings)
            if then:
                then(Run(run), settings)
        except BurnishError as error:
            fault = {"kind": type(error).__name__, "what": error.what, "fix": error.fix}
            write_json(outcome, fault)
            return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:4]))
