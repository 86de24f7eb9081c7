"""Rules of thumb: textbook expectations for this data before measuring, and their outcomes.

Each rule looks at the recipe and the rows, and bets on one route against another. The measurement
then decides by the paired interval, so that a rule is contradicted only beyond chance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Scores
from burnish.core.stats import paired_test
from burnish.data.load import Dataset

Outcome = Literal["confirmed", "contradicted", "open", "not measured"]

#: Fewer training rows than this count as few; the documents name no number.
FEW_ROWS = 100
#: A bet: scores of both routes, the smallest relevant gain, the confidence level → outcome.
_Check = Callable[[Scores, Scores, float, float], Outcome]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, the reason why it applies to this data (empty if it doesn't), and its bet."""

    statement: str
    reason: Callable[[Recipe, Dataset], str]
    ours: str
    theirs: str
    check: _Check


@dataclass(frozen=True, slots=True)
class Expectation:
    """A rule that applies: its statement, the reason, and its outcome."""

    says: str
    because: str
    ours: str
    theirs: str
    outcome: Outcome = "not measured"


def _scores_more(ours: Scores, theirs: Scores, smallest_gain: float, confidence: float) -> Outcome:
    gain = paired_test(*ours.paired_with(theirs), confidence).gain
    return "confirmed" if gain.low > 0 else "contradicted" if gain.high < 0 else "open"


def _hardly_more(ours: Scores, theirs: Scores, smallest_gain: float, confidence: float) -> Outcome:
    gain = paired_test(*ours.paired_with(theirs), confidence).gain
    return (
        "confirmed"
        if gain.high < smallest_gain
        else "contradicted"
        if gain.low > smallest_gain
        else "open"
    )


def _reads_less(ours: Scores, theirs: Scores, smallest_gain: float, confidence: float) -> Outcome:
    our_tokens, their_tokens = (
        mean(item.tokens_in for item in scores.predictions) for scores in (ours, theirs)
    )
    return "confirmed" if our_tokens < their_tokens else "contradicted"


def _documents(recipe: Recipe, dataset: Dataset) -> str:
    return "the recipe names documents" if recipe.rag.documents else ""


def _knowledge(recipe: Recipe, dataset: Dataset) -> str:
    applies = recipe.rag.documents and dataset.task.kind == "qa"
    return "questions are answered from documents" if applies else ""


def _fixed_words(recipe: Recipe, dataset: Dataset) -> str:
    task = dataset.task
    if task.kind == "classification":
        return f"the answers are {len(task.labels)} fixed labels"
    return "the answers have fixed keys" if task.kind == "extraction" else ""


def _few_rows(recipe: Recipe, dataset: Dataset) -> str:
    rows = len(dataset.split.train)
    return f"there are only {rows} rows to train" if rows < FEW_ROWS else ""


def _always(recipe: Recipe, dataset: Dataset) -> str:
    return f"a few-shot prompt carries up to {recipe.compare.shots} examples each time"


#: The documents' rules that can be read off a recipe and its rows (docs/guides/compare.md).
RULES = (
    Rule("External facts are better looked up than trained.",
         _documents, "retrieval", "fine_tuned", _scores_more),
    Rule("Where knowledge and form both matter, retrieval with fine-tuning beats retrieval alone.",
         _knowledge, "retrieval_fine_tuned", "retrieval", _scores_more),
    Rule("A fixed, precise vocabulary is better trained than prompted.",
         _fixed_words, "fine_tuned", "few_shot", _scores_more),
    Rule("With little data, fine-tuning makes little difference.",
         _few_rows, "fine_tuned", "base", _hardly_more),
    Rule("A fine-tune needs fewer tokens than examples in the prompt.",
         _always, "fine_tuned", "few_shot", _reads_less),
)  # fmt: skip


def list_expectations(recipe: Recipe, dataset: Dataset) -> list[Expectation]:
    """Return the expectations of the rules that apply, before measuring."""
    return [
        Expectation(rule.statement, reason, rule.ours, rule.theirs)
        for rule in RULES
        if (reason := rule.reason(recipe, dataset))
    ]


def check_expectations(
    before: list[Expectation], routes: Mapping[str, Scores], least: float, confidence: float
) -> list[Expectation]:
    """Return the expectations with their outcomes; `least` is the smallest gain that is worth
    having.

    An outcome is open if the interval (at level `confidence`) allows both.
    """
    bets = {rule.statement: rule.check for rule in RULES}
    return [
        Expectation(
            one.says, one.because, one.ours, one.theirs,
            bets[one.says](routes[one.ours], routes[one.theirs], least, confidence),
        )
        if one.ours in routes and one.theirs in routes
        else one
        for one in before
    ]  # fmt: skip
