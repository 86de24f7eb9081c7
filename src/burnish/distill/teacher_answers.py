"""A teacher's answers to the rows' questions, each on disk before it is used.

`requests.jsonl` of the run has a line for every question, answered or failed, under a hash of
teacher, question and sampling. A question that was answered in this run, or in an earlier run of
this workspace, isn't asked again; a failed one is. In a conversation every assistant turn is
answered anew, after the teacher's own earlier answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from burnish.core.atomic import hash_json
from burnish.core.errors import BadData
from burnish.core.journal import Journal, read_journal
from burnish.core.progress import progress, say
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run, runs_folder
from burnish.distill.budget import Budget, ExpectedUsage
from burnish.engines.answerers.protocol import Answerer, AnswererReply
from burnish.evaluate.tasks import with_instruction

REQUESTS = "requests.jsonl"
#: Expected length of an answer, as a share of its limit.
_USUAL_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class QuestionFormat:
    """How every question is asked: the added instruction, the answer's token limit and choices, and
    whether the answer's reasoning is trained too."""

    instruction: str
    max_new_tokens: int
    choices: tuple[str, ...] = ()
    keeps_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A further teacher's answers to the questions of a row."""

    teacher: str
    keys: tuple[str, ...]
    replies: tuple[AnswererReply, ...]


@dataclass(frozen=True, slots=True)
class TeacherExample:
    """A row with the teacher's answers in place of its own.

    `keys` are the hashes of the questions and `replies` the replies, one per assistant turn;
    `dropped` is the reason not to train on the row, or empty; `source` names the passage of a
    question written from documents. `opinions` are those of further teachers. If a person may
    overrule the reason, the row is `disputed`; `review` is that person's decision.
    """

    row: Row
    original: Row
    keys: tuple[str, ...] = ()
    replies: tuple[AnswererReply, ...] = ()
    dropped: str = ""
    source: str = ""
    opinions: tuple[SecondOpinion, ...] = ()
    disputed: bool = False
    review: Mapping[str, Any] | None = None

    @property
    def reasoning(self) -> str:
        """The reasoning before the last trained answer."""
        return self.row.messages[self.row.trained_turns[-1]].reasoning

    def with_answer(self, text: str, reasoning: str = "") -> "TeacherExample":
        """Return the example with `text` as the last trained answer, whatever the teacher
        answered."""
        turns, position = list(self.row.messages), self.row.trained_turns[-1]
        turns[position] = replace(turns[position], content=text, reasoning=reasoning)
        label = None if self.row.label is None else text
        return replace(self, row=replace(self.row, messages=tuple(turns), label=label))


class AnswerCollector:
    """Asks one teacher for one run."""

    def __init__(self, teacher: Answerer, run: Run, recipe: Recipe) -> None:
        self.teacher, self.run, self.recipe = teacher, run, recipe
        self.known = _load_replies(run)
        self.budget = Budget(recipe.distill.teacher, ExpectedUsage(0, 0, 0, 0))

    def collect(self, rows: Sequence[Row], question_format: QuestionFormat) -> list[TeacherExample]:
        """Return the rows with the teacher's answers. Raises TeacherStopped as the budget does."""
        _refuse_unaskable(rows)
        open_turns = [_turns(row) for row in rows]
        examples = [TeacherExample(replace(row, messages=()), row) for row in rows]
        self._forecast(
            [prompt for row in rows for prompt in self._first_prompts(row, question_format)]
        )
        for turn in range(max((len(turns) for turns in open_turns), default=0)):
            indices = [
                index
                for index, turns in enumerate(open_turns)
                if turn < len(turns) and not examples[index].dropped
            ]
            prompts = [
                self._turn_prompt(examples[index], turn, question_format) for index in indices
            ]
            for index, prompt, reply in zip(indices, prompts, self._ask_once(prompts), strict=True):
                example = replace(
                    examples[index],
                    keys=(*examples[index].keys, self.request_key(prompt)),
                    replies=(*examples[index].replies, reply),
                )
                examples[index] = _with_reply(example, turn, question_format.keeps_reasoning)
        self.budget.close()
        return examples

    def ask(self, prompts: Sequence[Prompt]) -> list[tuple[str, AnswererReply]]:
        """Return key and reply of single questions. Raises TeacherStopped as the budget does."""
        sampled = [self._with_sampling(prompt) for prompt in prompts]
        self._forecast(sampled)
        replies = self._ask_once(sampled)
        self.budget.close()
        return [
            (self.request_key(prompt), reply)
            for prompt, reply in zip(sampled, replies, strict=True)
        ]

    def request_key(self, prompt: Prompt) -> str:
        """Return the hash under which a question is recorded: teacher, question, sampling."""
        return hash_json([dict(self.teacher.identity), prompt.as_dict()])

    def _ask_once(self, prompts: Sequence[Prompt]) -> list[AnswererReply]:
        """Return one reply per question, in order; identical questions are asked once."""
        keys = [self.request_key(prompt) for prompt in prompts]
        by_key = dict(zip(keys, prompts, strict=True))
        missing = {key: prompt for key, prompt in by_key.items() if key not in self.known}
        self.budget.recall([self.known[key] for key in by_key if key in self.known])
        failed: dict[str, AnswererReply] = {}
        journal, order = Journal(self.run.path / REQUESTS), list(missing)
        with progress(f"Asking {self.teacher.name}", total=len(missing)) as bar:
            for index, reply in self.teacher.ask(list(missing.values()), self.budget.may_ask):
                journal.write(key=order[index], **asdict(reply))
                (failed if reply.error else self.known)[order[index]] = reply
                self.budget.add(reply)
                bar.advance(note=self._progress_note())
        if self.budget.stopped:
            self.budget.close()
        return [self.known.get(key) or failed[key] for key in keys]

    def _progress_note(self) -> str:
        budget = self.budget
        money = f", {budget.money:.4f} {self.recipe.compare.currency}" if budget.money else ""
        failed = f", {budget.failed} failed" if budget.failed else ""
        return f"{budget.tokens_in + budget.tokens_out:,} tokens{money}{failed}"

    def _forecast(self, prompts: Sequence[Prompt]) -> None:
        """Report the expected usage of the questions before the first one. Raises
        TeacherStopped."""
        by_key = {self.request_key(prompt): prompt for prompt in prompts}
        missing = {key: prompt for key, prompt in by_key.items() if key not in self.known}
        answered = [self.known[key] for key in by_key if key in self.known]
        max_tokens_out = sum(prompt.max_new_tokens for prompt in missing.values())
        expected = ExpectedUsage(
            questions=len(missing),
            tokens_in=sum(
                self.teacher.count_tokens(prompt.messages) for prompt in missing.values()
            ),
            tokens_out=round(_USUAL_SHARE * max_tokens_out),
            max_tokens_out=max_tokens_out,
        )
        self.budget.plan(expected)
        self.budget.refuse_beyond_budget(
            (
                self.budget.paid[0] + sum(reply.tokens_in for reply in answered),
                self.budget.paid[1] + sum(reply.tokens_out for reply in answered),
            )
        )
        if expected.questions:
            money = expected.money(self.recipe.distill.teacher)
            price = f", about {money:.2f} {self.recipe.compare.currency}" if money else ""
            say(
                f"{self.teacher.name}: {expected.questions} questions of about "
                f"{expected.tokens_in:,} tokens, answers of about {expected.tokens_out:,} (at most "
                f"{expected.max_tokens_out:,}){price}; {len(answered)} more are already answered."
            )

    def _first_prompts(self, row: Row, question_format: QuestionFormat) -> Iterator[Prompt]:
        """Yield the questions of a row as far as they are known before the first answer."""
        for end in _turns(row):
            yield self._make_prompt(row.messages[:end], row, question_format)

    def _turn_prompt(
        self, example: TeacherExample, turn: int, question_format: QuestionFormat
    ) -> Prompt:
        """Return the question of a turn: the row up to it, with the teacher's answers so far."""
        return self._make_prompt(
            _history(example, _turns(example.original)[turn]), example.original, question_format
        )

    def _make_prompt(
        self, messages: Sequence[Message], row: Row, question_format: QuestionFormat
    ) -> Prompt:
        plain = tuple(Message(m.role, m.content, images=m.images) for m in messages)
        prompt = Prompt(
            plain, max_new_tokens=question_format.max_new_tokens, choices=question_format.choices
        )
        return self._with_sampling(with_instruction(prompt, question_format.instruction))

    def _with_sampling(self, prompt: Prompt) -> Prompt:
        settings = self.recipe.distill.teacher
        return replace(
            prompt,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self.recipe.data.seed if settings.temperature else None,
        )


def _turns(row: Row) -> list[int]:
    """Return the positions of the teacher's answers: each trained assistant turn, and the end of a
    row whose last turn is a question."""
    turns = list(row.trained_turns)
    if row.messages and row.messages[-1].role != "assistant":
        turns.append(len(row.messages))
    return turns


def _history(
    example: TeacherExample, end: int, keeps_reasoning: bool = False
) -> tuple[Message, ...]:
    """Return the row's turns before `end`, with the replies in place of its own answers and
    reasoning."""
    replies = dict(zip(_turns(example.original), example.replies, strict=False))
    turns = (*example.original.messages, Message("assistant", ""))[:end]
    return tuple(
        _reply_message(message, replies[position], keeps_reasoning)
        if position in replies
        else message
        for position, message in enumerate(turns)
    )


def _reply_message(message: Message, reply: AnswererReply, keeps_reasoning: bool) -> Message:
    reasoning = reply.thought if keeps_reasoning else ""
    return replace(message, content=reply.text, reasoning=reasoning)


def _with_reply(example: TeacherExample, turn: int, keeps_reasoning: bool) -> TeacherExample:
    """Return the example with its newest reply; its row is complete after the last turn."""
    reply, turns = example.replies[-1], _turns(example.original)
    if reply.error:
        return replace(example, dropped=f"the teacher failed: {reply.error}")
    if keeps_reasoning and not reply.thought:
        return replace(example, dropped="the teacher answered without reasoning")
    if turn + 1 < len(turns):
        return example
    row = replace(
        example.original,
        messages=_history(
            example, max(len(example.original.messages), turns[-1] + 1), keeps_reasoning
        ),
        label=None if example.original.label is None else reply.text,
        rejected=None,
        desirable=None,
    )
    return replace(example, row=row)


def _refuse_unaskable(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.text is not None or not _turns(row):
            raise BadData(
                f"{row.id}: the row has no question that a teacher could answer.",
                "Rows to distill must be prompts, pairs, labelled texts or conversations.",
            )
        if row.tools:
            raise BadData(
                f"{row.id}: the row has tools; a teacher's tool calls can't be trained on yet.",
                "Leave these rows out.",
            )


def _load_replies(run: Run) -> dict[str, AnswererReply]:
    """Return all answers of this run and of earlier ones in this workspace, by key."""
    files = [*sorted(runs_folder().glob(f"*/{REQUESTS}")), run.path / REQUESTS]
    lines: list[dict[str, Any]] = [line for file in files for line in read_journal(file)]
    return {
        line["key"]: AnswererReply(**{k: v for k, v in line.items() if k not in ("key", "at")})
        for line in lines
        if not line["error"]
    }
