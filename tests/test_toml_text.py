"""TOML text: what is written is read back by Python's own reader."""

import tomllib

import pytest

from recdistill.toml_text import as_toml, toml_value


def test_a_configuration_is_read_back_without_the_keys_that_have_no_value():
    config = {
        "seed": 7,
        "dataset": {"keep": 'x == "ü"', "path": None, "columns": {"a b": "c"}},
        "teacher": {"members": [{"kind": "linear", "l2": 1e-05}], "weights": []},
        "student": {"popularity_bias": True, "factory_arguments": {}},
    }
    wanted = {**config, "dataset": {"keep": 'x == "ü"', "columns": {"a b": "c"}}}
    assert tomllib.loads(as_toml(config)) == wanted


@pytest.mark.parametrize("character", [*map(chr, range(32)), "\x7f"], ids=ascii)
def test_control_characters_are_read_back(character):
    table = {"text": f"a{character}", f"a{character}": character, character: [1]}
    assert tomllib.loads(as_toml(table)) == table
    assert tomllib.loads(f"value = {toml_value(table)}") == {"value": table}


def test_keys_and_texts_of_any_alphabet_are_read_back():
    table = {"größe": "größe", "😀": "😀", "": "", '"\\': '"\\', "a\n": "b"}
    assert tomllib.loads(as_toml(table)) == table
