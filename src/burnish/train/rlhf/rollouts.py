"""What the model under training says to its own questions, and what that is worth.

Answers are drawn by the engine's batched decoding from the very weights that are trained; a
question is read once for all its answers. Every answer has a random generator of its own, seeded by
run, step and place, so that a resumed run draws what the undisturbed one would have. What was drawn
is kept in `answers.jsonl` of the run, to be read by people, and by a run that was killed between
two updates on the same answers.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import PromptTooLong
from burnish.core.journal import Journal, read_journal, rewrite_journal
from burnish.core.recipe.data import Task
from burnish.core.recipe.objectives import Grpo
from burnish.core.records import Prompt
from burnish.core.runs import Run
from burnish.engines.local.decoding import Request
from burnish.evaluate.rewards import Worth, worth_of
from burnish.models.chat_template import Encoded
from burnish.train.batching.examples import Example, Group
from burnish.train.batching.micro_batches import micro_batches
from burnish.train.batching.packed import flatten
from burnish.train.batching.sampler import updates_of
from burnish.train.loop.language_model import Fit
from burnish.train.losses.policy_gradient import advantages
from burnish.train.objectives.registry import tempered_logprobs
from burnish.train.rlhf.generation import Answering, seed_of


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer: its tokens with the one that ended it, its text, its reward."""

    ids: tuple[int, ...]
    text: str
    reward: float
    whole: bool


class Drawing:
    """Draws answers for a plan, and values them. `begun` are the weights before training."""

    def __init__(
        self, plan: Fit, settings: Grpo, tokenizer: PreTrainedTokenizerBase, worth: Worth, run: Run
    ) -> None:
        self.plan, self.settings, self.worth = plan, settings, worth
        self.answering = Answering(plan, tokenizer, run.id)
        self.path = run.path / "answers.jsonl"
        weights = plan.optimizer.weights
        self.begun = {name: weight.detach().clone() for name, weight in weights.items()}
        self.latest: tuple[int, list[Group], dict[str, float]] | None = None
        self._refuse_too_long()

    def resume(self, step: int) -> None:
        """Forget what was drawn for steps that will be done again."""
        updates = updates_of(self.plan.settings)
        entries = read_journal(self.path)
        rewrite_journal(self.path, [e for e in entries if e["drawing"] * updates < step])

    def learn(self, rows: Sequence[Example], step: int) -> tuple[list[Example], dict[str, float]]:
        """The groups that step `step` (from 0) learns from, and what was measured of all.

        Groups whose answers are all worth the same teach nothing and are left out.
        """
        number = step // updates_of(self.plan.settings)
        if self.latest is None or self.latest[0] != number:
            groups = [row for row in rows if isinstance(row, Group)]
            drawn, learnt = self._kept(number, groups) or self._new(number, groups)
            self.latest = (number, learnt, _measured(drawn, len(learnt)))
        return list(self.latest[1]), self.latest[2]

    def _new(self, number: int, groups: Sequence[Group]) -> tuple[list[list[Drawn]], list[Group]]:
        drawn = self.draw(groups, number)
        learnt = self._compared(groups, drawn)
        if self.settings.updates > 1:
            learnt = self._knowing(learnt, "old")
        self._keep(number, groups, drawn, learnt)
        return drawn, self._referring(learnt)

    def rehearse(self, rows: Sequence[Example]) -> None:
        """All that `learn` computes, without a trace."""
        groups = [row for row in rows if isinstance(row, Group)]
        learnt = self._compared(groups, self.draw(groups, 0))
        if self.settings.updates > 1:
            learnt = self._knowing(learnt, "old")
        self._referring(learnt)

    def judge(self, rows: Sequence[Example]) -> dict[str, float]:
        """The mean reward of the likeliest answers (of several, where the recipe says so), and its
        negative as the `loss`."""
        groups = [row for row in rows if isinstance(row, Group)]
        count = self.settings.validation_answers
        heat = self.settings.temperature if count > 1 else 0.0
        drawn = [one for group in self._draw(groups, 0, count, heat) for one in group]
        reward = statistics.fmean(one.reward for one in drawn)
        return {"loss": -reward, "reward": reward, **_lengths(drawn)}

    def draw(self, groups: Sequence[Group], number: int) -> list[list[Drawn]]:
        """The answers to each question, as drawing `number` gives them with these weights."""
        return self._draw(groups, number, self.settings.answers, self.settings.temperature)

    def _draw(
        self, groups: Sequence[Group], number: int, answers: int, temperature: float
    ) -> list[list[Drawn]]:
        requests = []
        for place, group in enumerate(groups):
            for turn in range(answers):
                seed = seed_of(self.plan.settings.seed, number, place, turn)
                prompt = Prompt((), group.longest, temperature=temperature, seed=seed)
                requests.append(self.answering.request(prompt, group.prompt))
        self.answering.answer(requests)
        drawn = [self._valued(groups[n // answers], one) for n, one in enumerate(requests)]
        return [drawn[begin : begin + answers] for begin in range(0, len(drawn), answers)]

    def _valued(self, group: Group, request: Request) -> Drawn:
        end = () if request.end is None else (request.end,)
        reward = self.worth(group.row, request.text)
        return Drawn((*request.made, *end), request.text, reward, bool(end))

    def _compared(self, groups: Sequence[Group], drawn: Sequence[Sequence[Drawn]]) -> list[Group]:
        """Groups that teach something, with their advantages."""
        rewards = torch.tensor([[one.reward for one in each] for each in drawn])
        gains = advantages(rewards, self.settings.scale_rewards)
        return [
            replace(
                group,
                answers=tuple(_encoded(group, one) for one in each),
                advantages=tuple(gain.tolist()),
            )
            for group, each, gain in zip(groups, drawn, gains, strict=True)
            if len({one.reward for one in each}) > 1
        ]

    def _referring(self, groups: list[Group]) -> list[Group]:
        """The groups with the log-probabilities of before training, if the loss looks at them."""
        if not self.settings.beta:
            return groups
        with self._as_begun():
            return self._knowing(groups, "reference")

    @torch.no_grad()
    def _knowing(self, rows: Sequence[Group], name: str) -> list[Group]:
        """The rows with the log-probabilities of their tokens now, as `name`."""
        self.plan.model.eval()
        known: dict[int, tuple[float, ...]] = {}
        for some in micro_batches(rows, self.plan.settings.micro_batch_tokens):
            batch = flatten(some, self.plan.accelerator.device)
            found = tempered_logprobs(self.plan.language, batch, self.settings.temperature)
            left = iter(found.tolist())
            for row in some:
                count = sum(answer.trained for answer in row.answers)
                known[id(row)] = tuple(next(left) for _ in range(count))
        return [replace(row, **{name: known[id(row)]}) for row in rows]  # type: ignore[arg-type]

    @contextmanager
    def _as_begun(self) -> Iterator[None]:
        """The weights from before training, for as long as it takes: no second model is held."""
        weights = self.plan.optimizer.weights
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(self.begun[name])
        try:
            yield
        finally:
            self.plan.optimizer.publish()

    def _keep(
        self,
        number: int,
        groups: Sequence[Group],
        drawn: Sequence[Sequence[Drawn]],
        learnt: Sequence[Group],
    ) -> None:
        old = {group.row.id: group.old for group in learnt}
        entries = [
            {
                "row": group.row.id,
                "answers": [[one.text, one.reward, list(one.ids), one.whole] for one in each],
                "old": old.get(group.row.id, ()),
            }
            for group, each in zip(groups, drawn, strict=True)
        ]
        Journal(self.path).write(drawing=number, groups=entries)

    def _kept(
        self, number: int, groups: Sequence[Group]
    ) -> tuple[list[list[Drawn]], list[Group]] | None:
        """What a run that was killed between two updates had drawn for them."""
        entries = read_journal(self.path) if self.latest is None else []
        found = next((entry["groups"] for entry in entries if entry["drawing"] == number), None)
        if found is None:
            return None
        drawn = [
            [Drawn(tuple(ids), text, reward, whole) for text, reward, ids, whole in one["answers"]]
            for one in found
        ]
        old = {one["row"]: tuple(one["old"]) for one in found}
        learnt = [replace(group, old=old[group.row.id]) for group in self._compared(groups, drawn)]
        return drawn, self._referring(learnt)

    def _refuse_too_long(self) -> None:
        """Raises PromptTooLong before anything is trained."""
        for row in (*self.plan.rows, *self.plan.validation):
            if isinstance(row, Group):
                try:
                    self.answering.request(Prompt((), row.longest), row.prompt)
                except PromptTooLong as error:
                    raise PromptTooLong(
                        f"{row.row.id}: {error.what}", "Lower train.objective.max_new_tokens."
                    ) from error


def with_drawing(plan: Fit, tokenizer: PreTrainedTokenizerBase, task: Task, run: Run) -> Fit:
    """The plan that draws its own answers; as it is for objectives that learn from given ones.

    To be called before the weights of a checkpoint are put in: what they are now is the reference.
    """
    settings = plan.settings.objective
    if not isinstance(settings, Grpo):
        return plan
    return replace(
        plan, drawing=Drawing(plan, settings, tokenizer, worth_of(settings.reward, task), run)
    )


def _encoded(group: Group, drawn: Drawn) -> Encoded:
    weights = (*[0.0] * len(group.prompt), *[1.0] * len(drawn.ids))
    return Encoded((*group.prompt, *drawn.ids), weights)


def _measured(drawn: Sequence[Sequence[Drawn]], learnt: int) -> dict[str, float]:
    everything = [one for each in drawn for one in each]
    rewards = [one.reward for one in everything]
    return {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "skipped": 1 - learnt / len(drawn),
        **_lengths(everything),
    }


def _lengths(drawn: Sequence[Drawn]) -> Mapping[str, float]:
    """Tokens of an answer in the mean, and the share of answers that were cut."""
    return {
        "answer_tokens": statistics.fmean(len(one.ids) for one in drawn),
        "cut": sum(not one.whole for one in drawn) / len(drawn),
    }
