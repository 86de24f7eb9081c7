"""Reasoning before an answer: `<think>…</think>`.

DeepSeek-R1 and Qwen3 write it so; their servers return it as `reasoning_content` beside `content`.
"""

from dataclasses import dataclass

BEGIN, END = "<think>", "</think>"


def split_reasoning(text: str) -> tuple[str, str]:
    """Split a model's output into (reasoning, content).

    Reasoning stands between `<think>` and `</think>`, or before `</think>` alone. An output cut
    inside its reasoning has empty content.
    """
    before, ends, behind = text.partition(END)
    if ends:
        return before.strip().removeprefix(BEGIN).strip(), behind.lstrip()
    if text.lstrip().startswith(BEGIN):
        return text.strip().removeprefix(BEGIN).strip(), ""
    return "", text


def join_reasoning(reasoning: str, content: str) -> str:
    """Join reasoning and content as models write them; without reasoning, return the content."""
    return f"{BEGIN}\n{reasoning}\n{END}\n\n{content}" if reasoning else content


def begins_with_reasoning(text: str) -> bool:
    """Return whether an answer begins with `<think>`."""
    return text.lstrip().startswith(BEGIN)


@dataclass(slots=True)
class ReasoningParser:
    """Split a streamed answer that begins with `<think>` into reasoning and content.

    The pieces that `feed` returns add up to what `split_reasoning` returns for the whole.
    """

    text: str = ""
    reasoning_sent: int = 0
    content_sent: int = 0

    def feed(self, piece: str, ended: bool = False) -> tuple[str, str]:
        """Return the new (reasoning, content) that can be shown already; all of it once the answer
        has `ended`."""
        self.text += piece
        reasoning, content = self._split_so_far(ended)
        new = reasoning[self.reasoning_sent :], content[self.content_sent :]
        self.reasoning_sent, self.content_sent = len(reasoning), len(content)
        return new

    def _split_so_far(self, ended: bool) -> tuple[str, str]:
        if begins_with_reasoning(self.text):
            reasoning, content = split_reasoning(self.text)
            if ended or END in self.text:
                return reasoning, content
            return split_reasoning(self.text[: len(self.text) - _partial_end_length(self.text)])[
                0
            ], ""
        may_begin = not ended and BEGIN.startswith(self.text.lstrip())
        return "", "" if may_begin else self.text


def _partial_end_length(text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of `</think>`."""
    sizes = range(min(len(END) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(END[:size])), 0)
