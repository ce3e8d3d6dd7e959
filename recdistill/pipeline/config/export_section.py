"""The `export` section: the SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from recdistill.export.layout import MOST_ROWS, check_loadable
from recdistill.pipeline.config.budget import parse_budget
from recdistill.pipeline.config.section import Section

Storage = Literal["float32", "bfloat16", "int8"]


def _loadable(path: Path) -> Path:
    check_loadable(path)
    return path


def _budget(text: str) -> str:
    parse_budget(text)
    return text


class ExportConfig(Section):
    """The exported SavedModel."""

    path: Annotated[Path, AfterValidator(_loadable)] = Field(
        default=Path("export"),
        description="Folder of all exports, relative to the current directory.",
    )
    top_k: int = Field(
        default=100,
        gt=0,
        description="Number of items that the signature `serving_default` returns.",
    )
    parity_rows: int = Field(
        default=256,
        gt=0,
        description="Number of real queries on which the export must agree with the "
        "live student. An IVF index chooses its number of probes on half of them.",
    )
    index: Literal["exact", "ivf", "auto"] = Field(
        default="exact",
        description="`exact` scores every item. `ivf` (an inverted file) scores only "
        "the items in clusters near the query and finds nearly all top items. `auto` "
        "uses IVF for large catalogues if it is faster.",
    )
    storage: Storage = Field(
        default="float32",
        description="Type of the item embeddings in the index: `bfloat16` takes half "
        "the bytes and `int8` a quarter. Scores are float32 for each, and the report's "
        "metrics are those of the rounded embeddings.",
    )
    target_recall: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description="Share of the true top `top_k` that IVF must find.",
    )
    warm_up_batches: tuple[Annotated[int, Field(gt=0, le=MOST_ROWS)], ...] = Field(
        default=(1, 8),
        min_length=1,
        max_length=166,
        description="Batch sizes of the warm-up requests, six requests each. A server "
        "that batches must allow the largest.",
    )
    budget: Annotated[str, AfterValidator(_budget)] | None = Field(
        default=None,
        description="Largest latency and size of the SavedModel, such as `p99<=2ms` or "
        "`p50<=1ms, bytes<=5MB`: p50, p90, p95 or p99 of one query on one thread, and "
        "the bytes of all files. `run` and `latency` then compare the students of "
        "`[sweep]` and export the one that is best on validation among those within "
        "the budget. No version is published that misses it on the machine of the run.",
    )
    on_device: bool = Field(
        default=False,
        description="Whether the query tower is also exported for LiteRT, which needs "
        "the extra `litert`.",
    )
