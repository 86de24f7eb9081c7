"""What a model thinks before it speaks: `<think>…</think>` in front of an answer.

DeepSeek-R1 and Qwen3 write it so; their servers give it as `reasoning_content` beside `content`.
"""

from dataclasses import dataclass

BEGIN, END = "<think>", "</think>"


def split_reasoning(text: str) -> tuple[str, str]:
    """What a model thought, between `<think>` and `</think>` or before the latter alone, and what
    it said then. Who was cut short in thinking has said nothing."""
    before, ends, behind = text.partition(END)
    if ends:
        return before.strip().removeprefix(BEGIN).strip(), behind.lstrip()
    if text.lstrip().startswith(BEGIN):
        return text.strip().removeprefix(BEGIN).strip(), ""
    return "", text


def join_reasoning(reasoning: str, content: str) -> str:
    """A thought and what was said then, as models write it; without a thought, what was said."""
    return f"{BEGIN}\n{reasoning}\n{END}\n\n{content}" if reasoning else content


def begins_with_reasoning(text: str) -> bool:
    """Whether an answer begins with `<think>`."""
    return text.lstrip().startswith(BEGIN)


@dataclass(slots=True)
class ReasoningParser:
    """Tells a stream's thought from its words, for an answer that begins with `<think>`: pieces of
    both together are what `apart` gives of the whole."""

    text: str = ""
    reasoning_sent: int = 0
    content_sent: int = 0

    def feed(self, piece: str, ended: bool = False) -> tuple[str, str]:
        """What is new of the thought and of the words, as far as it can be shown; all of it once
        the answer has `ended`."""
        self.text += piece
        thought, said = self._split_so_far(ended)
        new = thought[self.reasoning_sent :], said[self.content_sent :]
        self.reasoning_sent, self.content_sent = len(thought), len(said)
        return new

    def _split_so_far(self, ended: bool) -> tuple[str, str]:
        if begins_with_reasoning(self.text):
            thought, said = split_reasoning(self.text)
            if ended or END in self.text:
                return thought, said
            return split_reasoning(self.text[: len(self.text) - _partial_end_length(self.text)])[
                0
            ], ""
        may_begin = not ended and BEGIN.startswith(self.text.lstrip())
        return "", "" if may_begin else self.text


def _partial_end_length(text: str) -> int:
    """How many letters at the end of a text may be the beginning of `</think>`."""
    sizes = range(min(len(END) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(END[:size])), 0)
