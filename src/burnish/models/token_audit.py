"""The token audit: which tokens a row trains, with the very tokenizer and template in use.

A run whose loss curve looks healthy may have trained on the wrong tokens, or on none (trl#6668,
axolotl#3754, unsloth#416, LlamaFactory#6320). Each check here is one such failure; all of them are
errors, and training does not begin before they are fixed.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.progress import progress, say
from burnish.core.records import Finding, Message, Row, have_reasoning
from burnish.models.chat_template import (
    PromptMismatch,
    TokenizedRow,
    encode_prompt,
    encode_row,
    end_of_turn,
    has_source,
    render_conversation,
    set_thinking,
    split_as_served,
)
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model
from burnish.models.probes import Probes, probes_of
from burnish.models.rendering.special_text import without_marks

Encode = Callable[[PreTrainedTokenizerBase, Row, int], TokenizedRow]
Serve = Callable[[PreTrainedTokenizerBase, Sequence[Message]], list[int]]

_UNLIMITED = 1 << 30

#: code → (message, fix). `{need}` is the smallest max_length that cuts nothing.
CHECKS: dict[str, tuple[str, str]] = {
    "template_refuses": (
        "The model's chat template rejects the conversation.",
        "Use the roles and the order that the template supports, or another model.",
    ),
    "no_trained_token": (
        "The row has no target token: its loss would be 0.",
        "Give it an assistant turn whose weight isn't 0, or drop the row.",
    ),
    "answer_cut": (
        "max_length cuts the answer, so its end would never be trained.",
        "Set train.max_length={need}, or shorten or drop these rows.",
    ),
    "end_of_turn_not_trained": (
        "The end-of-turn token isn't trained: the model would never stop.",
        "Check that the template ends the turn and that this token isn't masked as padding.",
    ),
    "doubled_bos": (
        "The text begins with two beginning-of-sequence tokens.",
        "Let either the template or the tokenizer add it, not both.",
    ),
    "render_mismatch": (
        "The training prompt's tokens differ from those that will be served.",
        "Train and serve with one template; if its prompt contains text that no answer repeats "
        "(`<think>`), use another one.",
    ),
    "message_dropped": (
        "The template drops the text of a message.",
        "Put that text into the user's message, or use a model whose template renders the role.",
    ),
    "tools_dropped": (
        "The template drops the row's tools or a tool call.",
        "Use a model whose template renders tools, or describe them in the system message.",
    ),
    "special_token_in_text": (
        "A message contains the text of a special token, which many servers read as the token "
        "itself: it would end or begin a turn there.",
        "Remove it from the text.",
    ),
}


#: How an encoder-decoder reads conversations; it has no template to show.
SEQ2SEQ_NOTE = (
    "The encoder reads the texts of all messages before the last answer, joined by blank lines, "
    "without a chat template; the decoder's target is that answer."
)


@dataclass(frozen=True, slots=True)
class _Case:
    """One row with everything that the checks examine."""

    row: Row
    whole: TokenizedRow
    truncated: TokenizedRow
    prompt_ids: Sequence[int]
    rendered: str
    probes: Probes


def audit_for(model: str, rows: Sequence[Row], max_length: int) -> list[Finding]:
    """Return the findings for a local model; tell the user how an encoder-decoder reads rows."""
    tokenizer = load_tokenizer(find_model(model))
    if has_source(tokenizer):
        say(f"{model}: {SEQ2SEQ_NOTE}")
    return audit(rows, tokenizer, max_length)


def audit(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    encode: Encode = encode_row,
    serve: Serve = encode_prompt,
) -> list[Finding]:
    """Return all findings over `rows`, one per code and file, with the row numbers.

    Both answers of a preference row are examined. `encode` is what training will use and `serve`
    what a server will use; the audit compares the two. All findings are errors.
    """
    rows_by_finding: dict[tuple[str, str], list[int]] = defaultdict(list)
    tokenizer, need = set_thinking(tokenizer, have_reasoning(rows)), 0
    with progress("Token audit", total=len(rows)) as bar:
        for row in rows:
            sides = (part for side in row.sides for part in split_as_served(tokenizer, side))
            for side in sides:
                codes, length = _find_codes(side, tokenizer, max_length, encode, serve)
                need = max(need, length)
                for code in codes:
                    rows_by_finding[code, row.file].append(row.line)
            bar.advance()
    return [
        Finding(
            code=code,
            severity="error",
            file=file,
            rows=tuple(dict.fromkeys(numbers)),
            message=CHECKS[code][0],
            fix=CHECKS[code][1].format(need=need),
        )
        for (code, file), numbers in rows_by_finding.items()
    ]


def _find_codes(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    encode: Encode,
    serve: Serve,
) -> tuple[list[str], int]:
    """Return the codes of the failed checks of a row, and its length in tokens."""
    try:
        whole = encode(tokenizer, row, _UNLIMITED)
        truncated = whole if len(whole.ids) <= max_length else encode(tokenizer, row, max_length)
        prompt_ids = serve(tokenizer, row.prompt) if row.messages and not row.tools else []
        rendered = without_marks(_rendered(tokenizer, row))
    except PromptMismatch:
        return ["render_mismatch"], 0
    except BadData:
        return ["template_refuses"], 0
    case = _Case(row, whole, truncated, prompt_ids, rendered, probes_of(tokenizer, row))
    return [code for code, failed in _CHECK_FUNCTIONS.items() if failed(case, tokenizer)], len(
        whole.ids
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    return render_conversation(tokenizer, row.messages, row.tools) if row.messages else ""


def _no_trained_token(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    return case.truncated.target_count == 0


def _answer_cut(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    return case.row.text is None and case.truncated.target_count < case.whole.target_count


def _end_of_turn_not_trained(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    ends = end_of_turn(tokenizer)
    targets = [position for position, weight in enumerate(case.whole.weights) if weight > 0]
    return bool(targets) and case.row.ends and case.whole.ids[targets[-1]] not in ends


def _doubled_bos(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and case.whole.ids[:2] == (bos, bos)


def _render_mismatch(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    return list(case.whole.ids[: len(case.prompt_ids)]) != list(case.prompt_ids)


def _message_dropped(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    turns = [replace(turn, reasoning="") for turn in case.row.messages]
    texts = [text for turn in turns for text in turn.parts if isinstance(text, str)]
    texts += [
        turn.reasoning for turn in case.row.messages[-1:]
    ]  # earlier reasoning is never rendered
    return case.probes.lost_text or any(text.strip() not in case.rendered for text in texts)


def _tools_dropped(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    return case.probes.lost_tool


def _special_token_in_text(case: _Case, tokenizer: PreTrainedTokenizerBase) -> bool:
    texts = [message.content for message in case.row.messages] or [case.row.text or ""]
    return any(token in text for token in tokenizer.all_special_tokens for text in texts)


_CHECK_FUNCTIONS: dict[str, Callable[[_Case, PreTrainedTokenizerBase], bool]] = {
    "no_trained_token": _no_trained_token,
    "answer_cut": _answer_cut,
    "end_of_turn_not_trained": _end_of_turn_not_trained,
    "doubled_bos": _doubled_bos,
    "render_mismatch": _render_mismatch,
    "message_dropped": _message_dropped,
    "tools_dropped": _tools_dropped,
    "special_token_in_text": _special_token_in_text,
}
