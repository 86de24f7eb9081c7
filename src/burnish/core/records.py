"""The records that rooms exchange: rows, findings, prompts, answers, predictions.

A `Row` is one example in one shape for all tasks: a conversation whose last assistant turn is the
answer. Classification adds a `label`; plain text has `text` and no messages. A preference row has a
`rejected` answer, or says whether its own is `desirable`. `spans` are the labelled spans of the
user's text. `item` has the remaining keys of a conversation or question, for graders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from burnish.core.images import Image
from burnish.core.reasoning import join_reasoning
from burnish.core.spans import Span, format_located_spans

Role = Literal["system", "user", "assistant", "tool"]
Severity = Literal["error", "warning", "note"]
#: Fields that aren't part of a question: reasoning, and images (their placeholders are).
_UNASKED = ("images", "reasoning")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    `weight` 0 keeps an assistant turn as context without training on it. `content` has a
    placeholder for each of the `images`. An answer's `reasoning` precedes it and is trained with
    it, but is neither scored nor shown to later turns.
    """

    role: Role
    content: str
    weight: float = 1.0
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()
    reasoning: str = ""

    @property
    def text_with_reasoning(self) -> str:
        """The text that a model writes at this turn: reasoning, if any, and content."""
        return join_reasoning(self.reasoning, self.content)

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """Text and images in order."""
        parts: list[str | Image] = []
        rest = self.text_with_reasoning
        for image in self.images:
            before, _, rest = rest.partition(image.mark)
            parts += [before, image]
        return tuple(part for part in (*parts, rest) if part)

    def as_template(self) -> dict[str, Any]:
        """Return the mapping that a chat template renders; absent fields are left out."""
        turn: dict[str, Any] = {"role": self.role, "content": self.text_with_reasoning}
        if self.name:
            turn["name"] = self.name
        if self.tool_calls:
            turn["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id:
            turn["tool_call_id"] = self.tool_call_id
        return turn

    def as_wire(self) -> dict[str, Any]:
        """Return the mapping of the OpenAI API, in which rows are written too: with the images
        themselves, and reasoning as `reasoning_content`."""
        if self.reasoning:
            answer = replace(self, reasoning="").as_wire()
            return {**answer, "reasoning_content": self.reasoning}
        if not self.images:
            return self.as_template()
        parts = [
            {"type": "image_url", "image_url": {"url": part.url}}
            if isinstance(part, Image)
            else {"type": "text", "text": part}
            for part in self.parts
        ]
        return {**self.as_template(), "content": parts}


def images_of(messages: Sequence[Message]) -> tuple[Image, ...]:
    """Return the images of a conversation, in order."""
    return tuple(image for message in messages for image in message.images)


@dataclass(frozen=True, slots=True)
class Row:
    """One example. `file` and `line` (1-based; for tables, the data row) say where it came from. A
    `text` with `ends` False continues in another row (models.text_windows)."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    label: str | None = None
    rejected: Message | None = None
    desirable: bool | None = None
    group: str | None = None
    type: str | None = None
    spans: tuple[Span, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    item: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: str = ""
    line: int = 0
    ends: bool = True

    @property
    def id(self) -> str:
        """`file:line`; stable as long as the file is."""
        return f"{self.file}:{self.line}"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last assistant turn: the input of a route."""
        return self.messages[: self._last_answer()]

    @property
    def answer(self) -> str:
        """The last assistant turn: the target of a route. Empty for plain text and for an
        undesirable answer."""
        if self.desirable is False:
            return ""
        last = self._last_answer()
        return self.messages[last].content if last < len(self.messages) else ""

    @property
    def expected(self) -> str:
        """The reference that an answer is scored against: the answer, or the spans with their
        positions."""
        return (
            self.answer
            if self.spans is None
            else format_located_spans(self.prompt[-1].content, self.spans)
        )

    @property
    def question(self) -> tuple[Message, ...]:
        """All turns before a final assistant turn, or all turns if the last one isn't the
        assistant's."""
        ends = bool(self.messages) and self.messages[-1].role == "assistant"
        return self.messages[:-1] if ends else self.messages

    @property
    def trained_turns(self) -> tuple[int, ...]:
        """The positions of the answers that are trained."""
        turns = enumerate(self.messages)
        return tuple(n for n, message in turns if message.role == "assistant" and message.weight)

    def until(self, position: int) -> "Row":
        """Return the conversation up to the answer at `position`, the only one that is trained."""
        turns = [
            replace(turn, weight=0.0) if n < position and turn.role == "assistant" else turn
            for n, turn in enumerate(self.messages[: position + 1])
        ]
        return replace(self, messages=tuple(turns))

    @property
    def is_preference(self) -> bool:
        """True if the row judges answers: one against another, or one by itself."""
        return self.rejected is not None or self.desirable is not None

    @property
    def sides(self) -> tuple["Row", ...]:
        """The conversations of the row: its own, and the one with the rejected answer."""
        if self.rejected is None:
            return (self,)
        other = replace(self, messages=(*self.prompt, self.rejected), rejected=None)
        return replace(self, rejected=None), other

    def _last_answer(self) -> int:
        for position in range(len(self.messages) - 1, -1, -1):
            if self.messages[position].role == "assistant":
                return position
        return len(self.messages)


def have_reasoning(rows: Sequence[Row]) -> bool:
    """Return whether any message of the rows has reasoning."""
    return any(message.reasoning for row in rows for message in row.messages)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a check: the rows it is about, and what to do."""

    code: str
    severity: Severity
    file: str
    rows: tuple[int, ...]
    message: str
    fix: str

    @property
    def summary(self) -> str:
        """Location and message."""
        return f"{describe_rows(self.file, self.rows)}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that `burnish check --json` prints."""
        return {**asdict(self), "rows": list(self.rows)}


def abbreviate(values: Sequence[object], most: int = 5) -> str:
    """List the first few of many values: `3, 7, 9 and 12 more`."""
    shown = ", ".join(map(str, values[:most]))
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def describe_rows(file: str, rows: Sequence[int]) -> str:
    """Name a file and its row numbers; the file alone if there are no rows."""
    return f"{file}, row{'s' * (len(rows) != 1)} {abbreviate(rows)}" if rows else file


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by use. `test` is frozen: `test_hash` is the SHA-256 of its content, in order."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    test_hash: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to an engine.

    `choices` constrains the answer to exactly one of these texts, `grammar` to a language
    (engines/local/grammar.py).
    """

    messages: tuple[Message, ...]
    max_new_tokens: int = 256
    choices: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    grammar: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything that an answer depends on, for JSON. An image is in it by its
        placeholder."""
        turns = [
            {name: value for name, value in asdict(message).items() if name not in _UNASKED}
            for message in self.messages
        ]
        return {**asdict(replace(self, messages=())), "messages": turns}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural log-probability of one generated token, and of the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's output and its cost.

    `seconds` is this prompt's share of its batch; `tokens_cached` of `tokens_in` came from the
    prefix cache.
    """

    text: str
    tokens_in: int
    tokens_out: int
    seconds: float
    finish_reason: Literal["stop", "length"] = "stop"
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens_cached: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """One test row as one route answered it; `score` is in [0, 1], higher is better. Rows of one
    `group` are not independent."""

    row: str
    prompt: str
    expected: str
    answer: str
    score: float
    tokens_in: int
    tokens_out: int
    seconds: float
    thought: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval. `n` is the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The per-example scores of one route, so that statistics can pair them."""

    metric: str
    predictions: Sequence[Prediction]
    interval: Interval
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """One score per test row, in the order of the test split."""
        return [prediction.score for prediction in self.predictions]

    @property
    def clusters(self) -> list[int]:
        """The cluster number of each question."""
        return clusters_of(self.predictions)

    def paired_with(self, other: "Scores") -> tuple[list[float], list[float], list[int]]:
        """Return (own scores, other's scores, clusters) of the questions that both answered, in
        order."""
        if len(self.predictions) == len(other.predictions):
            return self.values, other.values, self.clusters
        other_scores = {prediction.row: prediction.score for prediction in other.predictions}
        shared = [p for p in self.predictions if p.row in other_scores]
        scores = [p.score for p in shared]
        return scores, [other_scores[p.row] for p in shared], clusters_of(shared)


def clusters_of(items: Sequence["Prediction | Row"]) -> list[int]:
    """Return a cluster number per prediction or row; those of one group share it."""
    first: dict[str, int] = {}
    return [
        first.setdefault(item.group, index) if item.group else index
        for index, item in enumerate(items)
    ]
