"""Plain text that is longer than a row may be is learnt whole, in windows."""

from burnish.core.records import Message, Row
from burnish.models.chat_template import encode_row, end_of_turn
from burnish.models.rendering.text_windows import windows_of

TEXT = "\n\n".join(
    f"Paragraph {n} tells of the parcel, the lamp and the refund." for n in range(40)
)


def test_all_of_a_long_text_is_learnt_and_its_end_once(tiny_tokenizer):
    row = Row(text=TEXT, file="a.txt", line=3)

    windows = windows_of(tiny_tokenizer, row, 64)

    assert len(windows) > 5 and "".join(window.text for window in windows) == TEXT
    encoded = [encode_row(tiny_tokenizer, window, 64) for window in windows]
    assert not any(one.truncated for one in encoded)
    ends = [one.ids[-1] in end_of_turn(tiny_tokenizer) for one in encoded]
    assert ends == [False] * (len(windows) - 1) + [True]
    assert {window.id for window in windows} == {row.id}


def test_windows_end_between_words(tiny_tokenizer):
    windows = windows_of(tiny_tokenizer, Row(text=TEXT), 64)

    assert all(window.text[-1].isspace() for window in windows[:-1])


def test_a_text_without_a_space_is_cut_anyhow(tiny_tokenizer):
    text = "ab" * 5_000

    windows = windows_of(tiny_tokenizer, Row(text=text), 32)

    assert "".join(window.text for window in windows) == text
    assert all(len(encode_row(tiny_tokenizer, one, 1 << 20).ids) <= 32 for one in windows)


def test_what_fits_and_what_is_a_conversation_stays_one_row(tiny_tokenizer):
    short = Row(text="A parcel.")
    talk = Row(messages=(Message("user", TEXT), Message("assistant", "Yes.")))

    assert windows_of(tiny_tokenizer, short, 64) == (short,)
    assert windows_of(tiny_tokenizer, talk, 64) == (talk,)
