"""Unlabelled lists: the teacher scores them, and the student learns the scores."""

import numpy as np
import pandas as pd
import pytest

from recdistill.evaluation.report.terminal_tables import soft_targets_line
from recdistill.pipeline.config import parse_config
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.training.trainer import Trainer
from tests import small_pipelines
from tests.pipeline.score_stores import stored
from tests.pipeline.test_run_from_python import COLUMNS, document_in, small_tables
from tests.pipeline.tiny_runs import made, weights

pytestmark = pytest.mark.slow

REQUESTS = 200


@pytest.fixture(scope="module")
def tables():
    """A log, and requests of its users at the times of the log."""
    tables = small_tables()
    requests = tables["interactions"].sample(REQUESTS, random_state=1)
    # Between interactions, so that no request is one.
    requests = requests.assign(when=requests["when"] + 1).drop(columns="what")
    return {**tables, "unlabelled": requests}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("unlabelled")


def steps(folder, tables, until="distill", warn=small_pipelines.quiet, **lists):
    document = document_in(folder)
    document["dataset"] = {"reader": "frames", "columns": COLUMNS}
    document["lists"] |= lists
    done = {}
    config = parse_config(document)
    Pipeline(config, tables=tables, announce=done.__setitem__, warn=warn).run(until)
    return done


def unlabelled(artefact):
    """The unlabelled lists of a score store by their id."""
    rows = [row for row in stored(artefact.path) if not len(row["candidates"])]
    return {row["list_id"]: row for row in rows}


def test_the_student_learns_the_scores_of_unlabelled_lists(folder, tables):
    done = steps(folder, tables)
    prepared, record = done["prepare"].record, done["score"].record
    assert 50 < prepared["unlabelled"] < REQUESTS
    assert record["unlabelled"] == prepared["unlabelled"]
    assert (
        record["lists"] == min(prepared["lists"]["train"], 600) + record["unlabelled"]
    )
    rows = unlabelled(done["score"])
    assert len(rows) == record["unlabelled"]
    for row in rows.values():
        # The linear teacher tells items apart, except the seen ones, without scores.
        scores = np.array(row["teacher_scores"], float)
        assert len(set(scores)) > 2
        assert not scores[row["seen"]].any()
    part = done["distill"].record["soft_targets"]
    said = soft_targets_line(part)
    assert said.endswith(f"; also on {record['unlabelled']} unlabelled lists")
    without = steps(folder, tables, unlabelled=0)
    assert made(without) == ["score", "distill"]
    assert not unlabelled(without["score"])
    assert without["score"].record["kept_scores"] > 0
    learned, other = (weights(each["distill"].path) for each in (done, without))
    assert any(np.any(learned[name] != other[name]) for name in learned)


def test_requests_that_are_all_too_late_give_a_warning(tmp_path, tables):
    late = tables["unlabelled"].assign(when=tables["interactions"]["when"].max() + 1)
    warned = []
    done = steps(
        tmp_path, {**tables, "unlabelled": late}, until="prepare", warn=warned.append
    )
    assert done["prepare"].record["unlabelled"] == 0
    assert any("None of the 200 requests" in text for text in warned)


def test_a_smaller_number_is_a_sample_of_a_larger_one(folder, tables):
    few, more = (
        unlabelled(steps(folder, tables, until="score", unlabelled=number)["score"])
        for number in (10, 25)
    )
    assert (len(few), len(more)) == (10, 25)
    assert few.keys() < more.keys()


def test_requests_whose_histories_are_empty_give_a_warning(tmp_path, tables):
    misspelled = "x" + tables["unlabelled"]["who"].astype(str)
    new = tables["unlabelled"].assign(who=misspelled)
    document, warned = document_in(tmp_path), []
    # No row of the table of queries is needed.
    document["query"] = {"history": {"kind": "history", "length": 8}}
    document["dataset"] = {"reader": "frames", "columns": COLUMNS}
    both = {**tables, "unlabelled": new}
    pipeline = Pipeline(parse_config(document), tables=both, warn=warned.append)
    pipeline.run("prepare")
    assert any("unlabelled requests have no history" in text for text in warned)


def test_of_a_request_that_is_sent_again_and_again_the_sample_has_its_share(
    folder, tables
):
    again = tables["unlabelled"].iloc[[5]]
    again = again.assign(when=tables["interactions"]["when"].min() - 1)
    both = pd.concat([tables["unlabelled"], *[again] * 150])
    done = steps(folder, {**tables, "unlabelled": both}, until="score", unlabelled=90)
    every = done["prepare"].record["unlabelled"]
    found = [row["query_id"] for row in unlabelled(done["score"]).values()]
    assert len(found) == 90
    share = found.count(str(again["who"].iloc[0])) / 90
    assert abs(share - 150 / every) < 0.15


def test_the_baseline_of_a_teacher_with_partial_scores_has_labelled_lists_only(
    folder, tables, monkeypatch
):
    scores = tables["interactions"][["who"]].drop_duplicates()
    scores = scores.merge(tables["items"][["what"]], how="cross")
    scores["score"] = np.random.default_rng(1).random(len(scores))
    path = folder / "scores.parquet"
    scores.to_parquet(path)
    columns = {"query": "who", "item": "what"}
    document = document_in(folder)
    document["dataset"] = {"reader": "frames", "columns": COLUMNS}
    document["teacher"] = {"kind": "scores", "path": str(path), "columns": columns}
    shards = []

    def batches(self, files, *others, **more):
        shards.append([path.name for path in files])
        return original(self, files, *others, **more)

    original = Trainer.batches
    monkeypatch.setattr(Trainer, "batches", batches)
    Pipeline(parse_config(document), tables=tables).run("distill")
    baseline, student = shards[0], shards[-1]
    assert {"scores-unlabelled-00000.parquet"} < set(student)
    assert set(baseline) == {name for name in student if "unlabelled" not in name}


def test_retrieved_unlabelled_lists_have_a_second_round(folder, tables):
    done = steps(folder, tables, size="retrieved")
    first, second = (unlabelled(done[step]) for step in ("score", "closure"))
    assert first.keys() == second.keys()
    assert len(first) == done["closure"].record["unlabelled"] > 50
    sizes = []
    for name, row in first.items():
        before, after = (
            {k for k in each["scored_candidates"] if k >= 0}
            for each in (row, second[name])
        )
        assert before <= after
        assert not after & set(row["seen"])
        sizes.append(len(after) - len(before))
    assert max(sizes) > 0
    # Lists of the same query do not share their random candidates.
    drawn = [tuple(row["scored_candidates"][-12:]) for row in first.values()]
    assert len(set(drawn)) > len(drawn) / 2
