"""The text of an HTML page as a reader sees it.

The tags are found by libxml2, in time linear in the page; Python's own parser needs minutes for 100
kB of `<a <a <a`.
"""

import re
from collections import Counter

from burnish.rag.documents import DocumentBuilder

_SPACES = re.compile(r"\s+")
_HEADING_TAGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_TAGS = frozenset(
    (
        "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i",
        "img", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub",
        "sup", "time", "u", "var", "wbr",
    )
)  # fmt: skip
_UNREAD_TAGS = frozenset({"script", "style", "template"})
#: Drawings and formulas, whose titles aren't the page's.
_DRAWN_TAGS = frozenset({"svg", "math"})
#: Tags whose nesting is tracked.
_KEPT_TAGS = _UNREAD_TAGS | _DRAWN_TAGS | {"title", "pre"}


class HtmlPage:
    """A page being read, as a target of lxml's parsers; `draft` collects its text."""

    def __init__(self, title: str) -> None:
        self.draft = DocumentBuilder(title)
        self.pieces: list[str] = []
        self.inside: Counter[str] = Counter()
        self.level: int | None = None
        self.titled = False

    def start(self, tag: str, attributes: object) -> None:
        """Handle a start tag: a block begins where the previous one ends."""
        if tag in _KEPT_TAGS:
            self.inside[tag] += 1
        if tag == "title" and self._is_inside(_DRAWN_TAGS):
            return  # a drawing's title is only a tooltip
        if tag == "br":
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" | " if self.pieces else "")
        elif tag not in _INLINE_TAGS:
            self.end_block()
            self.level = _HEADING_TAGS.get(tag)

    def end(self, tag: str) -> None:
        """Handle an end tag: a title is the document's; other blocks end."""
        if tag == "title":
            if not self.titled and not self._is_inside(_DRAWN_TAGS):
                self.draft.title = self._said() or self.draft.title
                self.titled = bool(self._said())
            self.pieces = []
        if self.inside[tag]:
            self.inside[tag] -= 1
        if tag not in _INLINE_TAGS and tag not in ("td", "th", "br"):
            self.end_block()

    def data(self, data: str) -> None:
        """Collect text; white space is one space, except in `pre`."""
        if not self._is_inside(_UNREAD_TAGS):
            self.pieces.append(data if self.inside["pre"] else _SPACES.sub(" ", data))

    def close(self) -> DocumentBuilder:
        """Return the builder with the page's text."""
        self.end_block()
        return self.draft

    def end_block(self) -> None:
        """Add the collected text to the document."""
        text, level = self._said(), self.level
        self.pieces, self.level = [], None
        if text and level:
            self.draft.add_heading(level, _SPACES.sub(" ", text))
        else:
            self.draft.add_block(text)

    def _is_inside(self, tags: frozenset[str]) -> bool:
        return any(self.inside[tag] for tag in tags)

    def _said(self) -> str:
        return "".join(self.pieces).strip()
