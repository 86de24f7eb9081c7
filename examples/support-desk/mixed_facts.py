"""How often does an answer of `mixed.yaml` hold the fact that was asked for, whatever its form?

    python mixed_facts.py .burnish/runs/RUN

ROUGE-L of a letter is mostly that of the letter's form. Here a fact counts that stands in the
answer word for word: of a bare answer all of it, of a letter its third line.
"""

import argparse
import json
from pathlib import Path


def fact_of(row: dict[str, str]) -> str:
    """What a row's answer has to hold."""
    answer = row["answer"].split("\n")[2] if row["about"] == "both" else row["answer"]
    return answer.strip(" .").casefold()


def main() -> None:
    """Print a row for each route."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a comparison")
    run: Path = parser.parse_args().run
    text = Path(__file__).with_name("mixed.jsonl").read_text(encoding="utf-8")
    rows = {row["question"]: row for row in map(json.loads, text.splitlines())}
    kinds = ("fact", "both")
    print(f"{'route':<22}" + "".join(f"{kind:>12}" for kind in kinds))
    for file in sorted(run.glob("predictions-*.jsonl")):
        told = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        asked = [(rows[one["prompt"]], one["answer"].casefold()) for one in told]
        cells = []
        for kind in kinds:
            held = [fact_of(row) in answer for row, answer in asked if row["about"] == kind]
            cells.append(f"{sum(held)} of {len(held)}")
        name = file.stem.removeprefix("predictions-")
        print(f"{name:<22}" + "".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
