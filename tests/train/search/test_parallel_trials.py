"""Several trainings of a search at once, each in a process: here, and on a Ray cluster."""

import json
import signal
import time

import psutil
import pytest

from burnish.core.errors import BurnishError
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run
from burnish.train.search.run import search
from burnish.train.search.study import Pruned, Trial
from tests.fixtures.ray_cluster import two_nodes
from tests.fixtures.training import make_rows
from tests.fixtures.worker_process import Program, in_child

SPACE = "{train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}, train.method.rank: [2, 4]}"


@pytest.fixture
def recipe(tiny, tiny_folder, tmp_path, monkeypatch):
    """Two trials on real files, chosen at random, two at once."""
    monkeypatch.setenv("BURNISH_MODELS", str(tiny_folder))
    for name, rows in (("train", make_rows(26)), ("validation", make_rows(6, seed=9))):
        lines = [{"prompt": r.messages[0].content, "completion": r.messages[1].content}
                 for r in rows]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    data = {name: [str(tmp_path / f"{name}.jsonl")] for name in ("train", "validation")}
    changes = [
        "train.batch_size=4", "train.epochs=1", "train.checkpoint_every=3", "train.threads=1",
        "train.evaluate_every=3", "search.trials=2", "search.seeds=1", "search.sampler=random",
        "search.prune=false", "search.parallel=2", f"search.space={SPACE}",
    ]  # fmt: skip
    return make_recipe({"model": {"name": "tiny"}, "data": data}, changes)


def alone(recipe):
    """The same search, one trial after another."""
    own = recipe.search.model_copy(update={"parallel": 1, "executor": ""})
    return recipe.model_copy(update={"search": own})


def found(report):
    return sorted((json.dumps(t["settings"]), t["loss"]) for t in report.trials), report.best


def weights(folder):
    return (folder / "artifact" / "adapter_model.safetensors").read_bytes()


def test_what_is_tried_at_random_two_at_once_is_what_is_tried_one_after_another(recipe, tmp_path):
    abreast = search(recipe, out=tmp_path / "abreast")
    in_turn = search(alone(recipe), out=tmp_path / "in-turn")

    assert found(abreast) == found(in_turn)
    assert weights(tmp_path / "abreast") == weights(tmp_path / "in-turn")
    assert abreast.losses == in_turn.losses


def trials_at_work(folder):
    return [p for p in psutil.process_iter(["cmdline"])
            if p.info["cmdline"] and p.info["cmdline"][1:3] == ["-m", "burnish.train.search.worker"]
            and str(folder) in " ".join(p.info["cmdline"])]  # fmt: skip


def wait_for(there, seconds=120):
    for _ in range(seconds * 20):
        if seen := there():
            return seen
        time.sleep(0.05)
    raise AssertionError("it never came")


def test_a_search_and_its_trials_are_killed_and_the_same_command_goes_on(recipe, tmp_path):
    out = tmp_path / "killed"
    first = Program(lambda: search(recipe, out=out) and 0)
    one = wait_for(lambda: len(trials_at_work(out)) == 2 and trials_at_work(out))[0]
    wait_for(lambda: list(out.glob("trials/*/metrics.jsonl")))
    one.kill()  # it is begun again
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: not trials_at_work(out))

    assert in_child(lambda: search(recipe, out=out) and 0) == 0

    ended = [t["ended"] for t in Run(out).read("report.json")["trials"]]
    assert ended.count("complete") == 2
    assert len(list((out / "trials").iterdir())) == 2, "one folder for the settings of each trial"


def test_a_trial_that_falls_behind_is_stopped_and_has_no_loss(recipe, tmp_path, monkeypatch):
    def gives_up(attempt, step, loss):
        if attempt.number == 2:
            raise Pruned("Given up.")

    monkeypatch.setattr(Trial, "report", gives_up)

    report = search(recipe, out=tmp_path / "search")

    assert sorted(t["ended"] for t in report.trials) == ["complete", "pruned"]
    assert not trials_at_work(tmp_path)


def test_what_is_wrong_with_every_trial_ends_the_search_with_its_reason(recipe, tmp_path):
    own = recipe.train.model_copy(update={"max_length": 8})
    with pytest.raises(BurnishError, match="rows"):
        search(recipe.model_copy(update={"train": own}), out=tmp_path / "search")

    assert not trials_at_work(tmp_path)


@pytest.mark.long
def test_trials_are_spread_over_a_ray_cluster(recipe, tmp_path):
    own = recipe.search.model_copy(update={"executor": "ray"})
    with two_nodes():
        spread = search(recipe.model_copy(update={"search": own}), out=tmp_path / "spread")
    in_turn = search(alone(recipe), out=tmp_path / "in-turn")

    assert found(spread) == found(in_turn)
    assert weights(tmp_path / "spread") == weights(tmp_path / "in-turn")
