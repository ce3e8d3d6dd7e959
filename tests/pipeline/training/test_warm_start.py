"""Warm start: new values get the row of unknown values, all other weights stay."""

import os
import shutil
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from pydantic import TypeAdapter

from recdistill.atomic import read_sealed, write_sealed
from recdistill.errors import ConfigError
from recdistill.features.encoders import build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import QuerySpec
from recdistill.pipeline.artefacts.artefact import RECORD
from recdistill.pipeline.config import Config
from recdistill.pipeline.models.model_building import load_student
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.training import warm_start
from recdistill.pipeline.training.warm_start import EarlierRun, start_from
from tests import small_pipelines
from tests.pipeline.tiny_runs import next_day

pytestmark = pytest.mark.slow


def student(rows, width=2, extra=False):
    model = keras.Sequential(
        [
            keras.layers.Embedding(rows, width, name="items"),
            keras.layers.Dense(1, name="dense"),
            *([keras.layers.Dense(1, name="extra")] if extra else []),
        ],
        name="student",
    )
    model.build((None, 1))
    return model


def test_rows_of_new_values_start_as_the_row_of_unknown_values():
    earlier, today = student(3), student(5)
    earlier.layers[0].set_weights([np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])])
    assert start_from(today, earlier, "runs/monday") == {"new_rows": 2}
    table = [[0, 0], [1, 2], [3, 4], [1, 2], [1, 2]]
    np.testing.assert_array_equal(today.layers[0].get_weights()[0], table)
    for new, old in zip(
        today.layers[1].weights, earlier.layers[1].weights, strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("earlier", "part"),
    [
        (student(3, extra=True), "'extra/"),
        (student(3, width=4), "shape"),
        (student(7), "shape"),
    ],
)
def test_a_student_with_other_features_or_widths_is_refused(earlier, part):
    with pytest.raises(ConfigError, match=r"warm_start`.*runs/monday") as error:
        start_from(student(5), earlier, "runs/monday")
    assert part in str(error.value)


def test_a_folder_without_a_finished_student_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finished step `distill`"):
        EarlierRun.open(tmp_path, tmp_path / "own")
    with pytest.raises(ConfigError, match="another run"):
        EarlierRun.open(tmp_path, Path(tmp_path))


def config_of_the_next_day(folder, earlier, **student):
    """The tiny pipeline with a simple teacher, and training that changes nothing."""
    document = tomllib.loads(small_pipelines.CONFIG)
    document["dataset"] = {"reader": "frames"}
    document["teacher"] = {"kind": "linear", "l2": 20.0}
    document["workdir"] = str(folder / "runs")
    frozen = {"steps": 2, "learning_rates": [1e-12], "warm_start": str(earlier)}
    document["student"] |= {**frozen, **student}
    return Config.model_validate(document)


@pytest.fixture(scope="module")
def day_two(tiny_run, tmp_path_factory):
    """The artefacts of a run that starts from the tiny run."""
    done = {}
    config = config_of_the_next_day(tmp_path_factory.mktemp("two"), tiny_run.root)
    pipeline = Pipeline(config, announce=done.__setitem__, tables=next_day())
    pipeline.run("distill")
    assert pipeline.context.seen_before == {"valid": 0, "test": 0}
    return config, done


@pytest.mark.parametrize("step", ["baseline", "distill"])
def test_the_next_day_starts_with_the_weights_of_the_day_before(
    tiny_run, day_two, step
):
    config, done = day_two
    old, new = (Prepared(run["prepare"].path) for run in (tiny_run.artefacts, done))
    before, after = (
        load_student(config.student, data, run[step].path)
        for data, run in ((old, tiny_run.artefacts), (new, done))
    )
    ids = old.schema.items.values.to_pylist()
    today = new.schema.items.values.to_pylist()
    assert today[: len(ids)] == ids
    assert {"new1", "new2"} <= set(today[len(ids) :])
    assert new.item_ids.tolist()[:2] == ["new1", "new2"]  # Other rows, same indices.
    grown = 0
    for weight, earlier in zip(after.weights, before.weights, strict=True):
        weight, earlier = np.asarray(weight), np.asarray(earlier)
        if weight.shape != earlier.shape:
            added = weight[len(earlier) :]
            np.testing.assert_allclose(
                added, np.broadcast_to(earlier[1], added.shape), atol=1e-6
            )
            grown += len(added)
        np.testing.assert_allclose(weight[: len(earlier)], earlier, atol=1e-6)
    started = done[step].record["warm_start"]
    earlier = tiny_run.artefacts[step].record
    assert started["run"] == str(tiny_run.root)
    assert started["earlier_seconds"] == earlier["seconds"]
    # The user ids, and the item ids that history and candidates share.
    assert started["new_rows"] == grown == 3 + len(today) - len(ids)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        # The message of Keras.
        ({"student": {"hidden": (6,)}}, "whose weights do not fit: A total of"),
        ({"query": {"segment": None}}, "Received: user_id, budget, history"),
    ],
)
def test_a_run_with_other_features_or_widths_is_refused(
    tiny_run, day_two, tmp_path, change, part
):
    config, _ = day_two
    student = config.student.model_copy(update=change.get("student", {}))
    query = {k: v for k, v in config.query.items() if k not in change.get("query", {})}
    other = config.model_copy(
        update={"workdir": tmp_path, "student": student, "query": query}
    )
    with pytest.raises(ConfigError, match="warm_start`") as error:
        Pipeline(other, tables=next_day()).run("baseline")
    assert part in str(error.value)
    assert "tiny" in str(error.value)


def schema_of(query):
    id_ = build_encoder("item_id", parse_spec("id"), {"vocabulary": ["a"]})
    return Schema([query], [id_], {}, "item_id")


def parse_spec(kind, **more):
    return TypeAdapter(QuerySpec).validate_python({"kind": kind, **more})


def job(kind, vocabulary=None, **more):
    state = {} if vocabulary is None else {"vocabulary": vocabulary}
    return build_encoder("job", parse_spec(kind, **more), state)


@pytest.mark.parametrize(
    ("now", "then", "same"),
    [
        (("category", ["a", "b", "c"]), ("category", ["a", "b"]), True),
        (("category", ["b", "c", "a"]), ("category", ["a", "b"]), False),
        (("category", ["a"]), ("category", ["a", "b"]), False),
        (("id", ["a", "b"]), ("category", ["a", "b"]), False),
    ],
)
def test_rows_of_tables_must_stand_for_the_same_values(now, then, same):
    schemas = schema_of(job(*now)), schema_of(job(*then))
    if same:
        warm_start._require_same_values(*schemas, "runs/monday")
    else:
        with pytest.raises(ConfigError, match=r"runs/monday.*'job'"):
            warm_start._require_same_values(*schemas, "runs/monday")


def test_words_must_have_the_same_buckets():
    schemas = (schema_of(job("text", buckets=n)) for n in (16, 8))
    with pytest.raises(ConfigError, match="`buckets`"):
        warm_start._require_same_values(*schemas, "runs/monday")


def test_the_start_is_the_student_of_the_report_not_the_one_trained_last(
    tiny_run, tmp_path
):
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run.root, folder)
    trial = folder / "distill-0123456789ab"
    shutil.copytree(tiny_run.artefacts["distill"].path, trial)
    record = read_sealed(trial / RECORD)
    write_sealed(trial / RECORD, {**record, "key": "0123456789ab"})
    os.utime(trial, (4e9, 4e9))
    own = tmp_path / "runs" / "own"
    found = EarlierRun.open(folder, own)
    assert found.distill.key == tiny_run.artefacts["distill"].key
    (folder / "report.json").unlink()
    assert EarlierRun.open(folder, own).distill.path == trial


def test_a_run_that_was_trained_on_the_test_lists_is_refused(tiny_run, tmp_path):
    late = config_of_the_next_day(tmp_path, tiny_run.root)
    # The earlier run held out the last tenth; its validation lists are test lists now.
    split = late.split.model_copy(update={"test": 0.4})
    late = late.model_copy(update={"split": split})
    with pytest.raises(ConfigError, match=r"was trained on interactions of \d"):
        Pipeline(late, tables=next_day()).run("baseline")
