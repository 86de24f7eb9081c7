"""The cost of the teacher's answers, and whether one more question may be asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from burnish.core.errors import TeacherStopped
from burnish.core.recipe.distill import TeacherEndpoint as Settings
from burnish.core.stats import wilson_interval
from burnish.engines.answerers.protocol import AnswererReply
from burnish.engines.answerers.registry import compute_price

#: Number of questions before the success ratio may end a run early; at the end it is checked in any
#: case.
_MIN_QUESTIONS = 20
#: An early end needs this certainty that the true ratio is too low (two-sided Wilson interval).
_CONFIDENCE = 0.98


@dataclass(frozen=True, slots=True)
class ExpectedUsage:
    """Expected usage of unanswered questions: tokens, and money in the currency of the recipe.
    `max_tokens_out` counts every answer at its maximum length."""

    questions: int
    tokens_in: int
    tokens_out: int
    max_tokens_out: int

    def money(self, settings: Settings) -> float:
        """Return the expected price."""
        return compute_price(settings, self.tokens_in, self.tokens_out)


@dataclass(slots=True)
class Budget:
    """The accounts of one session with a teacher, including answers `known` from earlier ones.

    Of `asked` questions `answered` were answered and `failed` after all retries; `requests` counts
    every try, `first_try` the questions answered at the first one. The budget covers all answers in
    use, whenever they were paid: `paid` are the tokens (in, out) of the known ones.
    `planned_tokens` and `planned_money` sum the forecasts of each part of the work.
    """

    settings: Settings
    expected: ExpectedUsage
    known: int = 0
    paid: tuple[int, int] = (0, 0)
    asked: int = 0
    answered: int = 0
    first_try: int = 0
    failed: int = 0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    planned_tokens: int = 0
    planned_money: float = 0.0
    last_error: str = ""
    stopped: str = field(default="", init=False)

    @property
    def money(self) -> float:
        """The money spent."""
        return compute_price(self.settings, self.tokens_in, self.tokens_out)

    @property
    def success_ratio(self) -> float:
        """Share of the questions that were answered at the first try, or were known before."""
        questions = self.known + self.asked
        return (self.known + self.first_try) / questions if questions else 1.0

    def plan(self, expected: ExpectedUsage) -> None:
        """Add the expected usage of the next questions."""
        self.expected = expected
        self.planned_tokens += expected.tokens_in + expected.tokens_out
        self.planned_money += expected.money(self.settings)

    def recall(self, replies: Sequence[AnswererReply]) -> None:
        """Count answers that were known before."""
        self.known += len(replies)
        self.paid = (
            self.paid[0] + sum(reply.tokens_in for reply in replies),
            self.paid[1] + sum(reply.tokens_out for reply in replies),
        )

    def add(self, reply: AnswererReply) -> None:
        """Count one reply."""
        self.asked += 1
        self.requests += reply.tries
        if reply.error:
            self.failed += 1
            self.last_error = reply.error
            return
        self.answered += 1
        self.first_try += reply.tries <= 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out

    def may_ask(self, in_flight: int) -> bool:
        """Return whether one more request may start, making `under_way` in flight."""
        if self._fails_too_often():
            self.stopped = "ratio"
        elif self._exceeds_budget(in_flight):
            self.stopped = "budget"
        return not self.stopped

    def close(self) -> None:
        """Raise TeacherStopped if the ratio is too low or the budget ended the work."""
        kept = f"All {self.answered + self.known} answers are kept."
        if self.stopped == "ratio" or self.success_ratio < self.settings.success_ratio:
            raise TeacherStopped(
                f"Only {self.known + self.first_try} of {self.known + self.asked} questions were "
                f"answered at the first try "
                f"({self.success_ratio:.0%}; distill.teacher.success_ratio requires "
                f"{self.settings.success_ratio:.0%}). {kept} The last error: {self.last_error}",
                "Check the endpoint, then repeat the command: it asks only unanswered questions.",
            )
        if self.stopped == "budget":
            raise TeacherStopped(
                f"The budget is spent: {sum(self.paid) + self.tokens_in + self.tokens_out:,} "
                f"tokens, {compute_price(self.settings, *self.paid) + self.money:.2f} in money. "
                f"{kept}",
                "Raise distill.teacher.budget_tokens or .budget_money and repeat the command, or "
                "set data.max_rows.",
            )

    def refuse_beyond_budget(self, paid: tuple[int, int]) -> None:
        """Raise TeacherStopped before the first question if the forecast, with the tokens `paid`
        for known answers, exceeds the budget."""
        tokens = self.expected.tokens_in + self.expected.tokens_out
        money = self.expected.money(self.settings)
        spent = sum(paid) + self.tokens_in + self.tokens_out
        spent_money = compute_price(self.settings, *paid) + self.money
        max_tokens, max_money = self.settings.budget_tokens, self.settings.budget_money
        if (max_tokens and spent + tokens > max_tokens) or (
            max_money and spent_money + money > max_money
        ):
            raise TeacherStopped(
                f"The {self.expected.questions} questions would take about {tokens:,} tokens and "
                f"{money:.2f} in money, after {spent:,} and {spent_money:.2f}; the budget is "
                f"{f'{max_tokens:,} tokens' if max_tokens else f'{max_money:.2f}'}. No further "
                "question was asked.",
                "Raise distill.teacher.budget_tokens or .budget_money, or set data.max_rows.",
            )

    def as_dict(self) -> dict[str, float]:
        """Return the accounts for the report."""
        return {
            "known_before": self.known,
            "asked": self.asked,
            "answered": self.answered,
            "answered_at_first_try": self.first_try,
            "failed": self.failed,
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "money": self.money,
            "expected_tokens": self.planned_tokens,
            "expected_money": self.planned_money,
        }

    def _fails_too_often(self) -> bool:
        if self.asked < _MIN_QUESTIONS or self.success_ratio >= self.settings.success_ratio:
            return False
        missed = self.asked - self.first_try
        successes = [1.0] * (self.known + self.first_try) + [0.0] * missed
        return wilson_interval(successes, _CONFIDENCE).high < self.settings.success_ratio

    def _exceeds_budget(self, in_flight: int) -> bool:
        """Return whether the answers in flight, of average length, might exceed the budget."""
        if self.answered:
            tokens_in, tokens_out = self.tokens_in / self.answered, self.tokens_out / self.answered
        else:
            questions = max(self.expected.questions, 1)
            tokens_in = self.expected.tokens_in / questions
            tokens_out = self.expected.tokens_out / questions
        expected_in = self.paid[0] + self.tokens_in + in_flight * tokens_in
        expected_out = self.paid[1] + self.tokens_out + in_flight * tokens_out
        max_tokens, max_money = self.settings.budget_tokens, self.settings.budget_money
        if max_tokens and expected_in + expected_out > max_tokens:
            return True
        return bool(
            max_money and compute_price(self.settings, expected_in, expected_out) > max_money
        )
