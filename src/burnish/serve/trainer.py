"""`python -m burnish.serve.trainer RECIPE RUN OUTCOME`: trains one job, and leaves the models of
steps on the way."""

import sys

from burnish.core.recipe import Recipe
from burnish.core.runs import Run
from burnish.serve.steps import export_steps
from burnish.train.trial import main


def _export(run: Run, recipe: Recipe) -> None:
    export_steps(run, recipe.train.keep_every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:4], _export))
