"""The cookbook's "How to fine-tune chat models", step by step, with recipes made up here.

    burnish serve --alias gpt-4o-mini-2024-07-18=smollm2-135m-instruct &
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=bk-...
    python examples/openai_cookbook.py

Nothing below is burnish's own: without the first variable it speaks to OpenAI.
"""

import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import openai

openai.api_key = os.getenv("OPENAI_API_KEY", "")
MODEL = "gpt-4o-mini-2024-07-18"
SYSTEM = (
    "You are a helpful recipe assistant. You are to extract the generic ingredients from each of "
    "the recipes provided."
)
FOODS = ("butter", "flour", "sugar", "eggs", "milk", "salt", "rice", "beef", "onions", "beans")
AMOUNTS = ("1 c.", "2 tbsp.", "1/2 lb.", "3")


def recipes() -> list[tuple[str, list[str], list[str]]]:
    """(title, ingredients, generic ingredients)."""
    made = []
    for number, foods in enumerate(itertools.combinations(FOODS, 3)):
        ingredients = [f"{AMOUNTS[(number + i) % 4]} {food}" for i, food in enumerate(foods)]
        made.append((f"{foods[0].title()} Bake {number}", ingredients, list(foods)))
    return made


def conversation(title: str, ingredients: list[str], generic: list[str]) -> dict[str, object]:
    """One row as the cookbook shapes it."""
    asked = f"Title: {title}\n\nIngredients: {json.dumps(ingredients)}\n\nGeneric ingredients: "
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": json.dumps(generic)},
        ]
    }


def upload_file(name: Path, purpose: str) -> str:
    """The id of the uploaded file."""
    with name.open("rb") as file:
        return openai.files.create(file=file, purpose=purpose).id  # type: ignore[arg-type]


def main() -> None:
    """From rows to an answer."""
    rows = [conversation(*recipe) for recipe in recipes()]
    with tempfile.TemporaryDirectory() as folder:
        ids = []
        for name, some in (("training", rows[:40]), ("validation", rows[40:50])):
            file = Path(folder) / f"tmp_recipe_finetune_{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
            ids.append(upload_file(file, "fine-tune"))
    print("Training file ID:", ids[0], "\nValidation file ID:", ids[1])

    response = openai.fine_tuning.jobs.create(
        training_file=ids[0], validation_file=ids[1], model=MODEL, suffix="recipe-ner"
    )
    print("Job ID:", response.id, "\nStatus:", response.status)
    while response.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        response = openai.fine_tuning.jobs.retrieve(response.id)
    print("Status:", response.status, "\nTrained Tokens:", response.trained_tokens)

    events = openai.fine_tuning.jobs.list_events(response.id).data
    events.reverse()
    for event in events:
        print(event.message)

    if response.fine_tuned_model is None:
        raise RuntimeError(f"The job has no model: {response.error}")
    print("Fine-tuned model ID:", response.fine_tuned_model)
    test = rows[60]["messages"]
    answer = openai.chat.completions.create(
        model=response.fine_tuned_model,
        messages=test[:2],  # type: ignore[index]
        temperature=0,
        max_tokens=60,
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
