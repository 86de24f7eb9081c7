"""The parity gate: does the exported model answer like the trained one?

The exported folder is opened by the engine that will serve it and asked over HTTP, as by any
client. Its prompts must have the very tokens of training; its answers are compared, question by
question, with the trained model's. It is shippable if the loss is surely below the budget.
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

#: Number of prompts asked one at a time first.
_SEQUENTIAL_PROMPTS = 24


@dataclass(frozen=True, slots=True)
class Parity:
    """The gate's result. `against` gives the reasons for not shipping, a sentence each."""

    against: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def shippable(self) -> bool:
        """True if there is no reason against shipping."""
        return not self.against

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `parity.json`."""
        return {"shippable": self.shippable, "against": list(self.against), **self.facts}


def measure_parity(
    served: ServedModel, questions: GateQuestions, trained: TrainedAnswers, settings: Export
) -> Parity:
    """Ask the exported artifact the same questions and compare."""
    against: list[str] = []
    prompts = _compare_prompts(served, questions, trained, against)
    replies = _ask_all(served, without_choices(questions.prompts), "Asking the exported model")
    miscounted = sum(
        reply.tokens_in != before.tokens_in
        for reply, before in zip(replies, trained.free, strict=True)
    )
    if miscounted:
        against.append(f"The server counts different prompt tokens on {miscounted} questions.")
    changes = {"free": compare_metric(questions, trained.free, replies, settings)}
    if questions.has_choices:
        constrained = _ask_all(served, questions.prompts, "Asking it for labels")
        changes["labels_only"] = compare_metric(
            questions, trained.constrained, constrained, settings
        )
    informative = {name: change for name, change in changes.items() if change.trained or change.ok}
    against += [
        explain_excess_loss(*item, settings) for item in informative.items() if not item[1].ok
    ]
    if not informative:
        against.append("The trained model itself scores 0 here, so no loss could show.")
    defects = count_defects(questions, trained.free, replies, settings, against)
    facts = {
        "rows": len(questions.rows),
        "prompts": prompts,
        "changes": {name: asdict(change) for name, change in changes.items()},
        "token_agreement": token_agreement(trained.tokenizer, trained.free, replies),
        "same_answers": sum(a.text == b.text for a, b in zip(trained.free, replies, strict=True)),
        "broken": defects,
        "classes": changed_labels(questions, trained, replies),
        "speed": _summarize_speed(replies, served),
    }
    return Parity(tuple(against), facts)


def _ask_all(served: ServedModel, prompts: Sequence[Prompt], label: str) -> list[ServedAnswer]:
    """Ask the first few one at a time, for timing; the others concurrently."""
    replies = []
    with progress(label, total=len(prompts)) as bar, ThreadPoolExecutor(served.concurrency) as pool:
        for batch, map_prompts in (
            (prompts[:_SEQUENTIAL_PROMPTS], map),
            (prompts[_SEQUENTIAL_PROMPTS:], pool.map),
        ):
            for reply in map_prompts(served.ask, batch):
                replies.append(reply)
                bar.advance()
    return replies


def _compare_prompts(
    served: ServedModel, questions: GateQuestions, trained: TrainedAnswers, against: list[str]
) -> dict[str, Any]:
    """Compare the artifact's tokens with those of training, for questions and for answers."""
    trained_prompts = [
        encode_prompt(trained.tokenizer, p.messages, p.tools) for p in questions.prompts
    ]
    exported_prompts = [served.prompt_tokens(prompt) for prompt in questions.prompts]
    texts = sorted({row.answer for row in questions.rows})
    different_answers = sum(
        encode_text(trained.tokenizer, t) != served.text_tokens(t) for t in texts
    )
    pairs = enumerate(zip(trained_prompts, exported_prompts, strict=True))
    different = [
        index for index, (trained_ids, exported_ids) in pairs if trained_ids != exported_ids
    ]
    facts: dict[str, Any] = {
        "trained_sha256": hash_json(trained_prompts),
        "exported_sha256": hash_json(exported_prompts),
        "different": len(different),
        "answers_different": different_answers,
    }
    if different:
        first = different[0]
        facts["first"] = {
            "row": questions.rows[first].id,
            "trained": trained.tokenizer.convert_ids_to_tokens(trained_prompts[first])[:200],
            "exported": trained.tokenizer.convert_ids_to_tokens(exported_prompts[first])[:200],
        }
        against.append(
            f"{len(different)} of {len(trained_prompts)} prompts have different tokens than in "
            f"training (first: {questions.rows[first].id})."
        )
    if different_answers:
        against.append(
            f"{different_answers} of {len(texts)} expected answers have different tokens."
        )
    return facts


def _summarize_speed(replies: Sequence[ServedAnswer], served: ServedModel) -> dict[str, float]:
    """Summarize the answers that were asked one at a time; the first is a warm-up."""
    alone = replies[1:_SEQUENTIAL_PROMPTS]
    seconds = [reply.seconds for reply in alone]
    return {
        "p50_s": quantile(seconds, 0.5),
        "p95_s": quantile(seconds, 0.95),
        "tokens_per_s": sum(r.tokens_out for r in alone) / sum(seconds),
        "memory_bytes": served.process.memory_bytes(),
    }
