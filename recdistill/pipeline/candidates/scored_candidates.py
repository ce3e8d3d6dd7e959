"""Lists of a teacher with partial scores: their candidates are the scored ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.batches import Lists
from recdistill.data.shard_reading import in_order, read_lists
from recdistill.errors import ScoreError, TeacherError
from recdistill.pipeline.candidates.candidate_selection import of_width
from recdistill.pipeline.candidates.retriever import Candidates
from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.teachers import ScoreTable
from recdistill.teachers.score_table import keep_scored_by_all

LISTS_AT_ONCE = 4_096


@dataclass(frozen=True)
class ScoredTrainingLists:
    """The lists for the student that have at least two scored candidates.

    Attributes:
        tables: The partial scores.
        rows: The rows of these lists by shard.
        width: Number of candidates of the longest list.
    """

    tables: Sequence[ScoreTable]
    rows: Mapping[Path, np.ndarray]
    width: int

    @classmethod
    def find(
        cls,
        shards: Sequence[Path],
        unlabelled: Sequence[Path],
        tables: Sequence[ScoreTable],
    ) -> ScoredTrainingLists:
        """Searches the shards of the training lists, and of unlabelled lists.

        Raises:
            ScoreError: If no training list has two scored candidates.
        """
        rows, width = {}, 0
        for path in (*shards, *unlabelled):
            lists = read_lists(path, with_raw=False)
            scored = keep_scored_by_all(lists, tables)
            length = np.zeros(0, int)
            if scored.scored_candidates is not None:
                left = scored.scored_candidates.distinct().difference(scored.excluded)
                length = np.diff(left.offsets)
            kept = scored.list_id[length > 1]
            rows[path] = np.flatnonzero(np.isin(lists.list_id, kept))
            width = max(width, int(length.max(initial=0)))
        if not any(len(rows[path]) for path in shards):
            raise ScoreError(
                "The teacher must have scores for at least two candidates of a "
                "training list. Received: no such list"
            )
        return cls(tables, rows, width)

    def keep_scored(self, lists: Lists) -> Lists:
        """The lists with their scored candidates only."""
        return keep_scored_by_all(lists, self.tables)

    def candidates(self, lists: Lists, keys: np.ndarray, file: str) -> Candidates:
        """The scored items of each list that are not excluded, in ascending order.

        Args:
            lists: The result of `keep_scored`.
            keys: Not used: no candidate is random.
            file: Not used.
        """
        scored = lists.scored_candidates
        if scored is None:
            raise ValueError("`lists` must have scored candidates. Received: none")
        items = scored.distinct().difference(lists.excluded).padded(-1)
        ones = np.ones(len(lists), "float32")
        return Candidates(of_width(items, self.width), 0, ones)


def lists_to_evaluate(
    prepared: Prepared,
    split: str,
    tables: Sequence[ScoreTable] = (),
    limit: int | None = None,
    seed: int = 0,
    sampled: SampledCandidates | None = None,
) -> Iterator[Lists]:
    """The lists of a split with the candidates among which models are compared.

    These are the shown items, if the data says what was shown, and else the catalogue.
    With partial scores they are the scored ones among them, and only lists with a
    scored positive can be evaluated; then `limit` is ignored. Test lists are those of
    `Prepared.evaluated_rows`, or all with partial scores.

    Args:
        prepared: The prepared data.
        split: "valid" or "test".
        tables: The partial scores of the teacher.
        limit: Number of lists, sampled from these; None for all of them.
        seed: Seed of that sample.
        sampled: Random candidates of the test lists in place of the catalogue.

    Yields:
        Lists, a few thousand at a time.

    Raises:
        TeacherError: If no list has a scored positive. The message says whether the
            ids of a table are unknown.
    """
    total, limit = 0, None if tables else limit
    rows = prepared.evaluated_rows if split == "test" and not tables else None
    pieces = in_order(prepared.shards(split), LISTS_AT_ONCE, limit, seed, rows)
    for lists in pieces:
        lists = lists.with_listed_candidates()
        if sampled is not None:
            lists = sampled.restrict(lists)
        if tables:
            lists = keep_scored_by_all(lists, tables).with_scored_positives()
        total += len(lists)
        if len(lists):
            yield lists
    if not total:
        _reject_unknown_ids(prepared, tables)
        raise TeacherError(
            f"The teacher must have scores for {split} lists, including their "
            "positive, so that it can be evaluated. Received: no such list. Score the "
            "candidates of some held-out lists as well."
        )


def _reject_unknown_ids(prepared: Prepared, tables: Sequence[ScoreTable]) -> None:
    """Checks that each table has the id of a query, or list, of the data.

    Raises:
        TeacherError: Names an id of the table and one of the data.
    """
    for table in tables:
        unknown = _unknown_id(prepared, table)
        if unknown is not None:
            kind, example = unknown
            raise TeacherError(
                f"No row of the {table.label} has the id of a {kind} of the data. The "
                f"rows have for example {table.keys[0].as_py()!r}, and the data has "
                f"{example!r}. Write the ids in the same form in both."
            )


def _unknown_id(prepared: Prepared, table: ScoreTable) -> tuple[str, str] | None:
    """Kind and example of the data's ids; None if the table has one of them."""
    example = None
    for split in ("train", *prepared.held_out):
        for path in prepared.shards(split):
            lists = read_lists(path, with_raw=False)
            keys = pa.array([*lists.list_key], pa.string())
            if pc.any(pc.is_in(keys, value_set=table.keys)).as_py():
                return None
            if len(keys):
                kind = "query" if lists.source_list is None else "list"
                example = kind, keys[0].as_py()
    return example
