"""Ollama's `Modelfile`: the chat template in Ollama's own language, and the system message.

Ollama doesn't run a model's Jinja template, so the text around each role's content is written as a
Go template (`export.packaging.turn_template`).
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from burnish.export.packaging.turn_template import extract_turn_template
from burnish.models.chat_template import end_of_turn


def render_modelfile(
    files: Sequence[str], tokenizer: PreTrainedTokenizerBase, system: str | None
) -> str | None:
    """Return the text of a Modelfile; None if the template can't be expressed in Ollama's language.

    `files` are the model's GGUF file and its adapter's, if any.
    """
    template = _ollama_template(tokenizer)
    if template is None:
        return None
    stops = tokenizer.convert_ids_to_tokens(sorted(end_of_turn(tokenizer)))
    lines = [f"{word} ./{file}" for word, file in zip(("FROM", "ADAPTER"), files, strict=False)]
    lines += [f'TEMPLATE """{template}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, "PARAMETER temperature 0"]) + "\n"


def _ollama_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return Ollama's template (Go's text/template) for the same rendering."""
    turn_template = extract_turn_template(tokenizer)
    if turn_template is None:
        return None
    texts = [
        turn_template.generation_prompt,
        *[text for pair in turn_template.around.values() for text in pair],
    ]
    if any('"""' in text or "{{" in text for text in texts):
        return None
    branches = "".join(
        f'{{{{ {"if" if role == "system" else "else if"} eq .Role "{role}" }}}}'
        f"{before}{{{{ .Content }}}}{after}"
        for role, (before, after) in turn_template.around.items()
    )
    body = f"{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}"
    return body + turn_template.generation_prompt
