"""What graders compute: a template filled from a row and an answer, and two texts compared."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rapidfuzz import fuzz
from sacrebleu import sentence_bleu

from burnish.core.json_text import BadJson, parse_json
from burnish.core.scripts import spaced

#: Characters of a filled template, and the template's own.
MAX_FILLED = 2_000_000
_TEMPLATE = re.compile(r"\{\{\s*(item|sample)((?:\.\w+)*)\s*\}\}")


class TemplateError(ValueError):
    """A template refers to a missing key, in `root`: the `item` or the `sample`."""

    def __init__(self, what: str, root: str) -> None:
        super().__init__(what)
        self.root = root


def fill(template: str, item: Mapping[str, Any], output: str) -> str:
    """Fill a template: keys of a row's `item`, and of the output (`sample.output_text`, and
    `sample.output_json` if it is JSON).

    Raises TemplateError for a missing key, and for a text of more than `MAX_FILLED` characters: a
    short template can refer to a long text many times.
    """
    sample, room = sample_of(output), MAX_FILLED - len(template)

    def replace(match: re.Match[str]) -> str:
        nonlocal room
        root, path = match[1], match[2].split(".")[1:]
        value: Any = item if root == "item" else sample
        for name in path:
            is_index = isinstance(value, list) and name.isascii() and name.isdigit()
            try:
                value = value[int(name)] if is_index else value[name]
            except (LookupError, TypeError) as error:
                missing = f"{{{{{'.'.join((root, *path))}}}}} is not there"
                raise TemplateError(missing, root) from error
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        room -= len(text)
        if room < 0:
            raise TemplateError(f"the filled text has more than {MAX_FILLED:,} characters", root)
        return text

    return _TEMPLATE.sub(replace, template)


def sample_of(output: str) -> dict[str, Any]:
    """Return an answer as the `sample` of templates."""
    sample: dict[str, Any] = {"output_text": output}
    try:
        sample["output_json"] = parse_json(output)
    except BadJson:
        return sample
    return sample


def gleu(output: str, reference: str) -> float:
    """Return Google's sentence BLEU: the lesser of precision and recall over 1- to 4-grams of words
    (Wu et al. 2016, arXiv:1609.08144)."""
    actual, expected = (
        Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))
        for words in (_spaced(output).split(), _spaced(reference).split())
    )
    longest = max(sum(actual.values()), sum(expected.values()))
    return sum((actual & expected).values()) / longest if longest else 0.0


def _spaced(text: str) -> str:
    """Return NFC with spaces between the characters of scripts without word spaces."""
    return spaced(_composed(text))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _rouge(name: str) -> Callable[[str, str], float]:
    def score(output: str, reference: str) -> float:
        from burnish.evaluate.rouge import rouge

        return rouge(name, reference, output)

    return score


#: `string_check`: operation → whether the two texts pass it.
CHECKS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda given, wanted: given == wanted,
    "ne": lambda given, wanted: given != wanted,
    "like": lambda given, wanted: wanted in given,
    "ilike": lambda given, wanted: wanted.casefold() in given.casefold(),
}
#: `text_similarity`: measure → how alike the two texts are, in [0, 1]. (`cosine` needs a model.)
SIMILARITIES: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": lambda given, wanted: fuzz.ratio(_composed(given), _composed(wanted)) / 100,
    "bleu": lambda given, wanted: sentence_bleu(_spaced(given), [_spaced(wanted)]).score / 100,
    "gleu": gleu,
    **{f"rouge_{n}": _rouge(f"rouge{n}") for n in range(1, 6)},
    "rouge_l": _rouge("rougeL"),
}
