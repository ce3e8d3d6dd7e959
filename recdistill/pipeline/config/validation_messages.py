"""Messages for validation errors: each names the key as in the file, and the fix."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """All problems of a document in one paragraph.

    Args:
        error: The error of pydantic.
        root: The model that the document was validated against.
    """
    problems = [
        problem
        for problem in error.errors(include_url=False)
        # An earlier key of the section is invalid, which has a message of its own.
        if problem["type"] != "default_factory_not_called"
    ]
    located = [_locate(problem["loc"], root) for problem in problems]
    sentences = []
    for (place, _), problem in zip(located, problems, strict=True):
        if problem["type"] == "too_short" and any(
            other.startswith(f"{place}[") for other, _ in located
        ):
            continue  # Its entries exist but are invalid, which is reported for each.
        section = _locate(problem["loc"][:-1], root)[1]
        sentences.append(_sentence(place, problem, section))
    text = "; ".join(sentences).rstrip(".")
    return text if text.endswith("?") else f"{text}."


def shortened(value: Any) -> str:
    """A value for an error message: one line, shortened if it is long.

    Examples:
        >>> shortened([1] * 10_000)
        '[1, 1, 1, 1, 1, 1, 1, 1, ...]'
    """
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = 120
    cut.maxlist = cut.maxtuple = cut.maxdict = 8
    return cut.repr(value)


def _sentence(place: str, problem: Any, section: Any) -> str:
    kind, received = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        known = list(getattr(section, "model_fields", {}))
        hint = _nearest(problem["loc"][-1], known) or f"known: {', '.join(known)}"
        return f"`{place}` is not a known key ({hint})"
    if kind == "missing":
        return f"`{place}` is missing"
    if kind == "union_tag_not_found":
        return f"`{place}.kind` is missing"
    if kind == "union_tag_invalid":
        expected, tag = problem["ctx"]["expected_tags"], problem["ctx"]["tag"]
        hint = _nearest(tag, [each.strip("' ") for each in expected.split(",")])
        hint = f" ({hint})" if hint else ""
        return f"`{place}.kind` must be one of {expected}. Received: {tag!r}{hint}"
    message: str = problem["msg"].removeprefix("Value error, ")
    if "Received" not in message and not isinstance(received, dict):
        message += f". Received: {shortened(received)}"
    if not place:
        return message
    # "Input should be …" and "`dim` must be …" are about the key itself.
    rule = re.sub(r"^(Input|String|Tuple|Value) should ", "must ", message)
    rule = rule.replace("a valid tuple", "an array")
    rule = rule.removeprefix(f"`{problem['loc'][-1]}` ")
    return f"`{place}` {rule}" if rule != message else f"`{place}`: {message}"


def _nearest(name: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else ""


def _locate(location: Iterable[Any], root: type[BaseModel]) -> tuple[str, Any]:
    """The key as the file has it, such as `teacher.members[0].dim`, and its type."""
    keys = ""
    section: Any = root
    for step in location:
        if get_origin(section) is Annotated:
            section = get_args(section)[0]
        inside = get_args(section)
        if get_origin(section) in (Union, UnionType):
            # Pydantic adds the tag of a union to the location; it is not a key.
            section = next((each for each in inside if _kind(each) == step), None)
            continue
        if isinstance(step, int):
            keys += f"[{step}]"
        elif step != "[key]":
            shown = step if step.isidentifier() else json.dumps(step)
            keys += f".{shown}" if keys else shown
        fields = getattr(section, "model_fields", {})
        if step in fields:
            section = fields[step].annotation
        elif get_origin(section) in (dict, tuple):
            section = inside[1] if get_origin(section) is dict else inside[0]
        else:
            section = None
    return keys, section


def _kind(section: Any) -> str | None:
    """The tag of a section that is one of several kinds."""
    field = getattr(section, "model_fields", {}).get("kind")
    return None if field is None else field.default
