"""A journal keeps every whole line and forgets a torn one."""

from burnish.core.journal import Journal, read_journal


def test_entries_come_back_in_order_with_their_time(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(step=1, loss=2.5)
    journal.write(step=2, loss=2.25)

    entries = read_journal(journal.path)

    assert [entry["step"] for entry in entries] == [1, 2]
    assert entries[0]["at"] <= entries[1]["at"]


def test_a_line_torn_by_a_power_cut_is_as_if_never_written(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(step=1)
    with journal.path.open("a") as file:
        file.write('{"step": 2, "lo')

    assert [entry["step"] for entry in read_journal(journal.path)] == [1]
    Journal(journal.path).write(step=2)
    assert [entry["step"] for entry in read_journal(journal.path)] == [1, 2]
