"""Save your fine-tuning jobs, their files and your stored completions from OpenAI into a folder.

    OPENAI_API_KEY=... python examples/openai_export.py saved
    burnish import-openai saved

Only completions that were asked with `store=True` are there. Nothing at OpenAI is changed.
"""

import json
import sys
from pathlib import Path

import openai

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
client = openai.OpenAI()

jobs = list(client.fine_tuning.jobs.list())
(folder / "jobs.jsonl").write_text("".join(job.to_json(indent=None) + "\n" for job in jobs))
for name in {name for job in jobs for name in (job.training_file, job.validation_file) if name}:
    try:
        (folder / f"{name}.jsonl").write_bytes(client.files.content(name).read())
    except openai.NotFoundError:
        print(f"{name} has been deleted: its job can't be trained again.", file=sys.stderr)

lines = []
try:
    for completion in client.chat.completions.list():
        asked = client.chat.completions.messages.list(completion.id)
        turns = [turn.to_dict() for turn in asked]
        lines.append(json.dumps({**completion.to_dict(), "messages": turns}))
except openai.APIStatusError as error:
    if error.status_code not in (404, 405):
        raise
    print("This server keeps no completions.", file=sys.stderr)
(folder / "completions.jsonl").write_text("".join(f"{line}\n" for line in lines))
print(f"{len(jobs)} jobs and {len(lines)} completions are in {folder}.")
