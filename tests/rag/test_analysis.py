"""A passage is found by its words in every script, however they are written."""

import numpy as np
import pytest

from burnish.rag.analysis import question_terms, terms
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage

TEXTS = {
    "nfd": "Die Ru\u0308ckerstattung kommt nach Zu\u0308rich.",
    "turkish": "İstanbul'a iade beş gün sürer; ısparta uzak.",
    "greek": "Η επιστροφή χρημάτων γίνεται στην οδό Ερμού.",
    "upper": "ΕΠΙΣΤΡΟΦΗ ΣΤΗΝ ΟΔΟ ΣΤΑΔΙΟΥ",
    "russian": "Возврат посылки занимает пять дней, ёлка в подарок.",
    "chinese": "退款需要五天。",
    "japanese": "返金には五日かかります。トースターも。",
    "thai": "คืนเงินภายในห้าวัน",
    "korean": "환불은 닷새가 걸립니다.",
    "hindi": "धनवापसी में पाँच दिन लगते हैं।",
    "arabic": "اِسْتِرْدادُ المَال خلال خمسة أيام",
    "ligature": "The ﬁle of the oﬃce.",
}
ASKED = [
    ("nfd", "Rückerstattung"), ("nfd", "zurich"), ("nfd", "ZÜRICH"), ("turkish", "istanbul"),
    ("turkish", "ISTANBUL"), ("turkish", "İSTANBUL"), ("turkish", "ISPARTA"),
    ("greek", "επιστροφη"), ("greek", "ΕΠΙΣΤΡΟΦΗ"), ("greek", "ΟΔΟΣ"), ("greek", "ΕΡΜΟΎ"),
    ("upper", "επιστροφή"), ("upper", "οδός"), ("russian", "возвраты"), ("russian", "ЕЛКА"),
    ("chinese", "退款"), ("chinese", "五天"), ("japanese", "返金"), ("japanese", "トースター"),
    ("thai", "คืนเงิน"), ("korean", "환불"), ("hindi", "धनवापसी"), ("arabic", "استرداد"),
    ("ligature", "file"), ("ligature", "office"),
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "index.sqlite")
    for name, text in TEXTS.items():
        passage = Passage(name, name, (), None, 0, len(text), text)
        opened.replace(name, name, [passage], np.ones((1, 4), dtype=np.float32))
    yield opened
    opened.close()


def test_words_are_found_whatever_their_case_accents_or_composition(store):
    for name, question in ASKED:
        found = store.passages([own for own, _ in store.search_words(question, 3)])

        assert (found and found[0].file == name) or name in [p.file for p in found], question


def test_what_is_not_there_is_not_found(store):
    for question in ("lamp", "λάμπα", "лампа", "灯泡", "โคมไฟ", "램프"):
        assert store.search_words(question, 3) == [], question


def test_english_is_read_by_stems_and_the_same_words_in_other_company():
    assert terms("Refunds were refunded, REFUNDING!") == ["refund", "were", "refund", "refund"]
    assert terms("Refunds für alle") == ["refund", "fur", "all"]


def test_a_question_in_an_unspaced_script_asks_for_pairs():
    assert question_terms("退款水") == ["退款", "款水"] and question_terms("水") == ["水"]
    assert terms("C3PO東京2020") == ["c3po", "東", "京", "東京", "2020"]


def test_a_text_of_one_endless_word_has_few_terms():
    assert len(terms("é" * 100_000)) == 0 and len(terms("a" * 100_000)) == 0
    assert len(question_terms("水" * 1_000)) == 999
