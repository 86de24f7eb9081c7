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
from burnish.engines.local.decoding import GenerationRequest
from burnish.evaluate.rewards import RewardFn, reward_function
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example, RolloutGroup
from burnish.train.batching.packed import pack
from burnish.train.batching.sampler import count_updates
from burnish.train.forward.path import batches_of
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.losses.policy_gradient import group_advantages
from burnish.train.objectives.registry import logprobs_at_temperature
from burnish.train.rlhf.generation import PolicyEngine, answer_seed


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer: its tokens with the one that ended it, its text, its reward."""

    ids: tuple[int, ...]
    text: str
    reward: float
    finished: bool


class RolloutSampler:
    """Draws answers for a plan, and values them. `begun` are the weights before training."""

    def __init__(
        self,
        plan: LanguageModelModule,
        settings: Grpo,
        tokenizer: PreTrainedTokenizerBase,
        worth: RewardFn,
        run: Run,
    ) -> None:
        self.plan, self.settings, self.reward_fn = plan, settings, worth
        self.engine = PolicyEngine(plan, tokenizer, run.id)
        self.path = run.path / "answers.jsonl"
        weights = plan.optimizer.weights
        self.initial_weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self.latest: tuple[int, list[RolloutGroup], dict[str, float]] | None = None
        self._check_prompt_lengths()

    def roll_back(self, step: int) -> None:
        """Forget what was drawn for steps that will be done again."""
        updates = count_updates(self.plan.settings)
        entries = read_journal(self.path)
        rewrite_journal(self.path, [e for e in entries if e["drawing"] * updates < step])

    def examples_for_step(
        self, rows: Sequence[Example], step: int
    ) -> tuple[list[Example], dict[str, float]]:
        """The groups that step `step` (from 0) learns from, and what was measured of all.

        Groups whose answers are all worth the same teach nothing and are left out.
        """
        number = step // count_updates(self.plan.settings)
        if self.latest is None or self.latest[0] != number:
            groups = [row for row in rows if isinstance(row, RolloutGroup)]
            drawn, learnt = self._load_saved(number, groups) or self._sample_groups(number, groups)
            self.latest = (number, learnt, _rollout_metrics(drawn, len(learnt)))
        return list(self.latest[1]), self.latest[2]

    def _sample_groups(
        self, number: int, groups: Sequence[RolloutGroup]
    ) -> tuple[list[list[Rollout]], list[RolloutGroup]]:
        drawn = self.sample(groups, number)
        learnt = self._with_advantages(groups, drawn)
        if self.settings.updates > 1:
            learnt = self._with_logprobs(learnt, "old")
        self._save(number, groups, drawn, learnt)
        return drawn, self._with_reference(learnt)

    def dry_run(self, rows: Sequence[Example]) -> None:
        """All that `learn` computes, without a trace."""
        groups = [row for row in rows if isinstance(row, RolloutGroup)]
        learnt = self._with_advantages(groups, self.sample(groups, 0))
        if self.settings.updates > 1:
            learnt = self._with_logprobs(learnt, "old")
        self._with_reference(learnt)

    def validate(self, rows: Sequence[Example]) -> dict[str, float]:
        """The mean reward of the likeliest answers (of several, where the recipe says so), and its
        negative as the `loss`."""
        groups = [row for row in rows if isinstance(row, RolloutGroup)]
        count = self.settings.validation_answers
        heat = self.settings.temperature if count > 1 else 0.0
        drawn = [one for group in self._sample(groups, 0, count, heat) for one in group]
        reward = statistics.fmean(one.reward for one in drawn)
        return {"loss": -reward, "reward": reward, **_length_metrics(drawn)}

    def sample(self, groups: Sequence[RolloutGroup], number: int) -> list[list[Rollout]]:
        """The answers to each question, as drawing `number` gives them with these weights."""
        return self._sample(groups, number, self.settings.answers, self.settings.temperature)

    def _sample(
        self, groups: Sequence[RolloutGroup], number: int, answers: int, temperature: float
    ) -> list[list[Rollout]]:
        requests = []
        for place, group in enumerate(groups):
            for turn in range(answers):
                seed = answer_seed(self.plan.settings.seed, number, place, turn)
                prompt = Prompt((), group.max_new_tokens, temperature=temperature, seed=seed)
                requests.append(self.engine.request(prompt, group.prompt))
        self.engine.generate(requests)
        drawn = [self._scored(groups[n // answers], one) for n, one in enumerate(requests)]
        return [drawn[begin : begin + answers] for begin in range(0, len(drawn), answers)]

    def _scored(self, group: RolloutGroup, request: GenerationRequest) -> Rollout:
        end = () if request.end_id is None else (request.end_id,)
        reward = self.reward_fn(group.row, request.text)
        return Rollout((*request.token_ids, *end), request.text, reward, bool(end))

    def _with_advantages(
        self, groups: Sequence[RolloutGroup], drawn: Sequence[Sequence[Rollout]]
    ) -> list[RolloutGroup]:
        """Groups that teach something, with their advantages."""
        rewards = torch.tensor([[one.reward for one in each] for each in drawn])
        gains = group_advantages(rewards, self.settings.scale_rewards)
        return [
            replace(
                group,
                answers=tuple(_tokenize_rollout(group, one) for one in each),
                advantages=tuple(gain.tolist()),
            )
            for group, each, gain in zip(groups, drawn, gains, strict=True)
            if len({one.reward for one in each}) > 1
        ]

    def _with_reference(self, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        """The groups with the log-probabilities of before training, if the loss looks at them."""
        if not self.settings.beta:
            return groups
        with self._initial_weights_loaded():
            return self._with_logprobs(groups, "reference")

    @torch.no_grad()
    def _with_logprobs(self, rows: Sequence[RolloutGroup], name: str) -> list[RolloutGroup]:
        """The rows with the log-probabilities of their tokens now, as `name`."""
        self.plan.model.eval()
        known: dict[int, tuple[float, ...]] = {}
        for some in batches_of(self.plan.language, rows, self.plan.settings.micro_batch_tokens):
            batch = pack(some, self.plan.accelerator.device)
            found = logprobs_at_temperature(self.plan.language, batch, self.settings.temperature)
            left = iter(found.tolist())
            for row in some:
                count = sum(answer.target_count for answer in row.answers)
                known[id(row)] = tuple(next(left) for _ in range(count))
        return [replace(row, **{name: known[id(row)]}) for row in rows]  # type: ignore[arg-type]

    @contextmanager
    def _initial_weights_loaded(self) -> Iterator[None]:
        """The weights from before training, for as long as it takes: no second model is held."""
        weights = self.plan.optimizer.weights
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(self.initial_weights[name])
        try:
            yield
        finally:
            self.plan.optimizer.copy_to_model()

    def _save(
        self,
        number: int,
        groups: Sequence[RolloutGroup],
        drawn: Sequence[Sequence[Rollout]],
        learnt: Sequence[RolloutGroup],
    ) -> None:
        old = {group.row.id: group.old for group in learnt}
        entries = [
            {
                "row": group.row.id,
                "answers": [[one.text, one.reward, list(one.ids), one.finished] for one in each],
                "old": old.get(group.row.id, ()),
            }
            for group, each in zip(groups, drawn, strict=True)
        ]
        Journal(self.path).write(example_source=number, groups=entries)

    def _load_saved(
        self, number: int, groups: Sequence[RolloutGroup]
    ) -> tuple[list[list[Rollout]], list[RolloutGroup]] | None:
        """What a run that was killed between two updates had drawn for them."""
        entries = read_journal(self.path) if self.latest is None else []
        found = next((entry["groups"] for entry in entries if entry["drawing"] == number), None)
        if found is None:
            return None
        drawn = [
            [
                Rollout(tuple(ids), text, reward, whole)
                for text, reward, ids, whole in one["answers"]
            ]
            for one in found
        ]
        old = {one["row"]: tuple(one["old"]) for one in found}
        learnt = [
            replace(group, old=old[group.row.id]) for group in self._with_advantages(groups, drawn)
        ]
        return drawn, self._with_reference(learnt)

    def _check_prompt_lengths(self) -> None:
        """Raises PromptTooLong before anything is trained."""
        for row in (*self.plan.rows, *self.plan.validation):
            if isinstance(row, RolloutGroup):
                try:
                    self.engine.request(Prompt((), row.max_new_tokens), row.prompt)
                except PromptTooLong as error:
                    raise PromptTooLong(
                        f"{row.row.id}: {error.what}", "Lower train.objective.max_new_tokens."
                    ) from error


def add_rollouts(
    plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase, task: Task, run: Run
) -> LanguageModelModule:
    """The plan that draws its own answers; as it is for objectives that learn from given ones.

    To be called before the weights of a checkpoint are put in: what they are now is the reference.
    """
    settings = plan.settings.objective
    if not isinstance(settings, Grpo):
        return plan
    return replace(
        plan,
        example_source=RolloutSampler(
            plan, settings, tokenizer, reward_function(settings.reward, task), run
        ),
    )


def _tokenize_rollout(group: RolloutGroup, drawn: Rollout) -> TokenizedRow:
    weights = (*[0.0] * len(group.prompt), *[1.0] * len(drawn.ids))
    return TokenizedRow((*group.prompt, *drawn.ids), weights)


def _rollout_metrics(drawn: Sequence[Sequence[Rollout]], learnt: int) -> dict[str, float]:
    everything = [one for each in drawn for one in each]
    rewards = [one.reward for one in everything]
    return {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "skipped": 1 - learnt / len(drawn),
        **_length_metrics(everything),
    }


def _length_metrics(drawn: Sequence[Rollout]) -> Mapping[str, float]:
    """Tokens of an answer in the mean, and the share of answers that were cut."""
    return {
        "answer_tokens": statistics.fmean(len(one.ids) for one in drawn),
        "cut": sum(not one.finished for one in drawn) / len(drawn),
    }
