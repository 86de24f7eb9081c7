"""What the passages don't say is called unsupported; what can't be judged is not."""

import pytest

from burnish.rag.answer import _cite
from burnish.rag.grounding import support
from burnish.rag.search import SearchHit
from burnish.rag.store import Passage

PASSAGES = ["A refund takes five working days.", "Parcels that were lost are sent again."]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Five days.", 1.0),
        ("five DAYS [1]", 1.0),
        ("A lost parcel is sent.", 1.0),
        ("Nine weeks.", 0.0),
        ("The refund takes nine days.", 3 / 4),
        ("Refunds take five days. The owner is a petrel.", 0.0),
        ("It is [1].", None),
        ("", None),
        ("…", None),
        ("a \ud800 surrogate", 0.0),
    ],
)
def test_support_is_the_share_of_the_least_supported_sentence(answer, expected):
    assert support(answer, PASSAGES) == (None if expected is None else pytest.approx(expected))


def test_words_of_the_question_need_no_support():
    asked = "How long may a customer of Tidebook wait?"
    answer = "A customer of Tidebook may wait five days."

    assert support(answer, PASSAGES) < 0.6
    assert support(answer, PASSAGES, asked) == 1


def test_a_reply_warns_of_what_the_passages_do_not_say():
    passage = Passage("a.md", "Money", ("Money",), None, 0, 9, PASSAGES[0])
    found = [SearchHit(passage, 1.0, 0.9, 1, 1)]

    good = _cite("How long?", "Five days [1].", found, 0.6)
    bad = _cite("How long?", "Nine weeks [1].", found, 0.6)
    unknown = _cite("How long?", "I don't know.", found, 0.6)

    assert good.supported and good.support == 1 and "Not supported" not in good.as_text()
    assert not bad.supported and "only 0 %" in bad.as_text()
    assert unknown.supported and unknown.support is None
    assert bad.as_dict()["supported"] is False
    assert _cite("How long?", "Nine weeks [1].", found, 0.0).supported
