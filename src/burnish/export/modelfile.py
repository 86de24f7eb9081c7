"""Ollama's `Modelfile`: the chat template in Ollama's own language, and the system message.

Ollama doesn't run a model's Jinja template. What stands around each role's words is found by
rendering a conversation of marked words, and kept only if putting it together again gives exactly
what the template renders.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Message
from burnish.models.chat import end_of_turn, render_conversation, render_prompt

_SYSTEM, _USER, _ANSWER, _AGAIN = "Marked1", "Marked2", "Marked3", "Marked4"
_CONVERSATION = (
    Message("system", _SYSTEM),
    Message("user", _USER),
    Message("assistant", _ANSWER),
    Message("user", _AGAIN),
)


def modelfile(
    files: Sequence[str], tokenizer: PreTrainedTokenizerBase, system: str | None
) -> str | None:
    """The text of a Modelfile; None if the template can't be said in Ollama's language.

    `files` are the model's GGUF file and, where there is one, its adapter's.
    """
    template = _template(tokenizer)
    if template is None:
        return None
    stops = tokenizer.convert_ids_to_tokens(sorted(end_of_turn(tokenizer)))
    lines = [f"{word} ./{file}" for word, file in zip(("FROM", "ADAPTER"), files, strict=False)]
    lines += [f'TEMPLATE """{template}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, "PARAMETER temperature 0"]) + "\n"


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Ollama's template (Go's text/template) for the same rendering."""
    whole = _without_bos(tokenizer, render_prompt(tokenizer, _CONVERSATION))
    talk = _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION))
    parts = {}
    for role, word in (("system", _SYSTEM), ("user", _USER), ("assistant", _ANSWER)):
        alone = {"system": 1, "user": 2, "assistant": 3}[role]
        before = _talk(tokenizer, alone - 1)
        if before is None or (with_it := _talk(tokenizer, alone)) is None:
            return None
        if not with_it.startswith(before) or with_it.count(word) != 1:
            return None
        parts[role] = with_it[len(before) :].split(word)
    ours = "".join(
        parts[message.role][0] + message.content + parts[message.role][1]
        for message in _CONVERSATION
    )
    asking = whole.removeprefix(talk)
    if ours != talk or ours + asking != whole or '"""' in whole or "{{" in whole:
        return None
    branches = "".join(
        f'{{{{ {"if" if role == "system" else "else if"} eq .Role "{role}" }}}}'
        f"{before}{{{{ .Content }}}}{after}"
        for role, (before, after) in parts.items()
    )
    return f"{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{asking}"


def _talk(tokenizer: PreTrainedTokenizerBase, turns: int) -> str | None:
    """The first turns of the conversation, as rendered; nothing for none of them."""
    if not turns:
        return ""
    return _without_bos(tokenizer, render_conversation(tokenizer, _CONVERSATION[:turns]))


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text without the first token, where Ollama adds that by itself."""
    if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token:
        return text.removeprefix(str(tokenizer.bos_token))
    return text
