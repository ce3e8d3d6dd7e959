"""Templates of the pages: Jinja with escaping, in which a missing value is an error."""

from __future__ import annotations

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
    folder = resources.files("recdistill.evaluation.report")
    source = folder.joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source)
