"""Makes mixed.jsonl: questions of three types, each with the kind of knowledge that it needs.

    python mix.py

fact    a colleague asks what stands in the handbook only, and gets the bare answer (questions.csv)
style   a customer writes and gets one of the house's standard letters, which names no figure and
        nothing that the questions ask (replies.jsonl)
both    a customer asks what stands in the handbook only, and gets it in a letter in that form

No question is both a fact and a letter. `page` keeps the facts of a page together, so that no fact
of the test is in a training row.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
#: Desk → the pages of the handbook that it answers for.
PAGES = {
    "almanac": ("clearwater", "renewal", "trials"),
    "bench": ("accuracy", "batteries", "firmware", "heron-cleaning", "petrel-mounting", "radio",
              "repairs", "skua", "skua-lights", "skua-mini", "tidebook", "warranty", "winter",
              "wren-pairing"),
    "greenroom": ("company", "desks", "heron", "heron-heater", "house-style", "masts", "petrel",
                  "showroom", "skua-solar", "wren"),
    "harbour": ("delivery", "lost-parcels"),
    "keyring": ("accounts", "alarms", "data", "second-factor", "sharing"),
    "lantern": ("recalls", "safety"),
    "ledger": ("discounts", "invoices", "payment"),
    "postern": ("refunds", "returns"),
}  # fmt: skip
DESKS = {f"{page}.md": desk for desk, pages in PAGES.items() for page in pages}


def letter(desk: str, answer: str) -> str:
    """An answer in the form of handbook/house-style.md."""
    end = "" if answer.endswith((".", "!", "?")) else "."
    lines = (f"[{desk} | calm]", "Good weather,", f"{answer}{end}", "Next: no step is needed.",
             f"Fair winds, the {desk}")  # fmt: skip
    return "\n".join(lines)


def questions() -> Iterator[dict[str, str]]:
    """Facts and letters with facts, in turn."""
    with (HERE / "questions.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            asked, answer, page = row["question"], row["answer"], row["page"]
            if number % 2:
                who, said, kind = "customer writes", letter(DESKS[page], answer), "both"
            else:
                who, said, kind = "colleague asks", answer, "fact"
            yield {"question": f"A {who}: {asked}", "answer": said, "about": kind, "page": page}


def letters() -> Iterator[dict[str, str]]:
    """Letters without a figure and without anything that the questions ask."""
    with (HERE / "questions.csv").open(encoding="utf-8", newline="") as file:
        facts = [row["answer"].casefold() for row in csv.DictReader(file) if " " in row["answer"]]
    rows = (HERE / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    for row in filter(None, rows):
        reply = json.loads(row)
        asked, said = reply["prompt"], reply["completion"]
        if not re.search(r"\d", said) and not any(fact in said.casefold() for fact in facts):
            yield {"question": f"A customer writes: {asked}", "answer": said, "about": "style"}


def main() -> None:
    """Write the file."""
    rows = [*questions(), *letters()]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / "mixed.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(rows)} rows in mixed.jsonl")


if __name__ == "__main__":
    main()
