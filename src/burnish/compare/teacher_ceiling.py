"""The teacher as a ceiling: the best reachable score, and how much of the distance each route
covers.

A teacher isn't a candidate: it is too large, too expensive or not yours to keep, so the verdict
leaves it out.
"""

from collections.abc import Callable, Mapping, Sequence

from burnish.core.errors import BadRecipe, TeacherStopped
from burnish.core.records import Answer, Interval, Message, Prompt, Row, Scores
from burnish.core.stats import paired_test, ratio_of_means
from burnish.engines.answerers.protocol import Answerer, AnswererReply

#: The name of the route.
CEILING = "teacher"


class TeacherEngine:
    """A remote teacher as an engine."""

    #: Unknown; a question that is too long returns an error.
    context_length = 1_000_000
    memory_bytes = 0

    def __init__(self, teacher: Answerer) -> None:
        self.teacher, self.name = teacher, teacher.name

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Return one answer per prompt; the concurrency is the recipe's
        `distill.teacher.concurrency`.

        Raises TeacherStopped if one stays unanswered: a gap would lower the ceiling.
        """
        replies: dict[int, AnswererReply] = {}
        for index, reply in self.teacher.ask(prompts, lambda under_way: True):
            replies[index] = reply
            if advance:
                advance(1)
        errors = [reply.error for reply in replies.values() if reply.error]
        if errors:
            raise TeacherStopped(
                f"{len(errors)} of {len(prompts)} questions have no answer from {self.name}: "
                f"{errors[0]}",
                "Repeat the command (it asks only unanswered questions), or leave `teacher` out "
                "of compare.routes.",
            )
        return [_answer_from_reply(prompt, replies[index]) for index, prompt in enumerate(prompts)]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Estimate the number of tokens of a question."""
        return self.teacher.count_tokens(messages)

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Raise BadRecipe: an endpoint returns text only."""
        raise BadRecipe(
            f"{self.name} can't compute the likelihood of an answer.", "Use a local one."
        )


def _answer_from_reply(prompt: Prompt, reply: AnswererReply) -> Answer:
    """Return the reply; with choices, the only one that it names."""
    text = reply.text
    named = [choice for choice in prompt.choices if choice.casefold() in text.casefold()]
    # `card lost` names `card` too: a choice inside a longer named choice doesn't count.
    longest = [
        choice
        for choice in named
        if not any(choice != longer and choice in longer for longer in named)
    ]
    if len(longest) == 1:
        text = longest[0]
    is_truncated = reply.finish_reason == "length"
    return Answer(
        text, reply.tokens_in, reply.tokens_out, reply.seconds, "length" if is_truncated else "stop"
    )


def ceiling_coverage(
    routes: Mapping[str, Scores], base: str, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Return for each route the share of the distance from `base` to the teacher that it covers.

    1 is as good as the teacher, 0 no better than the base; the interval is the paired bootstrap's.
    Empty if either is missing, or if the teacher isn't surely better than the base: a share of a
    distance that may be zero is meaningless.
    """
    if CEILING not in routes or base not in routes:
        return {}
    if paired_test(*routes[CEILING].paired_with(routes[base]), confidence).gain.low <= 0:
        return {}
    shares = {}
    for name, scores in routes.items():
        if name not in (base, CEILING):
            fewest = min((routes[base], scores), key=lambda scores_: len(scores_.predictions))
            (base_values, _, clusters), (teacher_values, _, _), (values, _, _) = (
                scores_.paired_with(fewest) for scores_ in (routes[base], routes[CEILING], scores)
            )
            gains = [high - low for high, low in zip(values, base_values, strict=True)]
            distances = [high - low for high, low in zip(teacher_values, base_values, strict=True)]
            shares[name] = ratio_of_means(gains, distances, clusters, confidence, seed)
    return shares
