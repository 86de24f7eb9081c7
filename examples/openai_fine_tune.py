"""Fine-tune and chat through the official `openai` client, as one does with the hosted API.

    burnish serve &
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=bk-...
    python examples/openai_fine_tune.py examples/support-desk/replies.jsonl

Nothing below is burnish's own: without the two variables it speaks to OpenAI.
"""

import sys
import time

from openai import OpenAI

client = OpenAI()
rows = sys.argv[1] if len(sys.argv) > 1 else "examples/support-desk/replies.jsonl"
base = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct"

with open(rows, "rb") as opened:
    file = client.files.create(file=opened, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model=base,
    training_file=file.id,
    suffix="example",
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
)
shown: set[str] = set()
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
    for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
        if event.id not in shown:
            print(event.message)
            shown.add(event.id)
if not job.fine_tuned_model:
    sys.exit(f"{job.status}: {job.error.message if job.error else ''}")

answer = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[{"role": "user", "content": "My parcel is lost. What now?"}],
    temperature=0,
    max_tokens=80,
)
print(f"\n{job.fine_tuned_model}:\n{answer.choices[0].message.content}")
