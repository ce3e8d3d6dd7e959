"""The reference of the configuration: complete, and not stale."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from recdistill.pipeline.config import Config, reference

ROOT = Path(__file__).parents[3]


def sections(model, seen):
    """A section and all sections inside it."""
    if model not in seen:
        seen.append(model)
        for field in model.model_fields.values():
            for inner in reference._models(field.annotation):
                sections(inner, seen)
    return seen


def test_the_document_is_up_to_date():
    document = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document == reference.render(), (
        "python -m recdistill.pipeline.config.reference > docs/configuration.md"
    )


@pytest.mark.parametrize("section", sections(Config, []), ids=lambda s: s.__name__)
def test_every_key_has_a_description(section):
    missing = [
        key
        for key, field in section.model_fields.items()
        if key != "kind" and not field.description
    ]
    assert missing == []
    assert section.__doc__ and section.__doc__ != BaseModel.__doc__


@pytest.mark.parametrize(
    "row",
    [
        "| `name` | string | required | Name of the run's folder and of the exported ",
        "| `seed` | integer ≥ 0 | `1` | ",
        "| `dropout` | number ≥ 0 and < 1 | `0.2` | ",
        "| `per_query` | integer > 0 | not set | ",
        '| `scores_dtype` | `"float16"`, `"float32"` | `"float16"` | ',
        "| `hidden` | array of integer > 0 | `[128]` | ",
        '| `teacher_temperature` | number > 0 or `"auto"` | `"auto"` | ',
        "| `members` | array of table with `kind` | required | ",
        "| `inputs` | table of strings | not set | ",
        "| `options` | table | `{}` | ",
        "| `popularity_bias` | boolean | `true` | ",
        "| `contexts` | integer > 0 | `100_000` | ",
    ],
)
def test_a_key_has_its_type_limits_and_default(row):
    lines = reference.render().splitlines()
    assert any(line.startswith(row) for line in lines)


def test_keys_that_several_kinds_share_are_listed_once():
    lines = reference.render().splitlines()
    assert sum(line.startswith("| `trained_on` |") for line in lines) == 2
    assert sum(line.startswith("| `layout` |") for line in lines) == 1
    assert lines.count("It also has the keys of all teachers that read tensors.") == 5
