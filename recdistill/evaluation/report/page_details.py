"""The content of the report page that is not in `report.json`, as a JSON file.

With it, `recdistill report` renders the page again without the models and the data.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from recdistill.atomic import atomic_write
from recdistill.errors import ReportError
from recdistill.evaluation.report.page import PageDetails

_DETAILS = TypeAdapter(PageDetails)


def save_details(details: PageDetails, path: Path) -> None:
    """Writes the details as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_DETAILS.dump_json(details))


def load_details(path: Path) -> PageDetails:
    """Reads what `save_details` wrote.

    Raises:
        ReportError: If an earlier or later version with other content wrote the file.
    """
    try:
        return _DETAILS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReportError(
            f"{path} does not have the content of a report page: "
            f"{error.errors()[0]['msg']}. Run `recdistill evaluate` again."
        ) from error
