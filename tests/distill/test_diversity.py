"""What a teacher's answers are like as a whole."""

from burnish.core.recipe.data import Task
from burnish.core.records import Message, Row
from burnish.distill.diversity import compute_diversity

LABELS = Task(kind="classification", labels=("account", "delivery", "refund"))


def row(text, answer, line, file="rows.jsonl"):
    return Row((Message("user", text), Message("assistant", answer)), file=file, line=line)


def rows(answers, text="where is parcel {n} of order {n}{n}", file="rows.jsonl"):
    return [row(text.format(n=n), answer, n, file) for n, answer in enumerate(answers)]


def test_labels_that_are_never_given_and_a_favourite_are_named():
    own = rows(["account", "delivery", "refund"] * 20)
    learnt = rows(["delivery"] * 50 + ["refund"] * 10)

    found = compute_diversity(learnt, own, LABELS, seed=0)

    assert found.labels == {"account": 0, "delivery": 50, "refund": 10}
    missing, favourite = found.warnings()
    assert missing == "No row with 1 of 3 labels: account."
    assert favourite == "The teacher gives delivery to 83% of the rows; people to 33%."
    assert found.facts()["Labels trained"] == "2 of 3; most often delivery, 83%"
    assert compute_diversity(own, own, LABELS, seed=0).warnings() == []


def test_a_favourite_is_one_of_the_rows_that_people_have_answered():
    own = rows(["delivery"] * 60)
    unanswered = [Row(one.messages[:1], file=one.file, line=one.line) for one in own]

    assert compute_diversity(own, unanswered, LABELS, seed=0).own_labels == {
        "account": 0, "delivery": 0, "refund": 0,
    }  # fmt: skip
    assert len(compute_diversity(own, unanswered, LABELS, seed=0).warnings()) == 1, (
        "missing labels only"
    )


def test_new_questions_that_are_one_are_told_from_new_ones_that_differ():
    own = rows(["yes"] * 60)
    alike = rows(["yes"] * 40, "what does the lamp cost", file="grown")
    various = rows(["yes"] * 40, "does lamp {n} cost {n}0 or {n}5 in shop {n}", file="grown")
    task = Task(kind="qa")

    (warning,) = compute_diversity([*own, *alike], own, task, seed=0).warnings()

    assert "repeat themselves: 2% of their word pairs" in warning
    assert compute_diversity([*own, *various], own, task, seed=0).warnings() == []
    assert compute_diversity(own, own, task, seed=0).pairs is None, "nothing was made"
    assert compute_diversity([*own, *alike[:20]], own, task, seed=0).pairs is None, "too few to say"


def test_lengths_of_answers_stand_beside_peoples():
    own = rows(["two words"] * 5)
    learnt = rows(["a rather longer answer"] * 5)

    found = compute_diversity(learnt, own, Task(kind="generation"), seed=0)

    assert found.words == (4, 2)
    assert found.facts() == {"Words of an answer, median": "4; people's 2"}
