"""Number formats for people."""

import math

from burnish.core.records import Interval


def share(value: float | None) -> str:
    """Format a share: `83.4%`."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def points(value: float) -> str:
    """Format a difference of shares in points: `+4.2`."""
    return f"{100 * value:+.1f}".replace("-", "−")


def interval(estimate: Interval) -> str:
    """Format an interval of shares: `80.1–86.2%`."""
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}%"


def gain_interval(gain: Interval) -> str:
    """Format an interval of differences: `+1.2 to +7.0`."""
    return f"{points(gain.low)} to {points(gain.high)}"


def p_value(value: float | None) -> str:
    """Format a p-value: `0.032`, `< 0.001`, or a dash for the incumbent."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Format seconds: `412 ms`, `3.2 s`, `4 min 10 s`, `1 h 05 min`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(count: float) -> str:
    """Format bytes: `271 MB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def money(value: float, currency: str) -> str:
    """Format an amount with two significant digits: `0.0042 USD`."""
    digits = max(2, 1 - math.floor(math.log10(value))) if value > 0 else 2
    return f"{value:.{min(digits, 6)}f} {currency}"


def amount(value: float, unit: str) -> str:
    """Format a forecast quantity in its unit (`bytes`, `seconds`)."""
    return size(value) if unit == "bytes" else duration(value)


def name(text: str) -> str:
    """Format a metric's or route's name: `few_shot` as `few-shot`, `rouge_l` as `ROUGE-L`."""
    known = {"rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF", "corpus_bleu": "corpus BLEU",
             "macro_f1": "macro-F1", "token_f1": "token F1", "field_f1": "field F1",
             "json_validity": "valid JSON", "base": "plain prompt"}  # fmt: skip
    return known.get(text, text.replace("few_shot", "few-shot").replace("_", " "))
