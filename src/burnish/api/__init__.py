"""The Python API: each word of the command line as a function of the same name and arguments.

    from burnish import api

    result = api.compare(train=["tickets.jsonl"], model="smollm2-135m-instruct")
    print(result.verdict.reason)

Heavy libraries load inside the function that needs them, after its inputs are checked.
"""

from typing import TYPE_CHECKING

from burnish.api.data import (
    CheckReport,
    KnownModel,
    ResolvedRecipe,
    check,
    models,
    pull,
    recipe,
    runs,
)
from burnish.api.evaluation import compare, evaluate
from burnish.api.exporting import export
from burnish.api.inputs import RecipeInputs, resolve
from burnish.api.migration import import_openai, olive
from burnish.api.projects import Project, init
from burnish.api.retrieval import ask, index, search
from burnish.api.serving import chat, key, serve
from burnish.api.training import (
    MemoryForecast,
    Review,
    distill,
    forecast,
    merge,
    next_command,
    review,
    train,
)

if TYPE_CHECKING:
    from burnish.compare.run import Comparison as Comparison
    from burnish.compat.olive.report import OliveReport as OliveReport
    from burnish.compat.openai_import import ImportReport as ImportReport
    from burnish.distill.report import DistillationResult as DistillationResult
    from burnish.distill.review import DisputedRow as DisputedRow
    from burnish.engines.chat import ChatSession as ChatSession
    from burnish.evaluate.run import Evaluation as Evaluation
    from burnish.export.multi_adapter import MultiAdapterExport as MultiAdapterExport
    from burnish.export.run import ExportResult as ExportResult
    from burnish.export.search.result import SearchResult as SearchResult
    from burnish.models.local_models import LocalModel as LocalModel
    from burnish.rag.answer import CitedAnswer as CitedAnswer
    from burnish.rag.indexing import IndexReport as IndexReport
    from burnish.rag.search import SearchHit as SearchHit
    from burnish.train.forecast.memory_table import Assumptions as Assumptions
    from burnish.train.forecast.memory_table import TableCell as TableCell
    from burnish.train.report import TrainReport as TrainReport
    from burnish.train.search.run import SearchReport as SearchReport

__all__ = [
    "CheckReport",
    "KnownModel",
    "MemoryForecast",
    "Project",
    "RecipeInputs",
    "ResolvedRecipe",
    "Review",
    "ask",
    "chat",
    "check",
    "compare",
    "distill",
    "evaluate",
    "export",
    "forecast",
    "import_openai",
    "index",
    "init",
    "key",
    "merge",
    "models",
    "next_command",
    "olive",
    "pull",
    "recipe",
    "resolve",
    "review",
    "runs",
    "search",
    "serve",
    "train",
]
