"""Templates of the pages, in which a missing value is an error, and their style."""

from __future__ import annotations

import re
from importlib import resources

import jinja2


def page_template(name: str) -> jinja2.Template:
    """The template in a file of this folder.

    Args:
        name: Name of the file.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_source(name))


def page_style() -> str:
    """The `style` element of the report page, which other pages share."""
    found = re.search(r"<style>.*?</style>", _source("page.html.jinja"), re.DOTALL)
    if found is None:
        raise RuntimeError("The template of the report page has no style sheet.")
    return found[0]


def _source(name: str) -> str:
    folder = resources.files("recdistill.evaluation.report")
    return folder.joinpath(name).read_text(encoding="utf-8")
