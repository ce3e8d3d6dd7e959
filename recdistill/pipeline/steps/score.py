"""The step `score`: the teacher's scores of the training lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, compared, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.candidates.scored_candidates import ScoredTrainingLists
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.scores.content_hashes import ContentHashes
    from recdistill.pipeline.scores.score_parts import ScoredPart, ScorePart
    from recdistill.pipeline.scores.score_writing import Proposer


class Score(Step):
    """Stores the teacher's scores of the training lists."""

    name = "score"
    summary = "Store the teacher's scores of the training lists."
    shared = True
    resumes = True
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The lists and the teacher; for retrieved lists also the baseline."""
        if config.lists.size == "retrieved":
            return ("prepare", *compared(config))
        return ("prepare", "teacher")

    def before(self, run: RunContext) -> None:
        """Stops a run whose teacher's scores are unusable."""
        from recdistill.pipeline.evaluation.gate import check_usable

        check_usable(run.config, run.artefacts["teacher"], run.training_overlap)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Settings of the scored lists and of the stored candidates."""
        lists = {"lists": run.config.lists.first_round}
        found = {**lists, **sections(run.config, "seed")}
        if not run.reranks:
            return found
        retrieved = run.config.evaluate.retrieved
        return {**found, "retrieved": retrieved, **run.validation_inputs}

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes files of scored lists, one by one."""
        import numpy as np
        import pyarrow.parquet as pq

        from recdistill.pipeline.candidates.retriever import most_observed
        from recdistill.pipeline.evaluation.gate import CheckedScorer
        from recdistill.pipeline.run_context import VALID
        from recdistill.pipeline.scores.score_store import examine_stored

        record = write_scores(run, draft, _first_round)
        if run.reranks:
            # The gate compares it with the baseline, whose items it re-ranks.
            validation = run.retrieved_validation()
            total = sum(map(len, validation.lists))
            score = run.scorer(run.teacher_model, "Evaluating the teacher", total)
            rows = validation.rows(CheckedScorer(score))
            pq.write_table(rows, draft.path / VALID)
        run.progress("Examining the scores", 0, None)
        items = run.prepared.catalogue_size
        found = examine_stored(draft.path, items)
        long = 0
        if run.config.lists.size == "retrieved":
            sizes = run.prepared.observed_sizes
            long = int(np.sum(sizes > most_observed(sizes, run.config.lists)))
        return {
            **record,
            "size": run.config.lists.size,
            "items": items,
            "long_lists": long,
            "doctor": found.model_dump(mode="json"),
        }

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Problems of the stored scores, or of the settings that they are used with."""
        from recdistill.pipeline.scores.score_store import rounding_warning

        record = run.artefacts["score"].record
        for warning in (
            rounding_warning(run.config.lists, record),
            run.soft_targets.warning,
        ):
            if warning is not None:
                yield warning

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """How lists were made, kept scores, and values unknown to the teacher."""
        if record["size"] == "retrieved":
            each = record["candidates"] / max(1, record["lists"])
            yield (
                f"retrieved lists: {each:.0f} of {record['items']:,} items are "
                "candidates of a list, on average"
            )
            if record.get("long_lists"):
                yield (
                    f"{record['long_lists']:,} training lists are much longer than the "
                    "others; only the first of their observed items are stored"
                )
        if record.get("unlabelled"):
            yield (
                f"{record['unlabelled']:,} of these lists are unlabelled: the student "
                "learns their scores only"
            )
        yield from kept_in_words(record)
        from recdistill.features.unknown_values import in_words

        shares = in_words(record["unknown"])
        if shares:
            now = ", in the lists scored now" if record["kept_scores"] else ""
            yield f"values unknown to the teacher{now}: {shares}"
        uncounted = ", ".join(record.get("uncounted", ()))
        if uncounted:
            yield (
                f"values unknown to the teacher cannot be counted for {uncounted}, "
                "because it does not declare their vocabulary"
            )

    def gist(self, record: Mapping[str, Any]) -> str:
        """Number of lists, and the score doctor's proposal."""
        from recdistill.pipeline.scores.score_store import lists_in_words

        lists = lists_in_words(record)
        proposal = record["doctor"]["proposal"]
        if proposal is None:
            return f"{lists}; all scores of a list are equal"
        found = len(record["doctor"]["findings"])
        problems = f"{found} finding{'s' * (found != 1)}, " if found else ""
        transform, temperature = proposal["transform"], proposal["temperature"]
        return f"{lists}; doctor: {problems}{transform} at {temperature:g}"


OpenProposer = Callable[["RunContext"], "Proposer | None"]
"""Opens what proposes the candidates of lists, in the process that scores them."""


def kept_in_words(record: Mapping[str, Any]) -> Iterator[str]:
    """How many scores of earlier runs were kept, and the time that this saved."""
    kept = record["kept_scores"]
    if not kept:
        return
    line = f"{kept:,} of {kept + record['new_scores']:,} scores kept from earlier runs"
    saved = record["saved_seconds"]
    if saved is not None:
        line += f", which saved about {saved:.3g} s of the teacher's time"
    yield line


def write_scores(
    run: RunContext, draft: Draft, open_proposer: OpenProposer
) -> dict[str, Any]:
    """Writes the files of a score store that are missing.

    Args:
        run: The run.
        draft: The unfinished store.
        open_proposer: Opens the proposer; a function of a module, which the workers of
            a cluster can import.

    Returns:
        The record of `write_store`; `saved_seconds`, the time that the teacher would
        have taken for the kept scores, by the time that it took for them; the
        `identity` of what they depend on; and values that are unknown to the teacher,
        in the lists that were scored now.
    """
    from recdistill.pipeline.candidates.scored_candidates import ScoredTrainingLists
    from recdistill.pipeline.models.model_building import members_of
    from recdistill.pipeline.preparation.prepared_data import UNLABELLED
    from recdistill.pipeline.preparation.unknown_features import unknown_to_teacher
    from recdistill.pipeline.scores.content_hashes import ContentHashes, scores_apart
    from recdistill.pipeline.scores.earlier_scores import saved_seconds, write_items
    from recdistill.pipeline.scores.score_parts import planned_parts, write_store
    from recdistill.pipeline.scores.score_store import UNLABELLED_SCORES

    tables, settings, seed = run.score_tables, run.config.lists, run.config.seed
    shards, unlabelled = run.prepared.shards("train"), []
    if settings.unlabelled:
        unlabelled = run.prepared.shards(UNLABELLED)
    scored = None
    if tables:
        scored = ScoredTrainingLists.find(shards, unlabelled, tables)
    teacher = run.cross_fitted_teacher
    hashes, identity = ContentHashes.of(run.prepared, teacher), _identity(run)
    # The runs of the work folder and, in a search, its other trials.
    folders = {run.root.parent, draft.final.parent.parent}
    steps = ("closure", "score")
    stores = sorted(p for f in folders for s in steps for p in f.glob(f"*/{s}-*"))
    open_writer = partial(
        _open_writer,
        open_proposer=open_proposer,
        scored=scored,
        hashes=hashes,
        identity=identity,
        apart=scores_apart(teacher),
        # Looking up a table costs no more than looking up a store.
        stores=[] if scored else stores,
    )
    write_items(draft.path, hashes.items)
    parts = planned_parts(shards, scored, settings.contexts, hashes, seed)
    more = planned_parts(
        unlabelled, scored, settings.unlabelled, hashes, seed, UNLABELLED_SCORES
    )
    record, results = write_store(
        draft.path,
        [*parts, *more],
        lambda parts: run.engine.map(open_writer, parts, run),
        run.progress,
    )
    return {
        **record,
        "unlabelled": sum(len(part.rows) for part in more),
        "saved_seconds": saved_seconds(record["kept_scores"], stores, identity),
        "identity": identity,
        **unknown_to_teacher(
            members_of(teacher),
            [result.unknown for result in results],
            not record["kept_scores"] and len(results) == len(parts) + len(more),
        ),
    }


def _open_writer(
    run: RunContext,
    open_proposer: OpenProposer,
    scored: ScoredTrainingLists | None,
    hashes: ContentHashes,
    identity: str,
    apart: bool,
    stores: Sequence[Path],
) -> Callable[[ScorePart], ScoredPart]:
    """Opens all that is needed to score a file, once in each process.

    Args:
        run: The run.
        open_proposer: See `write_scores`.
        scored: The lists with partial scores, if the teacher has such scores.
        hashes: Hashes of what the teacher reads.
        identity: From `_identity`.
        apart: As for `ScoreWriter`.
        stores: Folders of score stores, whose scores are kept.
    """
    from dataclasses import replace

    from recdistill.pipeline.models.model_building import (
        members_of,
        needs_training_rows,
    )
    from recdistill.pipeline.preparation.unknown_features import (
        count_anew,
        take_unknown,
    )
    from recdistill.pipeline.scores.earlier_scores import EarlierScores
    from recdistill.pipeline.scores.score_writing import ScoreWriter

    config, prepared, teacher = run.config, run.prepared, run.cross_fitted_teacher
    found = run.artefacts["prepare"].record
    lists = min(found["lists"]["train"], config.lists.contexts)
    lists += min(found.get("unlabelled", 0), config.lists.unlabelled)
    write = ScoreWriter(
        run.scorer(teacher, "Scoring with the teacher", lists),
        prepared,
        config.lists,
        config.seed,
        hashes,
        open_proposer(run),
        needs_training_rows(config, prepared),
        scored,
        identity,
        EarlierScores(stores, identity, hashes.items) if stores else None,
        apart,
    )
    members = members_of(teacher)
    # The same counts in each process, whatever it has done for other steps.
    count_anew(members)
    return lambda part: replace(write(part), unknown=take_unknown(members))


def _first_round(run: RunContext) -> Proposer | None:
    """The candidates of the first round; None if lists are not retrieved."""
    from recdistill.pipeline.candidates.retriever import Retriever, most_observed
    from recdistill.pipeline.ranking.two_tower_catalogue import TwoTowerCatalogue
    from recdistill.pipeline.scores.content_hashes import hashes_of_ids

    lists, prepared = run.config.lists, run.prepared
    if lists.size != "retrieved":
        return None
    baseline = TwoTowerCatalogue(run.student_model("baseline"))
    return Retriever(
        partial(baseline.top, count=lists.retriever_top),
        prepared.popularity,
        lists,
        most_observed(prepared.observed_sizes, lists),
        hashes_of_ids(prepared),
    )


def _identity(run: RunContext) -> str:
    """Identity of all that a score depends on, except its query and its candidates."""
    from recdistill.atomic import fingerprint
    from recdistill.pipeline.config.external_teacher_section import (
        RemoteTeacherConfig,
    )
    from recdistill.pipeline.config.teacher_section import is_trained, members_of
    from recdistill.pipeline.models.weights_file import MEMBER_WEIGHTS, WEIGHTS

    lists = run.config.lists
    files = run.artefacts["teacher"].record["sha256"]
    weights = (WEIGHTS, MEMBER_WEIGHTS)
    identity = {
        "teacher": run.teacher_identity,
        "weights": {k: v for k, v in files.items() if k.endswith(weights)},
        "lists": [lists.size, lists.scores_dtype],
    }
    members = members_of(run.config.teacher)
    if any(map(is_trained, members)):
        # It reads the features of the items in a history as well.
        identity["items"] = run.prepared.items_digest
    if any(isinstance(m, RemoteTeacherConfig) and m.version is None for m in members):
        # The server may have loaded another version since the data of another day.
        identity["run"] = run.artefacts["teacher"].key
    return fingerprint(identity)
