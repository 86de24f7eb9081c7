"""Token classifiers as engines: they answer with labelled spans, as a JSON list."""

import math
from collections.abc import Sequence

from burnish.core.records import Prompt, Row
from burnish.core.spans import format_located_spans
from burnish.engines.heads.base import HeadEngine, filter_labels, user_text
from burnish.models.artifact import Artifact
from burnish.models.heads.token_classifier import TokenClassifier, load_token_classifier, tag_words


class TokenClassifierEngine(HeadEngine):
    """A token classifier asked like any model: it answers with a text's spans as JSON."""

    description = "a token classifier: it answers chat messages with the labelled spans in them"

    def __init__(self, classifier: TokenClassifier, name: str, system: str | None = None) -> None:
        super().__init__(classifier, name, system)
        self.classifier = classifier

    def allowed_labels(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Return the span labels that are among the choices; all labels if there are no choices."""
        labels = dict.fromkeys(tag[2:] for tag in self.classifier.labels if tag != "O")
        return filter_labels(self.name, tuple(labels), choices)

    def predict(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the spans of each prompt whose labels are among its choices."""
        texts = [user_text(prompt.messages) for prompt in prompts]
        return [
            format_located_spans(
                text, (span for span in spans if span.label in self.allowed_labels(prompt.choices))
            )
            for text, spans, prompt in zip(
                texts, self.classifier.spans(texts), prompts, strict=True
            )
        ]

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Return, per row, the log-probability (nats) of its words' tags and their number."""
        columns = {tag: column for column, tag in enumerate(self.classifier.labels)}
        results = []
        outputs = self.classifier.log_probs([user_text(row.prompt) for row in rows])
        for row, (words, logs) in zip(rows, outputs, strict=True):
            tags = tag_words(words, row.spans or ())
            chosen = [
                float(word_logs[columns[tag]]) if tag in columns else -math.inf
                for word_logs, tag in zip(logs, tags, strict=True)
            ]
            results.append((sum(chosen), len(chosen)))
        return results


def open_token_classifier(artifact: Artifact) -> TokenClassifierEngine:
    """Open a token classifier. Raises NotFound or BadData without the base of an adapter."""
    name = str(artifact.lineage.get("run", artifact.path.name))
    return TokenClassifierEngine(load_token_classifier(artifact), name, artifact.system)
