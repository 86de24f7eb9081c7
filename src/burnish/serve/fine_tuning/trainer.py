"""Train one fine-tuning job and write the models of its checkpoints.

`python -m burnish.serve.fine_tuning.trainer RECIPE RUN OUTCOME`"""

import sys

from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run
from burnish.serve.fine_tuning.checkpoints import export_steps
from burnish.train.search.worker import main


def _export_checkpoints(run: Run, recipe: Recipe) -> None:
    export_steps(run, recipe.train.keep_every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:4], _export_checkpoints))
