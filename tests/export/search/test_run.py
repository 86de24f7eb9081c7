"""The search for the format that is best on this machine."""

import json
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from burnish import api
from burnish.cli.main import app
from burnish.core.errors import AlreadyThere, BadRecipe
from burnish.core.recipe.export import Export, FormatSearch
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.serve import Serve
from burnish.core.records import Interval
from burnish.core.stats import loss_bound
from burnish.export.formats import registry as formats
from burnish.export.parity.differences import MetricChange
from burnish.export.search import run as fit_room
from burnish.export.search.limits import broken_limits, explain_impossible
from burnish.export.search.result import SearchResult
from burnish.export.search.successive_halving import (
    SearchRules,
    drop_violators,
    drop_worse_half,
    in_race,
    select_finalists,
)
from burnish.export.search.trial import Candidate, CandidateTrial, list_candidates
from burnish.models.artifact import open_artifact
from burnish.report.pareto import Point, pareto_front, pareto_plot
from tests.fixtures.exports import ROOM


def trial(quant, seconds=(), scores=(), memory=100, disk=100):
    made = CandidateTrial(Candidate("gguf", quant, 1), memory_bytes=memory, disk_bytes=disk)
    made.seconds, made.scores, made.starts = list(seconds), list(scores), [1.0]
    return made


def times(mean, n=200, seed=1):
    draw = random.Random(seed)
    return [mean * draw.uniform(0.9, 1.1) for _ in range(n)]


def rules(n=200, **fit):
    return SearchRules(Export(fit=FormatSearch(**fit)), [1.0] * n, 0.999)


def recipe_with_data(known, tmp_path):
    rows = known.rows["20260101-first"]
    lines = [
        json.dumps({"prompt": row.messages[0].content, "completion": row.answer}) for row in rows
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return [f"data.test={tmp_path / 'test.jsonl'}", "task.kind=generation"]


def searched(first, asked, trained, folder, **fit):
    recipe = make_recipe({"export": {**ROOM, "fit": {"threads": [1], "first_rows": 20, **fit}}})
    tried = [CandidateTrial(candidate) for candidate in list_candidates(recipe.export.fit)]
    return fit_room.run_search(first, asked, trained, recipe, tried, folder)


def test_limits_are_written_as_people_write_them():
    fit = FormatSearch(
        latency_p95="300ms", memory="1GB", disk="1.5 GiB", start_up="2s", latency_p50=0.1
    )

    assert (fit.latency_p95, fit.memory, fit.disk) == (0.3, 1e9, 1.5 * 2**30)
    assert (fit.start_up, fit.latency_p50) == (2.0, 0.1)
    with pytest.raises(BadRecipe, match="300ms"):
        make_recipe({}, ["export.fit.latency_p95=3 parsecs"])


def test_candidates_are_formats_times_threads():
    found = list_candidates(
        FormatSearch(formats=("gguf:q8_0", "merged", "gguf:q8_0"), threads=(1, 2))
    )

    assert [str(one) for one in found] == [
        "gguf q8_0, 1 thread", "gguf q8_0, 2 threads", "merged bf16, 1 thread",
        "merged bf16, 2 threads",
    ]  # fmt: skip
    with pytest.raises(BadRecipe, match="is not a format"):
        list_candidates(FormatSearch(formats=("tflite:int8",)))


def test_only_the_surely_slower_of_the_worse_half_goes():
    near = [trial(f"n{n}", times(0.1, seed=n), [1.0] * 200) for n in range(4)]
    far = [trial(f"f{n}", times(0.3, seed=n), [1.0] * 200) for n in range(2)]

    drop_worse_half([*near, *far], rules(finalists=1))

    assert [one.candidate.quant for one in in_race([*near, *far])] == ["n0", "n1", "n2", "n3"]
    assert "surely slower" in far[0].dropped.why


def test_the_most_faithful_stays_however_slow_it_is():
    quick = [trial(f"q{n}", times(0.1, seed=n), [1.0] * 190 + [0.0] * 10) for n in range(3)]
    faithful = trial("f16", times(0.9), [1.0] * 200)
    slow = trial("bad", times(0.9), [1.0] * 190 + [0.0] * 10)

    drop_worse_half([*quick, faithful, slow], rules(finalists=1))

    assert faithful.dropped is None
    assert slow.dropped.kind == "behind"


def test_what_surely_loses_or_surely_breaks_a_limit_is_refused():
    fine = trial("fine", times(0.1), [1.0] * 200)
    lossy = trial("lossy", times(0.1), [1.0] * 120 + [0.0] * 80)
    slow = trial("slow", times(0.9), [1.0] * 200)
    few = trial("few", [0.9, 0.4, 0.4], [1.0] * 4)

    drop_violators([fine, lossy, slow, few], rules(latency_p95=0.5))

    assert fine.dropped is None and few.dropped is None
    assert (lossy.dropped.kind, slow.dropped.kind) == ("loss", "limit")
    assert "400 ms" not in slow.dropped.why and "is allowed" in slow.dropped.why


def test_an_impossible_limit_is_named_with_what_is_too_much():
    quick = trial("q4_0", [0.4] * 50, [1.0] * 50, memory=2e9)
    small = trial("q8_0", [0.8] * 50, [1.0] * 50, memory=1e9)

    alone = explain_impossible([quick, small], FormatSearch(latency_p95=0.3))
    assert alone == [
        "No format keeps latency_p95. Nearest is gguf q4_0, 1 thread: its p95 latency is 400 ms, "
        "300 ms is allowed: 100 ms (33%) too much."
    ]
    both = explain_impossible([quick, small], FormatSearch(latency_p95=0.5, memory=1e9))
    assert both[0].startswith("No format keeps all limits at once. Nearest is gguf q8_0")
    assert explain_impossible([quick, small], FormatSearch(latency_p95=0.5)) == []
    assert broken_limits(quick, FormatSearch(memory=1e9)) == {"memory": 2.0}


def test_the_finalists_are_those_that_keep_the_limits_and_the_most_faithful_last():
    some = [trial(f"q{n}", times(0.1 * n, seed=n), [1.0] * 199 + [0.0]) for n in range(1, 6)]
    some[4].scores = [1.0] * 200

    found = select_finalists(some, rules(finalists=3))

    assert [one.candidate.quant for one in found] == ["q1", "q2", "q5"]


def test_of_many_formats_that_lose_too_much_one_passes_the_gate_in_at_most_alpha():
    """13 formats that each spoil as much as is allowed, of 1,000 answers; the three that look best
    come before the gate, on the questions that they were chosen by."""
    random, tries, n, settings = np.random.default_rng(3), 500, 1000, Export()
    losses = random.binomial(n, settings.points, (tries, 13))
    sure = rules().gate_confidence(13)
    bounds = {
        lost: loss_bound([1.0] * n, [0.0] * lost + [1.0] * (n - lost), sure)
        for lost in range(int(losses.min()), 4)
    }
    best = np.sort(losses, axis=1)[:, : settings.fit.finalists]
    passed = sum(
        any(bounds.get(int(lost), 1.0) <= settings.points for lost in some) for some in best
    )

    assert passed <= tries * 0.05 + 2 * (tries * 0.05 * 0.95) ** 0.5


def test_equal_answers_to_few_questions_do_not_show_that_nothing_is_lost():
    def change(n):
        same = [1.0] * n
        return MetricChange("exact_match", 1.0, 1.0, loss_bound(same, same), 0.01, 0, n)

    assert not change(30).ok and not change(250).ok
    assert change(300).ok


def test_the_front_is_what_nothing_beats_in_both():
    def point(name, latency, gain):
        return Point(name, latency, Interval(gain, gain - 0.01, gain + 0.01, 10))

    some = [point("a", 1, -0.2), point("b", 2, -0.1), point("c", 3, -0.15), point("d", 4, 0.0)]

    assert [one.name for one in pareto_front(some)] == ["a", "b", "d"]


def test_the_plot_keeps_names_apart_and_shows_what_stayed():
    def point(name, latency, gain, stayed=True):
        return Point(name, latency, Interval(gain, gain - 0.02, gain + 0.02, 10), stayed=stayed)

    some = [
        point("quick", 0.100, -0.02), point("quicker", 0.101, -0.01), point("right", 0.102, 0.0),
        point("lucky", 0.090, 0.5, stayed=False), point("slow", 2.0, -0.9),
    ]  # fmt: skip
    plot = pareto_plot(some, limit_s=0.3)

    places = {place.name: place for place in plot.places}
    named = [place for place in plot.places if place.kind != "behind"]
    lines = sorted(place.text for place in named)
    assert {place.name for place in named} == {"quick", "quicker", "right"}
    assert all(other - one >= 15 for one, other in pairwise(lines))
    assert places["lucky"].low == places["lucky"].high == places["lucky"].y >= 16
    assert places["slow"].y <= plot.height - 40
    assert 56 < places["lucky"].x < places["quick"].x < plot.limit < places["slow"].x
    assert {mark.text for mark in plot.x_marks} >= {"100 ms", "1000 ms"}


@pytest.mark.parametrize(
    ("candidate", "settings"),
    [
        (Candidate("gguf", "q8_0", 2), {"engine_threads": 2}),
        (
            Candidate("gguf", "q4_0", 1, "q8_0", 256),
            {"engine_threads": 1, "engine_cache": "q8_0", "engine_context": 256},
        ),
    ],
)
def test_the_search_says_how_its_pick_is_served_as_it_was_measured(candidate, settings, tmp_path):
    pick = CandidateTrial(candidate)
    fitted = SearchResult(tmp_path, [pick], None, "accuracy", pick, None, ())

    words = fitted.serve_command.split()

    assert words[:3] == ["burnish", "serve", str(tmp_path)]
    served = make_recipe({}, words[4::2]).serve
    assert served == Serve(**settings)
    merged = replace(fitted, pick=CandidateTrial(Candidate("merged", "bf16", 2)))
    assert merged.serve_command == f"OMP_NUM_THREADS=2 burnish serve {tmp_path}"


def test_the_pick_is_an_artifact_that_passed_the_gate(first, asked, trained, tmp_path):
    done = searched(
        first, asked, trained, tmp_path / "out", formats=["gguf:q8_0", "gguf:f16"], memory="4GB"
    )

    assert done.exit_code == 0, done.against
    assert open_artifact(tmp_path / "out").kind == "gguf"
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["shippable"]
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["pick"] == str(done.pick.candidate)
    assert all(one["latency_p95_s"] > 0 for one in found["candidates"])
    page = (tmp_path / "out" / "export.html").read_text()
    assert "<svg" in page and "http" not in page.replace("asked by HTTP", "")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]


def test_caches_and_contexts_are_tried_where_an_engine_has_them():
    fit = FormatSearch(formats=["gguf:q8_0", "onnx:int4", "merged:bf16"], threads=[1],
              caches=["f16", "q8_0"], contexts=[256, 512])  # fmt: skip

    assert [str(one) for one in list_candidates(fit)] == [
        "gguf q8_0, 1 thread, context 256",
        "gguf q8_0, 1 thread, context 512",
        "gguf q8_0, 1 thread, q8_0 cache, context 256",
        "gguf q8_0, 1 thread, q8_0 cache, context 512",
        "onnx int4, 1 thread, context 256",
        "onnx int4, 1 thread, context 512",
        "merged bf16, 1 thread",
    ]


def test_a_cache_that_cannot_be_and_a_context_too_short_are_out(first, asked, trained, tmp_path):
    done = searched(
        first, asked, trained, tmp_path / "out",
        formats=["gguf:f16"], caches=["f16", "q8_0"], contexts=[8, 256],
    )  # fmt: skip

    assert done.exit_code == 0, done.against
    assert "too short" in done.trials[0].dropped.why
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["pick"] == "gguf f16, 1 thread, context 256"
    # 16 numbers a head are no block of 32.
    assert "exited while it loaded" in found["candidates"][3]["why"]
    assert found["candidates"][1]["start_up_s"] > 0


def test_a_candidate_whose_engine_dies_does_not_end_the_search(
    first, asked, trained, tmp_path, monkeypatch
):
    real = formats.write_gguf

    def damaged(path, model, tokenizer, quant, *more):
        written = real(path, model, tokenizer, quant, *more)
        if quant == "f16":
            path.write_bytes(path.read_bytes()[:4000])
        return written

    monkeypatch.setattr(formats, "write_gguf", damaged)
    done = searched(first, asked, trained, tmp_path / "out", formats=["gguf:f16", "gguf:q8_0"])

    assert done.exit_code == 0
    assert done.trials[0].dropped.kind == "failed"
    assert "exited while it loaded" in done.trials[0].dropped.why
    assert done.pick is done.trials[1]


def test_the_quickest_is_not_picked_if_it_answers_otherwise(
    first, asked, trained, tmp_path, monkeypatch
):
    real = formats.write_gguf

    def spoilt(path, model, tokenizer, quant, *more):
        if quant == "q4_0":
            for part in model.parameters():
                part.data.mul_(1.7)
        return real(path, model, tokenizer, quant, *more)

    monkeypatch.setattr(formats, "write_gguf", spoilt)
    done = searched(
        first, asked, trained, tmp_path / "out", formats=["gguf:q4_0", "gguf:f16"], best="disk"
    )

    assert str(done.pick.candidate) == "gguf f16, 1 thread"
    assert done.trials[0].dropped.kind == "loss"


def test_an_impossible_limit_ends_with_exit_code_1(known, tmp_path):
    changes = recipe_with_data(known, tmp_path)
    changes += ["export.fit.formats=[gguf:q8_0]", "export.fit.threads=[1]"]
    words = ["-q", "export", "20260101-first", "--for-this-machine", "--latency-p95", "0.001ms"]
    words += ["--out", str(tmp_path / "out"), *[w for c in changes for w in ("--set", c)]]

    shown = CliRunner().invoke(app, words)

    assert shown.exit_code == 1, shown.output
    assert "No format keeps latency_p95" in shown.output and "too much" in shown.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["export.html", "search.json"]
    with pytest.raises(AlreadyThere):
        api.export("20260101-first", for_this_machine=True, out=tmp_path / "out", changes=changes)


def test_limits_without_a_search_and_a_format_beside_it_are_refused(known):
    for words in (["--memory", "1GB"], ["--for-this-machine", "--to", "gguf"]):
        with pytest.raises(BadRecipe):
            CliRunner().invoke(app, ["export", "20260101-first", *words], catch_exceptions=False)


def test_a_server_that_is_killed_while_it_answers_drops_its_candidate(
    first, asked, tmp_path, monkeypatch
):
    from burnish.export.search import trial as trial_room

    real = trial_room.open_served_model

    def doomed(*told):
        door = real(*told)
        answer = door.ask

        def ask(prompt):
            door.process._process.kill()
            return answer(prompt)

        door.ask = ask
        return door

    monkeypatch.setattr(trial_room, "open_served_model", doomed)
    one = CandidateTrial(Candidate("gguf", "f16", 1))
    one.artifact = formats.write_export(tmp_path / "x", first, "gguf", "f16")

    assert one.ask(asked.prompts[:3], 256) == []
    assert one.dropped.kind == "failed" and "it was killed" in one.dropped.why
