"""Letters are counted by their script."""

from burnish.core.scripts import SCRIPTS, count_letters
from burnish.models.catalogue import catalogue


def test_letters_are_counted_by_script_and_nothing_else_is():
    assert count_letters("Ab é 12 ?! µ") == {"Latin": 3}
    assert count_letters("Ώρα 3: ora") == {"Greek": 3, "Latin": 3}
    assert count_letters("東京タワーです") == {"Han": 2, "Katakana": 2, "Hiragana": 2}
    assert count_letters("ᚠᚢ") == {"another script": 2}
    assert count_letters("123 …") == {}


def test_the_catalogue_names_scripts_that_are_known():
    assert {script for entry in catalogue().values() for script in entry.scripts} <= set(SCRIPTS)
