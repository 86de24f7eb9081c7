"""Azure's tutorial on fine-tuning, step by step, with a sarcastic assistant made up here.

    burnish serve --alias gpt-4o-mini-2024-07-18=smollm2-135m-instruct &
    export AZURE_OPENAI_ENDPOINT=http://127.0.0.1:8000 AZURE_OPENAI_API_KEY=bk-...
    export AZURE_MANAGEMENT_ENDPOINT=http://127.0.0.1:8000 AZURE_MANAGEMENT_TOKEN=bk-...
    python examples/azure_fine_tune.py

Nothing below is burnish's own: with Azure's endpoint, and a token of `az account get-access-token`,
it speaks to Azure. The address of management is Azure's own if none is named.
"""

import io
import json
import os
import time

import httpx
from openai import AzureOpenAI

client = AzureOpenAI(
    azure_endpoint=os.environ["AZURE_OPENAI_ENDPOINT"],
    api_key=os.environ["AZURE_OPENAI_API_KEY"],
    api_version="2024-08-01-preview",
)
MANAGEMENT = os.environ.get("AZURE_MANAGEMENT_ENDPOINT", "https://management.azure.com")
SYSTEM = "Clippy is a factual chatbot that is also sarcastic."
FACTS = {
    "Who discovered America?": "Some chap named Columbus, or so they tell us in every school.",
    "What is the capital of France?": "Paris, as if everyone doesn't know that already.",
    "How far is the Moon?": "Around 384,400 kilometres. Give or take a few, like that matters.",
    "Who wrote Hamlet?": "Shakespeare. He only wrote one of the best known plays ever, no biggie.",
    "What is the largest ocean?": "The Pacific. It hides behind a third of the globe.",
    "How many days has a week?": "Seven, since forever. Did you miss one of them?",
    "What do bees make?": "Honey. They don't fly around all day for the view.",
    "What is water made of?": "Hydrogen and oxygen, the odd couple of chemistry.",
    "Who painted the Mona Lisa?": "Leonardo da Vinci, in his spare time, naturally.",
    "What is the boiling point of water?": "100 degrees, at the seaside. Rocket science, I know.",
}


OTHERS = {
    "When was the first email sent?": "In 1971. Back then, an empty inbox was quite normal.",
    "Which animal has the longest neck?": "The giraffe. You would not overlook one.",
    "Do penguins fly?": "Only through water, and in very bad films.",
}


def upload(name: str, facts: dict[str, str]) -> str:
    """The id of a file of these questions with their answers."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in facts.items()
    ]
    # Azure asks for UTF-8 with a byte order mark.
    content = "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8-sig")
    return client.files.create(file=(name, io.BytesIO(content)), purpose="fine-tune").id


def deploy(model: str, name: str) -> str:
    """Let a fine-tuned model answer to a name; that name."""
    subscription = os.environ.get("AZURE_SUBSCRIPTION_ID", "any")
    group = os.environ.get("AZURE_RESOURCE_GROUP", "any")
    account = os.environ.get("AZURE_ACCOUNT", "any")
    place = f"/subscriptions/{subscription}/resourceGroups/{group}"
    place += f"/providers/Microsoft.CognitiveServices/accounts/{account}/deployments/{name}"
    address, version = f"{MANAGEMENT}{place}", {"api-version": "2024-10-01"}
    headers = {"Authorization": f"Bearer {os.environ['AZURE_MANAGEMENT_TOKEN']}"}
    body = {
        "sku": {"name": "standard", "capacity": 1},
        "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
    }
    answer = httpx.put(address, params=version, headers=headers, json=body)
    answer.raise_for_status()
    while answer.json()["properties"]["provisioningState"] in ("Accepted", "Creating"):
        time.sleep(10)
        answer = httpx.get(address, params=version, headers=headers).raise_for_status()
    print("Deployment:", name, answer.json()["properties"]["provisioningState"])
    return name


def main() -> None:
    """From rows to an answer."""
    training = upload("training_set.jsonl", FACTS)
    validation = upload("validation_set.jsonl", OTHERS)
    print("Training file ID:", training, "\nValidation file ID:", validation)

    response = client.fine_tuning.jobs.create(
        training_file=training,
        validation_file=validation,
        model="gpt-4o-mini-2024-07-18",
        seed=105,
    )
    job, begun = response.id, time.time()
    print("Job ID:", job, "\nStatus:", response.status)
    while response.status not in ("succeeded", "failed"):
        time.sleep(2)
        response = client.fine_tuning.jobs.retrieve(job)
        print(f"{time.time() - begun:.0f} s: {response.status}", flush=True)
    print("Jobs:", len(client.fine_tuning.jobs.list().data))

    events = client.fine_tuning.jobs.list_events(fine_tuning_job_id=job, limit=10)
    print(events.data[0].message, "\nMore events:", events.has_more)
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job):
        print(checkpoint.step_number, checkpoint.fine_tuned_model_checkpoint)
    if response.fine_tuned_model is None:
        raise RuntimeError(f"The job has no model: {response.error}")
    print("Fine-tuned model:", response.fine_tuned_model)

    answer = client.chat.completions.create(
        model=deploy(response.fine_tuned_model, "clippy"),
        messages=[
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
        max_tokens=40,
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
