"""Each word of the command line is one function of the API, of the same name and arguments."""

import inspect
from typing import get_args

import pytest

from burnish import api
from burnish.cli.main import COMMANDS

#: Arguments of the command line only: how an answer is shown, and what a conversation is asked.
SHOWN = {"as_json"}
ASKED = {"chat": {"message", "image"}}


def word_of(command):
    return command.__name__.rpartition(".")[2]


def arguments_of(function):
    """The names that a function takes, those of its `**options` included."""
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is one.VAR_KEYWORD:
            (options,) = get_args(eval(one.annotation, function.__globals__))
            yield from options.__annotations__
        else:
            yield name


@pytest.mark.parametrize("command", COMMANDS, ids=word_of)
def test_a_word_is_a_function_of_the_same_name_and_arguments(command):
    word = word_of(command)
    asked = set(inspect.signature(command.command).parameters) - SHOWN - ASKED.get(word, set())

    assert asked <= set(arguments_of(getattr(api, word)))


@pytest.mark.parametrize("command", COMMANDS, ids=word_of)
def test_a_function_of_the_api_says_what_it_does(command):
    assert inspect.getdoc(getattr(api, word_of(command)))
