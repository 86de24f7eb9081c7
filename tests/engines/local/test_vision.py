"""Models that see, answering: as `transformers` generates, whoever else is asking."""

import pytest
import torch

from burnish.core.errors import NotFound
from burnish.core.records import Message, Prompt, Row
from burnish.engines.chat import ChatSession
from burnish.engines.local.open import open_local_engine
from burnish.models.chat_template import encode_row, process_prompt
from tests.fixtures.vision_models import COLOURS, WRITERS, image_file, row_of, shown

ASKED = [
    Prompt((shown("red"),), 6),
    Prompt((Message("user", "Which colour has a plum?"),), 6),
    Prompt((shown("blue"), Message("assistant", "blue"), shown("green", "And this?")), 6),
]


@pytest.fixture(params=list(WRITERS))
def engine(request, seeing):
    return open_local_engine(request.param)


def generated(engine, prompt):
    """What the library's own generation says."""
    request = engine.build_request(prompt)
    given = process_prompt(engine.tokenizer, prompt.messages).inputs(request.ids, engine.model)
    ends = sorted(engine.ends)
    with torch.no_grad():
        whole = engine.model.generate(
            **given, max_new_tokens=prompt.max_new_tokens, do_sample=False, eos_token_id=ends
        )
    return [token for token in whole[0, len(request.ids) :].tolist() if token not in ends]


def test_an_answer_is_the_librarys(engine):
    for prompt in ASKED:
        running, request = engine.new_batch(), engine.build_request(prompt)
        running.join([request])
        while running.requests:
            running.step()

        assert request.token_ids == generated(engine, prompt)


def test_requests_that_come_and_go_do_not_disturb_each_other(engine):
    alone = [answer.text for answer in (engine.answer([p])[0] for p in ASKED)]
    running, requests = engine.new_batch(), [engine.build_request(prompt) for prompt in ASKED]
    running.join(requests[:1])
    running.step()
    running.join(requests[1:])
    while running.requests:
        running.step()

    assert [request.text for request in requests] == alone


def test_a_conversation_goes_on_about_a_picture(engine, tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(image_file("red"))
    chat = ChatSession(engine, None, Prompt((), 6))

    said = "".join(chat.ask("Which colour?", [file]))
    again = "".join(chat.ask("Which?"))

    assert said == engine.answer([Prompt((shown("red", seed=0),), 6)])[0].text
    assert again == engine.answer([Prompt(tuple(chat.messages[:-1]), 6)])[0].text
    with pytest.raises(NotFound):
        list(chat.ask("And this?", [tmp_path / "none.png"]))


def test_another_picture_is_another_answer(engine):
    logits = [
        engine.read_prompt(engine.build_request(Prompt((shown(one),), 1))).logits for one in COLOURS
    ]

    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_the_likeliest_choice_is_the_one_of_the_highest_log_likelihood(engine):
    choices = ("red", "green", "blue", "bluegreen")
    turn = shown("red")
    rows = [Row(messages=(turn, Message("assistant", choice))) for choice in choices]
    logs = [log for log, _ in engine.log_likelihood(rows)]

    (answer,) = engine.answer([Prompt((turn,), 6, choices)])

    assert answer.text == choices[max(range(4), key=lambda place: logs[place])]


def test_log_likelihood_is_that_of_the_whole_row(engine):
    row = row_of("green")
    encoded = encode_row(engine.tokenizer, row, 512)
    given = process_prompt(engine.tokenizer, row.prompt).inputs(encoded.ids, engine.model)
    with torch.no_grad():
        logs = engine.model(**given).logits[0].float().log_softmax(-1)
    expected = sum(
        float(logs[place - 1, encoded.ids[place]])
        for place, weight in enumerate(encoded.weights)
        if weight
    )

    ((found, tokens),) = engine.log_likelihood([row])

    assert found == pytest.approx(expected, abs=1e-4)
    assert tokens == encoded.target_count
