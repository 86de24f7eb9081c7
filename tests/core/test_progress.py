"""Progress reaches whoever listens, and nobody else."""

from burnish.core.progress import LineReporter, format_clock, progress, say, set_reporter


def test_nobody_hears_progress_unless_asked(capsys):
    with progress("Training", total=2) as bar:
        bar.advance()
    say("a line")

    assert capsys.readouterr().err == ""


def test_lines_show_share_time_left_and_the_note(capsys):
    set_reporter(LineReporter(every=0.0))

    with progress("Training", total=2) as bar:
        bar.advance(note="loss 1.5")

    first, last = capsys.readouterr().err.splitlines()
    assert first == "Training: 50% (0:00, 0:00 left) loss 1.5"
    assert last.startswith("Training: 50% (0:00)")


def test_a_clock_reads_like_a_clock():
    assert [format_clock(5), format_clock(65), format_clock(3600 * 2 + 61)] == [
        "0:05",
        "1:05",
        "2:01:01",
    ]
