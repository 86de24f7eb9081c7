"""A server process with a worker, killed and started again; rows to fine-tune on."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import openai

KEY = "bk-test-key"
PROGRAM = """
import sys
from burnish.core.progress import Lines, listen
from burnish.core.sections import Serve
from burnish.serve import run
from burnish.serve.worker import Worker
listen(Lines())
store = sys.argv[1]
run.Worker = lambda desk: Worker(desk, lease=2.0, tick=0.05)
run.serve(['tiny'], Serve(port=0, store=store), {'gpt-4o-mini': 'tiny'})
"""
WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "red", "pear")


def rows(count, answer="my parcel"):
    """Chat lines as bytes."""
    lines = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i % 7]}",
                },
                {"role": "assistant", "content": answer},
            ]
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


class Server:
    """`burnish serve` in a process of its own, with a short lease."""

    def __init__(self, store=""):
        self.store, self.process = store, None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.store],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "BURNISH_API_KEY": KEY},
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"Serving .* at (\S+)", line):
                self.address = found.group(1)
                break
        else:
            raise AssertionError("the server never began: " + "".join(said))
        self.client = openai.OpenAI(base_url=self.address, api_key=KEY, max_retries=0)

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stderr.close()

    def restart(self):
        self.kill()
        self.start()


def upload(client, content, purpose="fine-tune", name="rows.jsonl"):
    return client.files.create(file=(name, content), purpose=purpose).id


def wait(client, job, *statuses, seconds=120):
    """The job, once it is in one of these states (or at its end)."""
    ends = {"succeeded", "failed", "cancelled", *statuses}
    for _ in range(int(seconds / 0.1)):
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in ends:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{job} is still {found.status}")
