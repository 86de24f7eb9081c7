"""A teacher's answers to the rows' questions, each on disk before it is used.

`requests.jsonl` of the run has a line for every question, answered or failed, under a hash of the
teacher, the question and the sampling. A question that was answered in this run, or in an earlier
run of this workspace, isn't asked again; one that failed is. In a conversation every assistant turn
is answered anew, with the teacher's own earlier answers before it.
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
#: An answer is expected to be about this share of the longest that is allowed.
_USUAL_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class QuestionFormat:
    """How every question is put: what it is told beside the row, and how long the answer may be;
    and whether the answer's thought is learnt with it."""

    instruction: str
    max_new_tokens: int
    choices: tuple[str, ...] = ()
    keeps_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a further teacher answers to the questions of a row."""

    teacher: str
    keys: tuple[str, ...]
    replies: tuple[AnswererReply, ...]


@dataclass(frozen=True, slots=True)
class TeacherExample:
    """A row with the teacher's answers in the place of its own.

    `keys` are the hashes of the questions and `replies` what came, one for each assistant turn;
    `dropped` says why the row isn't learnt from, and is empty if it is; `source` names the passage
    of a question that was written from documents. `opinions` are those of further teachers. Where
    the reason is one that a person may overrule, the row is `disputed`; `review` is what the person
    has decided.
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
        """What is learnt before the last answer that is."""
        return self.row.messages[self.row.trained_turns[-1]].reasoning

    def with_answer(self, text: str, thought: str = "") -> "TeacherExample":
        """The lesson with `text` as the last answer that is learnt, whatever the teacher said or
        thought."""
        turns, place = list(self.row.messages), self.row.trained_turns[-1]
        turns[place] = replace(turns[place], content=text, reasoning=thought)
        label = None if self.row.label is None else text
        return replace(self, row=replace(self.row, messages=tuple(turns), label=label))


class AnswerCollector:
    """Asks one teacher for one run."""

    def __init__(self, teacher: Answerer, run: Run, recipe: Recipe) -> None:
        self.teacher, self.run, self.recipe = teacher, run, recipe
        self.known = _load_replies(run)
        self.budget = Budget(recipe.distill.teacher, ExpectedUsage(0, 0, 0, 0))

    def collect(self, rows: Sequence[Row], asking: QuestionFormat) -> list[TeacherExample]:
        """The rows with the teacher's answers. Raises TeacherStopped as the ledger does."""
        _refuse_unaskable(rows)
        open_turns = [_turns(row) for row in rows]
        lessons = [TeacherExample(replace(row, messages=()), row) for row in rows]
        self._forecast([prompt for row in rows for prompt in self._first_prompts(row, asking)])
        for turn in range(max((len(turns) for turns in open_turns), default=0)):
            places = [
                place
                for place, turns in enumerate(open_turns)
                if turn < len(turns) and not lessons[place].dropped
            ]
            asked = [self._turn_prompt(lessons[place], turn, asking) for place in places]
            for place, prompt, reply in zip(places, asked, self._ask_once(asked), strict=True):
                lesson = replace(
                    lessons[place],
                    keys=(*lessons[place].keys, self.request_key(prompt)),
                    replies=(*lessons[place].replies, reply),
                )
                lessons[place] = _with_reply(lesson, turn, asking.keeps_reasoning)
        self.budget.close()
        return lessons

    def ask(self, prompts: Sequence[Prompt]) -> list[tuple[str, AnswererReply]]:
        """Key and reply of single questions. Raises TeacherStopped as the ledger does."""
        asked = [self._with_sampling(prompt) for prompt in prompts]
        self._forecast(asked)
        found = self._ask_once(asked)
        self.budget.close()
        return [
            (self.request_key(prompt), reply) for prompt, reply in zip(asked, found, strict=True)
        ]

    def request_key(self, prompt: Prompt) -> str:
        """The hash under which a question is recorded: teacher, question, sampling."""
        return hash_json([dict(self.teacher.identity), prompt.as_dict()])

    def _ask_once(self, prompts: Sequence[Prompt]) -> list[AnswererReply]:
        """One reply a question, in order; questions that are the same are asked once."""
        keys = [self.request_key(prompt) for prompt in prompts]
        asked = dict(zip(keys, prompts, strict=True))
        due = {key: prompt for key, prompt in asked.items() if key not in self.known}
        self.budget.recall([self.known[key] for key in asked if key in self.known])
        failed: dict[str, AnswererReply] = {}
        journal, order = Journal(self.run.path / REQUESTS), list(due)
        with progress(f"Asking {self.teacher.name}", total=len(due)) as bar:
            for place, reply in self.teacher.ask(list(due.values()), self.budget.may_ask):
                journal.write(key=order[place], **asdict(reply))
                (failed if reply.error else self.known)[order[place]] = reply
                self.budget.add(reply)
                bar.advance(note=self._progress_note())
        if self.budget.stopped:
            self.budget.close()
        return [self.known.get(key) or failed[key] for key in keys]

    def _progress_note(self) -> str:
        ledger = self.budget
        money = f", {ledger.money:.4f} {self.recipe.compare.currency}" if ledger.money else ""
        failed = f", {ledger.failed} failed" if ledger.failed else ""
        return f"{ledger.tokens_in + ledger.tokens_out:,} tokens{money}{failed}"

    def _forecast(self, prompts: Sequence[Prompt]) -> None:
        """Say what the questions will take, before the first one. Raises TeacherStopped."""
        by_key = {self.request_key(prompt): prompt for prompt in prompts}
        due = {key: prompt for key, prompt in by_key.items() if key not in self.known}
        answered = [self.known[key] for key in by_key if key in self.known]
        most_out = sum(prompt.max_new_tokens for prompt in due.values())
        expected = ExpectedUsage(
            questions=len(due),
            tokens_in=sum(self.teacher.count_tokens(prompt.messages) for prompt in due.values()),
            tokens_out=round(_USUAL_SHARE * most_out),
            max_tokens_out=most_out,
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
            priced = f", about {money:.2f} {self.recipe.compare.currency}" if money else ""
            say(
                f"{self.teacher.name}: {expected.questions} questions of about "
                f"{expected.tokens_in:,} tokens, answers of about {expected.tokens_out:,} (at most "
                f"{expected.max_tokens_out:,}){priced}; {len(answered)} more are answered already."
            )

    def _first_prompts(self, row: Row, asking: QuestionFormat) -> Iterator[Prompt]:
        """The questions of a row as far as they are known before the first answer."""
        for end in _turns(row):
            yield self._make_prompt(row.messages[:end], row, asking)

    def _turn_prompt(self, lesson: TeacherExample, turn: int, asking: QuestionFormat) -> Prompt:
        """The question of a turn: the row up to it, with the teacher's answers so far."""
        return self._make_prompt(
            _history(lesson, _turns(lesson.original)[turn]), lesson.original, asking
        )

    def _make_prompt(self, messages: Sequence[Message], row: Row, asking: QuestionFormat) -> Prompt:
        plain = tuple(Message(m.role, m.content, images=m.images) for m in messages)
        prompt = Prompt(plain, max_new_tokens=asking.max_new_tokens, choices=asking.choices)
        return self._with_sampling(with_instruction(prompt, asking.instruction))

    def _with_sampling(self, prompt: Prompt) -> Prompt:
        settings = self.recipe.distill.teacher
        return replace(
            prompt,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self.recipe.data.seed if settings.temperature else None,
        )


def _turns(row: Row) -> list[int]:
    """Where the teacher speaks: each assistant turn that is learnt, and the end of a row whose
    last turn waits for an answer."""
    turns = list(row.trained_turns)
    if row.messages and row.messages[-1].role != "assistant":
        turns.append(len(row.messages))
    return turns


def _history(lesson: TeacherExample, end: int, keeps_thoughts: bool = False) -> tuple[Message, ...]:
    """The row's turns before `end`, with the replies in the place of its own answers, and of its
    own thoughts."""
    said = dict(zip(_turns(lesson.original), lesson.replies, strict=False))
    turns = (*lesson.original.messages, Message("assistant", ""))[:end]
    return tuple(
        _reply_message(message, said[place], keeps_thoughts) if place in said else message
        for place, message in enumerate(turns)
    )


def _reply_message(message: Message, reply: AnswererReply, keeps_thoughts: bool) -> Message:
    thought = reply.thought if keeps_thoughts else ""
    return replace(message, content=reply.text, reasoning=thought)


def _with_reply(lesson: TeacherExample, turn: int, keeps_thoughts: bool) -> TeacherExample:
    """The lesson with its newest reply, that of a turn; its row is whole after the last one."""
    reply, turns = lesson.replies[-1], _turns(lesson.original)
    if reply.error:
        return replace(lesson, dropped=f"the teacher failed: {reply.error}")
    if keeps_thoughts and not reply.thought:
        return replace(lesson, dropped="the teacher answered without a thought")
    if turn + 1 < len(turns):
        return lesson
    row = replace(
        lesson.original,
        messages=_history(
            lesson, max(len(lesson.original.messages), turns[-1] + 1), keeps_thoughts
        ),
        label=None if lesson.original.label is None else reply.text,
        rejected=None,
        desirable=None,
    )
    return replace(lesson, row=row)


def _refuse_unaskable(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.text is not None or not _turns(row):
            raise BadData(
                f"{row.id}: the row has no question that a teacher could answer.",
                "Rows to distill are prompts, pairs, labelled texts or conversations.",
            )
        if row.tools:
            raise BadData(
                f"{row.id}: the row has tools, and a teacher's tool calls can't be learnt yet.",
                "Leave these rows out.",
            )


def _load_replies(run: Run) -> dict[str, AnswererReply]:
    """All answers of this run and of the earlier ones in this workspace, by key."""
    files = [*sorted(runs_folder().glob(f"*/{REQUESTS}")), run.path / REQUESTS]
    lines: list[dict[str, Any]] = [line for file in files for line in read_journal(file)]
    return {
        line["key"]: AnswererReply(**{k: v for k, v in line.items() if k not in ("key", "at")})
        for line in lines
        if not line["error"]
    }
