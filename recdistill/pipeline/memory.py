"""Estimates of the memory that a run needs, compared with the available memory.

Without this check, a size in the configuration that is far too large would end the
process without an error message, possibly after hours of work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from recdistill.errors import ConfigError

if TYPE_CHECKING:
    from recdistill.features.encoders import Encoder
    from recdistill.features.schema import Schema
    from recdistill.models.linear_fitting import LinearForm
    from recdistill.pipeline.config import StudentConfig
    from recdistill.pipeline.config.dataset_section import SyntheticConfig
    from recdistill.pipeline.config.teacher_section import AttentionConfig

FLOAT = 4
"""Bytes of a weight or of a score."""

COPIES = 4
"""Copies of a weight in training: itself, its gradient and Adam's two moments."""

ITEM_BYTES, QUERY_BYTES = 1_200, 600
"""Bytes of an item and of a query of generated data, measured."""


def require(needed: int, what: str, remedy: str) -> None:
    """Checks that the machine has enough memory.

    Args:
        needed: Bytes, at least.
        what: What needs them.
        remedy: What the user can change.

    Raises:
        ConfigError: If the machine has less memory.
    """
    there = available()
    if there is not None and needed > there:
        raise ConfigError(
            f"{what} would need at least {_shown(needed)} of memory, and "
            f"only {_shown(there)} is available. {remedy}"
        )


def available() -> int | None:
    """Bytes of memory that this process can still allocate; None if unknown."""
    found = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        # The system gives up the cache of files that were not read lately.
        cached = sum(
            int(line.split()[1])
            for line in _lines(group / "memory.stat")
            if line.startswith("inactive_file ")
        )
        found.append(limit - used + cached)
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def require_for_synthetic_data(config: SyntheticConfig) -> None:
    """Checks the memory for generated data.

    Raises:
        ConfigError: If the machine has less memory.
    """
    require(
        config.items * ITEM_BYTES + config.queries * QUERY_BYTES,
        f"Generated data with {config.items:,} items and {config.queries:,} queries",
        "Lower `dataset.synthetic.items` or `dataset.synthetic.queries`.",
    )


def require_for_student(config: StudentConfig, schema: Schema) -> None:
    """Checks the memory for the built-in towers in training.

    Raises:
        ConfigError: If the machine has less memory.
    """
    query = [e for e in schema.query if not e.spec.teacher_only]
    candidate = [e for e in schema.candidate if not e.spec.teacher_only]
    rows = sum(_rows(query)) + sum(_rows(candidate))
    width = config.embedding_dim * len(query)
    layers = pairwise([width, *config.hidden, config.dim])
    dense = sum(before * after for before, after in layers)
    dense += config.embedding_dim * len(candidate) * config.dim
    require(
        (rows * config.embedding_dim + dense) * FLOAT * COPIES,
        "Training the student",
        "Lower `student.embedding_dim`, `student.hidden` or `student.dim`, or the "
        "`buckets` of a text feature.",
    )


def require_for_attention(config: AttentionConfig, schema: Schema) -> None:
    """Checks the memory for a teacher with self-attention in training.

    Raises:
        ConfigError: If the machine has less memory.
    """
    rows = sum(_rows(schema.query)) + sum(_rows(schema.candidate))
    rows += config.attention_length
    features = len(schema.query) + len(schema.candidate)
    dense = config.dim * config.dim * (features + 8 * config.blocks)
    require(
        (rows * config.dim + dense) * FLOAT * COPIES,
        "Training the teacher",
        "Lower its `dim`, or the `buckets` of a text feature.",
    )


def require_for_linear_model(form: LinearForm, items: int) -> None:
    """Checks the memory for fitting a linear item model.

    Raises:
        ConfigError: If the machine has less memory.
    """
    require(
        form.fit_bytes,
        f"The linear item model of {items:,} items in the form {form.form}",
        "Lower its `memory_gib`, so that it takes a smaller form, or its `max_items`.",
    )


def require_for_transitions(items: int, pair_bytes: int) -> None:
    """Checks the memory for fitting a transition model.

    Args:
        items: Number of items.
        pair_bytes: Bytes for each pair of items.

    Raises:
        ConfigError: If the machine has less memory.
    """
    require(
        items * items * pair_bytes,
        f"The transition model of {items:,} items",
        "Lower its `memory_gib`, so that it has fewer items.",
    )


def require_for_batches(batch_size: int, list_size: int, key: str) -> None:
    """Checks the memory for one training batch.

    Args:
        batch_size: Number of lists.
        list_size: Number of candidates of a list.
        key: The key of the batch size, for the error.

    Raises:
        ConfigError: If the machine has less memory.
    """
    require(
        # Scores, their gradient, labels and weights, and a mask of one byte.
        batch_size * list_size * (4 * FLOAT + 1),
        f"A batch of {batch_size:,} lists with {list_size:,} candidates",
        f"Lower `{key}`, or use retrieved lists with `lists.size`.",
    )


def require_for_query_features(rows: int, query: Iterable[Encoder]) -> None:
    """Checks the memory for the query features of one partition.

    Args:
        rows: Number of lists.
        query: The encoders of the query's features.

    Raises:
        ConfigError: If the machine has less memory.
    """
    for encoder in query:
        length = getattr(encoder.spec, "length", 0)
        require(
            rows * length * 2 * 8,
            f"The feature {encoder.feature!r} with {length:,} values for each of "
            f"{rows:,} lists",
            f"Lower `query.{encoder.feature}.length`.",
        )


def _rows(encoders: Iterable[Encoder]) -> list[int]:
    """Rows of the embedding tables; features without one are left out."""
    sizes = (getattr(encoder, "size", None) for encoder in encoders)
    return [size for size in sizes if isinstance(size, int)]


def _shown(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None
