"""The teacher as a ceiling: how far one could come, and how much of the way each route goes.

A teacher is no rival: it is too large, too dear or not yours to keep, so the verdict leaves it out.
"""

from collections.abc import Callable, Mapping, Sequence

from burnish.core.errors import BadRecipe, TeacherStopped
from burnish.core.records import Answer, Interval, Message, Prompt, Row, Scores
from burnish.core.stats import paired_test, ratio_of_means
from burnish.engines.answerers.protocol import Answerer, AnswererReply

#: The route's name.
CEILING = "teacher"


class TeacherEngine:
    """A teacher elsewhere as an engine."""

    #: Nobody tells; a question that is too long comes back as an error.
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
        """One answer a prompt; how many at once is the recipe's `distill.teacher.concurrency`.

        Raises TeacherStopped if one stays without an answer: a gap would lower the ceiling.
        """
        replies: dict[int, AnswererReply] = {}
        for place, reply in self.teacher.ask(prompts, lambda under_way: True):
            replies[place] = reply
            if advance:
                advance(1)
        lost = [reply.error for reply in replies.values() if reply.error]
        if lost:
            raise TeacherStopped(
                f"{len(lost)} of {len(prompts)} questions have no answer of {self.name}: {lost[0]}",
                "Repeat the command (what is finished isn't asked again), or leave `teacher` out "
                "of compare.routes.",
            )
        return [_answer_from_reply(prompt, replies[place]) for place, prompt in enumerate(prompts)]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question, roughly."""
        return self.teacher.count_tokens(messages)

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Raises BadRecipe: an endpoint answers and tells no more."""
        raise BadRecipe(f"{self.name} can't be asked how likely an answer is.", "Use a local one.")


def _answer_from_reply(prompt: Prompt, reply: AnswererReply) -> Answer:
    """The reply; where it must be one of some choices, the only one that it names."""
    text = reply.text
    named = [choice for choice in prompt.choices if choice.casefold() in text.casefold()]
    # `card lost` names `card` too: what stands in a longer one that is named doesn't count.
    longest = [one for one in named if not any(one != other and one in other for other in named)]
    if len(longest) == 1:
        text = longest[0]
    cut = reply.finish_reason == "length"
    return Answer(
        text, reply.tokens_in, reply.tokens_out, reply.seconds, "length" if cut else "stop"
    )


def ceiling_coverage(
    routes: Mapping[str, Scores], base: str, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """For each route the share of the distance from `base` to the teacher that it covers.

    1 is as good as the teacher, 0 no better than the base; the interval is the paired bootstrap's.
    Empty if either is missing, or if the teacher isn't surely better than the base: a share of a
    distance that may be none says nothing.
    """
    if CEILING not in routes or base not in routes:
        return {}
    if paired_test(*routes[CEILING].paired_with(routes[base]), confidence).gain.low <= 0:
        return {}
    shares = {}
    for name, scores in routes.items():
        if name not in (base, CEILING):
            asked = min((routes[base], scores), key=lambda one: len(one.predictions))
            (least, _, clusters), (most, _, _), (own, _, _) = (
                one.paired_with(asked) for one in (routes[base], routes[CEILING], scores)
            )
            gained = [high - low for high, low in zip(own, least, strict=True)]
            whole = [high - low for high, low in zip(most, least, strict=True)]
            shares[name] = ratio_of_means(gained, whole, clusters, confidence, seed)
    return shares
