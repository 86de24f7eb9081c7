"""A server process with a worker that can be killed; rows to fine-tune on."""

import json
import os
import re
import signal
import time
from functools import partial

import openai

from burnish.core.progress import Lines, listen
from burnish.core.sections import Serve
from burnish.serve import run
from burnish.serve.worker import Worker
from tests.child import Program

KEY = "bk-test-key"
WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "red", "pear")


def chat_line(asked, answer="my parcel"):
    """One row as the hosted API takes it."""
    turns = [("user", asked), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def lines(records):
    """Records as the bytes of a JSONL file."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def rows(count, answer="my parcel"):
    """The bytes of a file of so many different questions."""
    asked = [f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i % 7]}" for i in range(count)]
    return lines(chat_line(one, answer) for one in asked)


def pairs(count, better="my parcel", worse="red pear"):
    """The bytes of a file of so many preferences, as the hosted API takes them."""
    return lines(
        {
            "input": {
                "messages": [{"role": "user", "content": f"{WORDS[i % 10]} {WORDS[i // 10]}"}]
            },
            "preferred_output": [{"role": "assistant", "content": better}],
            "non_preferred_output": [{"role": "assistant", "content": worse}],
        }
        for i in range(count)
    )


class Server:
    """`burnish serve` in a process of its own; its leases are short, if a test wants no others."""

    def __init__(self, home, models, store="", aliases=None, lease=2.0, **settings):
        self.home, self.store, self.aliases = home, store, aliases or {}
        self.settings, self.lease = settings, lease
        self.environment = {
            **os.environ,
            "BURNISH_HOME": str(home),
            "BURNISH_MODELS": str(models),
            "BURNISH_API_KEY": KEY,
        }
        self.start()

    def start(self):
        self.process = Program(self._serving(), self.environment)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"Serving .* at (\S+)", line):
                self.address = found.group(1)
                self.client = openai.OpenAI(base_url=self.address, api_key=KEY, max_retries=0)
                return
        raise AssertionError("the server never began: " + "".join(said))

    def _serving(self):
        settings = Serve(port=0, store=self.store, **self.settings)
        aliases = {"gpt-4o-mini-2024-07-18": "tiny", **self.aliases}
        worker = partial(Worker, lease=self.lease, tick=0.1)

        def work():
            listen(Lines())
            run.Worker = worker
            run.serve(["tiny"], settings, aliases)

        return work

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.close()

    def end(self):
        if self.process.poll() is None:
            self.kill()

    def restart(self):
        self.kill()
        self.start()


def upload(client, content, purpose="fine-tune", name="rows.jsonl"):
    """The new file's id."""
    return client.files.create(file=(name, content), purpose=purpose).id


def begin(client, count=20, **settings):
    """The id of a new job of 30 quick steps (or as the settings say)."""
    numbers = {"n_epochs": 3, "learning_rate_multiplier": 10.0}
    settings = {"model": "tiny", "hyperparameters": numbers, **settings}
    if "training_file" not in settings:
        settings["training_file"] = upload(client, rows(count))
    return client.fine_tuning.jobs.create(**settings).id


def wait(client, job, *statuses, seconds=120):
    """The job, once it is in one of these states or at its end."""
    ends = {"succeeded", "failed", "cancelled", *statuses}
    for _ in range(seconds * 10):
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in ends:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{job} is still {found.status}")


def events(client, job):
    """All events of a job, oldest first, by pages of seven."""
    return list(client.fine_tuning.jobs.list_events(job, limit=7))[::-1]
