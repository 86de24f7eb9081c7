"""The parity gate: does what ships answer like what was trained?

The exported folder is opened by the engine that will serve it and asked over HTTP, as any client
asks. What it is given must be the very tokens of training; what it says is compared, question by
question, with what the trained model says. Shippable is what surely loses less than the budget.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.export import Export
from burnish.core.folders import hash_json
from burnish.core.progress import progress
from burnish.core.records import Prompt, Row
from burnish.core.sections import Task
from burnish.core.stats import loss_bound, quantile
from burnish.engines.local import LocalEngine
from burnish.evaluate.metrics import CORPUS, METRICS
from burnish.evaluate.tasks import TASKS
from burnish.export.doors import Door, Reply, free
from burnish.models.chat import encode_prompt, encode_text

#: With fewer questions than this, equal answers prove nothing.
LEAST_ROWS = 30
#: So many are asked alone first.
_ALONE = 24


@dataclass(frozen=True, slots=True)
class Questions:
    """What both are asked: rows, their prompts, and how answers are scored."""

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    task: Task
    metric: str

    @property
    def bound(self) -> bool:
        """Whether answers can be held to a list of labels."""
        return TASKS[self.task.kind].constrained


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained model's answers: free ones, and those held to the labels (empty without)."""

    tokenizer: PreTrainedTokenizerBase
    free: Sequence[Reply]
    bound: Sequence[Reply]


@dataclass(frozen=True, slots=True)
class Change:
    """The metric before and after, and the loss that is surely not exceeded, with its budget."""

    metric: str
    trained: float
    exported: float
    loss_at_most: float
    budget: float
    changed: int
    n: int

    @property
    def ok(self) -> bool:
        """Whether the loss is surely within the budget, or no answer changed at all."""
        unchanged = not self.changed and self.n >= LEAST_ROWS
        return unchanged or self.loss_at_most <= self.budget


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate found. `against` says why it isn't shippable, a sentence each."""

    against: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def shippable(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against

    def as_dict(self) -> dict[str, Any]:
        """The content of `parity.json`."""
        return {"shippable": self.shippable, "against": list(self.against), **self.facts}


def ask_trained(engine: LocalEngine, asked: Questions) -> Trained:
    """The trained model's answers."""
    sides: list[list[Reply]] = []
    for prompts in (free(asked.prompts), asked.prompts if asked.bound else ()):
        with progress("Asking the trained model", total=len(prompts)) as bar:
            answers = engine.answer(prompts, advance=lambda n, bar=bar: bar.advance(n))  # type: ignore[misc]
        sides.append(
            [
                Reply(a.text, a.finish_reason == "stop", a.tokens_in, a.tokens_out, a.seconds)
                for a in answers
            ]
        )
    return Trained(engine.tokenizer, sides[0], sides[1])


def measure(door: Door, asked: Questions, trained: Trained, settings: Export) -> Parity:
    """Ask the exported artefact the same and compare."""
    against: list[str] = []
    prompts = _same_prompts(door, asked, trained, against)
    replies = _ask_all(door, free(asked.prompts), "Asking the exported model")
    counted = sum(
        reply.tokens_in != before.tokens_in
        for reply, before in zip(replies, trained.free, strict=True)
    )
    if counted:
        against.append(f"The server counts other prompt tokens on {counted} questions.")
    changes = {"free": _change(asked, trained.free, replies, settings)}
    if asked.bound:
        held = _ask_all(door, asked.prompts, "Asking it for labels")
        changes["labels_only"] = _change(asked, trained.bound, held, settings)
    telling = {name: change for name, change in changes.items() if change.trained or change.ok}
    against += [_too_much(*item, settings) for item in telling.items() if not item[1].ok]
    if not telling:
        against.append("The trained model itself scores 0 here, so nothing shows what was lost.")
    broken = _broken(asked, trained.free, replies, settings, against)
    agreement = _agreement(trained.tokenizer, trained.free, replies)
    facts = {
        "rows": len(asked.rows),
        "prompts": prompts,
        "changes": {name: asdict(change) for name, change in changes.items()},
        "token_agreement": agreement,
        "same_answers": sum(a.text == b.text for a, b in zip(trained.free, replies, strict=True)),
        "broken": broken,
        "classes": _classes(asked, trained, replies),
        "speed": _speed(replies, door),
    }
    return Parity(tuple(against), facts)


def _ask_all(door: Door, prompts: Sequence[Prompt], label: str) -> list[Reply]:
    """The first few alone, which tells how long that takes; the others as the door likes it."""
    replies = []
    with progress(label, total=len(prompts)) as bar, ThreadPoolExecutor(door.together) as pool:
        for some, asking in ((prompts[:_ALONE], map), (prompts[_ALONE:], pool.map)):
            for reply in asking(door.ask, some):
                replies.append(reply)
                bar.advance()
    return replies


def _same_prompts(
    door: Door, asked: Questions, trained: Trained, against: list[str]
) -> dict[str, Any]:
    """Whether the artefact is given the tokens of training, for questions and for answers."""
    ours = [encode_prompt(trained.tokenizer, p.messages, p.tools) for p in asked.prompts]
    theirs = [door.prompt_tokens(prompt) for prompt in asked.prompts]
    texts = sorted({row.answer for row in asked.rows})
    answers = sum(encode_text(trained.tokenizer, t) != door.text_tokens(t) for t in texts)
    pairs = enumerate(zip(ours, theirs, strict=True))
    different = [place for place, (one, other) in pairs if one != other]
    facts: dict[str, Any] = {
        "trained_sha256": hash_json(ours),
        "exported_sha256": hash_json(theirs),
        "different": len(different),
        "answers_different": answers,
    }
    if different:
        first = different[0]
        facts["first"] = {
            "row": asked.rows[first].id,
            "trained": trained.tokenizer.convert_ids_to_tokens(ours[first])[:200],
            "exported": trained.tokenizer.convert_ids_to_tokens(theirs[first])[:200],
        }
        against.append(
            f"{len(different)} of {len(ours)} prompts are other tokens than in training "
            f"(first: {asked.rows[first].id})."
        )
    if answers:
        against.append(f"{answers} of {len(texts)} expected answers are other tokens.")
    return facts


def _change(
    asked: Questions, before: Sequence[Reply], after: Sequence[Reply], settings: Export
) -> Change:
    score = METRICS[asked.metric]
    old, new = (
        [score(row.answer, reply.text) for row, reply in zip(asked.rows, side, strict=True)]
        for side in (before, after)
    )
    mean = sum(old) / len(old)
    return Change(
        metric=asked.metric,
        trained=mean,
        exported=sum(new) / len(new),
        loss_at_most=loss_bound(old, new, settings.confidence),
        budget=min(settings.points, settings.relative * mean),
        changed=sum(a.text != b.text for a, b in zip(before, after, strict=True)),
        n=len(old),
    )


_ASKED = {"free": "answering freely", "labels_only": "held to the labels"}


def _too_much(name: str, change: Change, settings: Export) -> str:
    """Why a change isn't within the budget: it is too large, or too few questions were asked."""
    loss = change.trained - change.exported
    what = f"{change.metric} {_ASKED[name]} went from {change.trained:.1%} to {change.exported:.1%}"
    sure = f"with {settings.confidence:.0%} certainty at most {100 * change.loss_at_most:.1f}"
    if loss > change.budget:
        return (
            f"{what}: {100 * loss:.1f} points lost ({sure}), of {100 * change.budget:.1f} allowed."
        )
    return (
        f"{what}, but {change.n} questions can't show that the loss is within "
        f"{100 * change.budget:.1f} points ({sure}): ask more (--set export.rows=...), "
        "or allow more (--set export.points=...)."
    )


def _broken(
    asked: Questions,
    before: Sequence[Reply],
    after: Sequence[Reply],
    settings: Export,
    against: list[str],
) -> dict[str, Any]:
    """Answers that are empty, that don't end, or that lack the task's form; on both sides."""
    checks = {"empty": lambda reply: not reply.text.strip(), "unfinished": lambda r: not r.complete}
    if asked.bound:
        labels = set(asked.task.labels)
        checks["not_a_label"] = lambda reply: reply.text.strip() not in labels
    elif "json_validity" in CORPUS[asked.task.kind]:
        valid = CORPUS[asked.task.kind]["json_validity"]
        checks["not_json"] = lambda reply: not valid([""], [reply.text])
    counts = {
        name: {
            "trained": sum(check(reply) for reply in before),
            "exported": sum(check(reply) for reply in after),
        }
        for name, check in checks.items()
    }
    for name, count in counts.items():
        more = (count["exported"] - count["trained"]) / len(after)
        if more > settings.points:
            words = name.replace("_", " ")
            against.append(
                f"{count['exported']} answers are {words}; {count['trained']} of the trained "
                "model's were."
            )
    return counts


def _agreement(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[Reply], after: Sequence[Reply]
) -> float:
    """Share of the trained model's tokens that come out before the first different one."""
    same = total = 0
    for old, new in zip(before, after, strict=True):
        ours, theirs = encode_text(tokenizer, old.text), encode_text(tokenizer, new.text)
        total += max(len(ours), len(theirs), 1)
        place = 0
        while place < min(len(ours), len(theirs)) and ours[place] == theirs[place]:
            place += 1
        same += place if ours != theirs else max(len(ours), 1)
    return same / total


def _classes(asked: Questions, trained: Trained, replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Labels that are answered otherwise than before, the most damaged first."""
    if not asked.bound:
        return []
    score = METRICS[asked.metric]
    n: Counter[str] = Counter()
    old: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for row, before, after in zip(asked.rows, trained.free, replies, strict=True):
        n[row.answer] += 1
        old[row.answer] += int(score(row.answer, before.text))
        new[row.answer] += int(score(row.answer, after.text))
    changed = [label for label in n if old[label] != new[label]]
    return [
        {"label": label, "n": n[label], "trained": old[label], "exported": new[label]}
        for label in sorted(changed, key=lambda label: new[label] - old[label])
    ]


def _speed(replies: Sequence[Reply], door: Door) -> dict[str, float]:
    """Of the free answers that were asked alone; the first warms up."""
    alone = replies[1:_ALONE]
    seconds = [reply.seconds for reply in alone]
    return {
        "p50_s": quantile(seconds, 0.5),
        "p95_s": quantile(seconds, 0.95),
        "tokens_per_s": sum(r.tokens_out for r in alone) / sum(seconds),
        "memory_bytes": door.child.memory_bytes(),
    }
