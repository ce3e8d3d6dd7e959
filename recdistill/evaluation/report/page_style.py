"""The style sheet of the report page, which other pages share."""

from __future__ import annotations

import re
from importlib import resources


def page_style() -> str:
    """The `style` element of the report page."""
    folder = resources.files("recdistill.evaluation.report")
    source = folder.joinpath("page.html.jinja").read_text(encoding="utf-8")
    found = re.search(r"<style>.*?</style>", source, re.DOTALL)
    if found is None:
        raise RuntimeError("The template of the report page has no style sheet.")
    return found[0]
