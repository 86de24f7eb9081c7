"""A template costs no more than its limit, however often it names a long text."""

import pytest

from burnish.evaluate.graders import MAX_FILLED, TemplateError, fill


@pytest.mark.parametrize("item", [{"text": "x" * 1_000_000}, {"text": ["x"] * 200_000}])
def test_a_template_that_repeats_a_long_text_is_refused(item):
    with pytest.raises(TemplateError, match="characters"):
        fill("{{item.text}}" * 3000, item, "said")


def test_a_template_that_fits_is_filled():
    text = "x" * (MAX_FILLED // 2 - 100)

    filled = fill("{{item.a}} {{sample.output_text}}", {"a": text}, text)

    assert filled == f"{text} {text}"
