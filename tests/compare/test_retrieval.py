"""Routes with retrieval: the same question with passages, and training rows like it."""

import json

import pytest

from burnish.compare.retrieval import open_documents
from burnish.compare.routes import ROUTES, ComparisonSetup
from burnish.compare.run import compare
from burnish.core.errors import AuditFailed, BadRecipe
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Split
from burnish.data.load import Dataset
from tests.stubs.rule_engine import RuleEngine, row

COLOURS = ("red", "green", "blue", "yellow", "grey", "white", "brown", "pink", "gold", "black")
THINGS = ("apple", "pear", "plum", "lamp", "parcel", "order", "login", "money", "refund", "account")
#: Passages shown, of ten: all but the worst.
K = 9
FACTS = dict(zip(THINGS, COLOURS, strict=True))


def question(thing, line=1):
    return row(f"Which colour has the {thing}?", FACTS[thing], line)


@pytest.fixture
def setting(tmp_path, tiny_embedder):
    """Ten facts on ten pages; six are asked in training, one in validation, three in the test."""

    def build(*changes, routes=("retrieval",)):
        folder = tmp_path / "facts"
        folder.mkdir(exist_ok=True)
        for thing, colour in FACTS.items():
            text = f"# The {thing}\n\nThe colour of the {thing} is {colour}.\n"
            (folder / f"{thing}.md").write_text(text)
        values = {
            "model": {"name": "tiny"},
            "rag": {"documents": [str(folder)], "embedder": tiny_embedder.name, "k": K},
            "compare": {"routes": list(routes)},
        }
        recipe = make_recipe(values, changes)
        rows = tuple(question(thing, n) for n, thing in enumerate(THINGS, start=1))
        split = Split(rows[:6], rows[6:7], rows[7:])
        dataset = Dataset(split, Task(kind="qa"), (), (), {})
        return ComparisonSetup(recipe, dataset, split.test, open_documents(recipe.rag))

    return build


def test_the_question_is_the_same_and_passages_stand_before_it(setting):
    engine = RuleEngine(lambda prompt: "")
    made = setting()

    base = ROUTES["base"].make_prompts(made, engine)
    found = ROUTES["retrieval"].make_prompts(made, engine)

    for plain, shown, asked in zip(base, found, made.rows, strict=True):
        assert shown.messages[:-1] == plain.messages[:-1], "the same system message"
        content = shown.messages[-1].content
        assert content.endswith(f"\n\nQuestion: {asked.prompt[-1].content}")
        assert content.count("# The ") == K and content.startswith("[1] ")
        thing = asked.prompt[-1].content.split()[-1].strip("?")
        assert f"The colour of the {thing} is {FACTS[thing]}." in content
        assert (shown.max_new_tokens, shown.choices) == (plain.max_new_tokens, plain.choices)
    tuned = ROUTES["retrieval_fine_tuned"].make_prompts(made, engine)
    assert [p.messages[-1] for p in tuned] == [p.messages[-1] for p in found]
    assert all(len(prompt.messages) == 1 for prompt in tuned), "asked as it was trained"


def test_passages_that_do_not_fit_are_dropped_from_the_end(setting):
    made = setting()
    wide = ROUTES["retrieval"].make_prompts(made, RuleEngine(lambda prompt: ""))
    length = RuleEngine(lambda p: "").count_tokens(wide[0].messages) + wide[0].max_new_tokens
    engine = RuleEngine(lambda prompt: "", context_length=length - 1)

    narrow = ROUTES["retrieval"].make_prompts(made, engine)

    engine.answer(narrow)
    assert {prompt.messages[-1].content.count("# The ") for prompt in narrow} == {K - 1}
    for all_of_them, fewer in zip(wide, narrow, strict=True):
        head = all_of_them.messages[-1].content.split(f"\n\n[{K}]")[0]
        assert fewer.messages[-1].content.startswith(head)


def test_training_rows_look_as_the_questions_will(setting):
    made = setting("rag.gold_share=1")

    split = ROUTES["retrieval_fine_tuned"].training_rows(made)

    plain = made.dataset.split
    assert split.test == plain.test and len(split.train) == 6 and len(split.validation) == 1
    for shown, asked in zip(split.train, plain.train, strict=True):
        assert shown.answer == asked.answer and shown.id == asked.id
        assert shown.prompt[-1].content.endswith(asked.prompt[-1].content)
        assert f"is {asked.answer}." in shown.prompt[-1].content
        assert shown.prompt[-1].content.count("# The ") == K, "the gold one, and distractors"


def test_some_training_rows_lack_the_passage_that_holds_the_answer(setting):
    def with_gold(share):
        split = ROUTES["retrieval_fine_tuned"].training_rows(setting(f"rag.gold_share={share}"))
        assert all(f"is {r.answer}." in r.prompt[-1].content for r in split.validation)
        assert all(r.prompt[-1].content.count("# The ") == K for r in split.train)
        return [f"is {row.answer}." in row.prompt[-1].content for row in split.train]

    assert sum(with_gold(0)) == 0
    assert 0 < sum(with_gold(0.5)) < 6
    assert with_gold(0.5) == with_gold(0.5)


def test_a_training_row_is_never_longer_than_the_recipe_allows(setting):
    from burnish.models.chat_template import encode_row
    from burnish.models.load import load_tokenizer
    from burnish.models.local_models import find_model

    tokenizer = load_tokenizer(find_model("tiny"))
    split = ROUTES["retrieval_fine_tuned"].training_rows(setting("train.max_length=160"))

    sizes = [len(encode_row(tokenizer, row, 10_000).ids) for row in split.train]
    assert max(sizes) <= 160 and any("[1]" in row.prompt[-1].content for row in split.train)


def test_a_route_that_reads_needs_documents(write_rows, tiny):
    file = write_rows("rows.jsonl", [{"prompt": f"q {n}", "completion": "a"} for n in range(20)])
    recipe = make_recipe(
        {"model": {"name": "tiny"}, "data": {"train": [str(file)]}},
        ["compare.routes=[base, retrieval]"],
    )

    with pytest.raises(BadRecipe, match="no documents"):
        compare(recipe)


def whole_recipe(setting, write_rows, *changes):
    made = setting()
    rows = [
        {"prompt": f"Which colour has the {thing}, number {n}?", "completion": colour}
        for n in range(6)
        for thing, colour in FACTS.items()
    ]
    files = {"train": [str(write_rows("rows.jsonl", rows))], "near_duplicate": 1.0}
    quick = ("train.max_steps=2", "train.threads=1", "model.dtype=float32", "evaluate.max_rows=6")
    values = made.recipe.model_dump(mode="json") | {"data": files, "task": {"kind": "qa"}}
    return make_recipe(values, [*quick, *changes])


def test_five_routes_are_measured_and_the_best_trained_one_is_judged(setting, write_rows):
    routes = ["base", "few_shot", "retrieval", "fine_tuned", "retrieval_fine_tuned"]
    recipe = whole_recipe(setting, write_rows, f"compare.routes={routes}", "compare.shots=2")

    result = compare(recipe)

    report = json.loads((result.run.path / "report.json").read_text())
    assert [route["name"] for route in report["routes"]] == routes
    tokens = {route["name"]: route["tokens_in"] for route in report["routes"]}
    assert tokens["retrieval"] > tokens["base"] + 50
    assert tokens["retrieval_fine_tuned"] > tokens["fine_tuned"] + 50
    judged = report["verdict"]["judged"]
    values = {route["name"]: route["value"] for route in report["routes"]}
    assert values[judged] == max(values["fine_tuned"], values["retrieval_fine_tuned"])
    assert report["verdict"]["rival"] not in ("fine_tuned", "retrieval_fine_tuned")
    assert (result.run.artifact / "artifact.json").exists()
    inputs = json.loads((result.run.path / "inputs.json").read_text())
    assert len(inputs["data"]["documents"]) == 64, "the documents are an input"
    assert result.run.recipe.rag.documents == recipe.rag.documents


def test_rows_with_passages_are_audited_before_the_first_question(setting, write_rows):
    recipe = whole_recipe(
        setting, write_rows, "compare.routes=[retrieval, retrieval_fine_tuned]",
        "train.max_length=16",
    )  # fmt: skip

    with pytest.raises(AuditFailed, match=r"rows\.jsonl, rows"):
        compare(recipe)
