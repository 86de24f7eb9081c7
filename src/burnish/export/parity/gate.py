"""The parity gate: does what ships answer like what was trained?

The exported folder is opened by the engine that will serve it and asked over HTTP, as any client
asks. What it is given must be the very tokens of training; what it says is compared, question by
question, with what the trained model says. Shippable is what surely loses less than the budget.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from burnish.core.atomic import hash_json
from burnish.core.progress import progress
from burnish.core.recipe.export import Export
from burnish.core.records import Prompt
from burnish.core.stats import quantile
from burnish.export.parity.clients import ServedAnswer, ServedModel, without_choices
from burnish.export.parity.differences import (
    changed_labels,
    compare_metric,
    count_defects,
    explain_excess_loss,
    token_agreement,
)
from burnish.export.parity.questions import GateQuestions, TrainedAnswers
from burnish.models.chat_template import encode_prompt, encode_text

#: So many are asked alone first.
_SEQUENTIAL_PROMPTS = 24


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


def measure_parity(
    door: ServedModel, asked: GateQuestions, trained: TrainedAnswers, settings: Export
) -> Parity:
    """Ask the exported artefact the same and compare."""
    against: list[str] = []
    prompts = _compare_prompts(door, asked, trained, against)
    replies = _ask_all(door, without_choices(asked.prompts), "Asking the exported model")
    counted = sum(
        reply.tokens_in != before.tokens_in
        for reply, before in zip(replies, trained.free, strict=True)
    )
    if counted:
        against.append(f"The server counts other prompt tokens on {counted} questions.")
    changes = {"free": compare_metric(asked, trained.free, replies, settings)}
    if asked.has_choices:
        held = _ask_all(door, asked.prompts, "Asking it for labels")
        changes["labels_only"] = compare_metric(asked, trained.constrained, held, settings)
    telling = {name: one for name, one in changes.items() if one.trained or one.ok}
    against += [explain_excess_loss(*item, settings) for item in telling.items() if not item[1].ok]
    if not telling:
        against.append("The trained model itself scores 0 here, so nothing shows what was lost.")
    defects = count_defects(asked, trained.free, replies, settings, against)
    facts = {
        "rows": len(asked.rows),
        "prompts": prompts,
        "changes": {name: asdict(one) for name, one in changes.items()},
        "token_agreement": token_agreement(trained.tokenizer, trained.free, replies),
        "same_answers": sum(a.text == b.text for a, b in zip(trained.free, replies, strict=True)),
        "broken": defects,
        "classes": changed_labels(asked, trained, replies),
        "speed": _summarize_speed(replies, door),
    }
    return Parity(tuple(against), facts)


def _ask_all(door: ServedModel, prompts: Sequence[Prompt], label: str) -> list[ServedAnswer]:
    """The first few alone, which tells how long that takes; the others as the door likes it."""
    replies = []
    with progress(label, total=len(prompts)) as bar, ThreadPoolExecutor(door.concurrency) as pool:
        for some, asking in (
            (prompts[:_SEQUENTIAL_PROMPTS], map),
            (prompts[_SEQUENTIAL_PROMPTS:], pool.map),
        ):
            for reply in asking(door.ask, some):
                replies.append(reply)
                bar.advance()
    return replies


def _compare_prompts(
    door: ServedModel, asked: GateQuestions, trained: TrainedAnswers, against: list[str]
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


def _summarize_speed(replies: Sequence[ServedAnswer], door: ServedModel) -> dict[str, float]:
    """Of the free answers that were asked alone; the first warms up."""
    alone = replies[1:_SEQUENTIAL_PROMPTS]
    seconds = [reply.seconds for reply in alone]
    return {
        "p50_s": quantile(seconds, 0.5),
        "p95_s": quantile(seconds, 0.95),
        "tokens_per_s": sum(r.tokens_out for r in alone) / sum(seconds),
        "memory_bytes": door.process.memory_bytes(),
    }
