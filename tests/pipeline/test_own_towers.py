"""Towers of a factory: trained, distilled, evaluated and exported like the built-in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from recdistill.errors import ConfigError
from recdistill.pipeline.config import StudentConfig
from recdistill.pipeline.models.model_building import build_student, load_student
from recdistill.pipeline.preparation.prepared_data import Prepared
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made, report_of, weights

pytestmark = pytest.mark.slow


def student(function="build", module="tests.pipeline.own_towers", **keys):
    others = "".join(f", {key}={value}" for key, value in keys.items())
    return (
        f"student={{factory='{module}:{function}', steps=20, batch_size=32, "
        f"learning_rates=[0.01]{others}}}"
    )


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """The folder of a run of own towers on the data of the tiny run, and its steps."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(tiny_run.folder / "runs", folder / "runs")
    settings = student(), small_pipelines.TIMED, "export.storage=int8"
    return folder, go(folder, *settings, until="export")


def test_own_towers_go_through_all_steps(run):
    folder, done = run
    assert made(done) == ["baseline", "distill", "evaluate", "export"]
    # The report has the metric of the rounded items, which the export serves.
    judged = done["export"].record["judged"]
    assert judged["served"] == pytest.approx(judged["reported"], abs=1e-9)
    for step in ("baseline", "distill"):
        arrays = weights(done[step].path)
        # Two embeddings, and a dense layer of 6 inputs with its bias.
        shapes = sorted(array.shape for array in arrays.values() if array.ndim)
        assert shapes.count((62, 4)) == 2
        assert (6, 4) in shapes
        assert done[step].record["parameters"] == 2 * 62 * 4 + 6 * 4 + 4
    report = report_of(folder)
    assert report.models["distilled"].metrics["mrr"].value > 0
    assert set(report.speedup) == {"20"}
    for name in ("distilled", "teacher"):
        assert report.models[name].latency_ms["20"].p50 > 0
    operations = {name: each.flops_per_query for name, each in report.models.items()}
    assert operations["popularity"] is None
    assert operations["baseline"] == operations["distilled"] > 0
    assert operations["teacher"] > operations["distilled"]
    own = report.config["student"]
    assert own["factory"] == "tests.pipeline.own_towers:build"


def test_the_export_of_own_towers_has_the_query_embedding_of_the_student(run):
    folder, done = run
    loaded = tf.saved_model.load(done["export"].record["path"])
    prepared = Prepared(done["prepare"].path)
    raw = {k: tf.constant(v) for k, v in prepared.raw_queries(3).items()}
    config = small_pipelines.load(folder, student()).student
    live = load_student(config, prepared, done["distill"].path)
    signature = loaded.signatures["encode_query"]
    inputs = {k: raw[k] for k in signature.structured_input_signature[1]}
    query = prepared.schema.for_student().lookup_query(
        {k: v for k, v in prepared.raw_queries(3).items()}
    )
    np.testing.assert_allclose(
        signature(**inputs)["embedding"], live.encode_query(query), rtol=1e-5, atol=1e-7
    )


def test_a_changed_factory_trains_again_and_an_unchanged_one_does_not(
    copied, tmp_path, monkeypatch
):
    source = Path(__file__).with_name("own_towers.py").read_text()
    module = tmp_path / "towers_of_mine.py"
    module.write_text(source)
    monkeypatch.chdir(tmp_path)
    override = student(module="towers_of_mine")
    assert made(go(copied, override, until="baseline")) == ["baseline"]
    assert made(go(copied, override, until="baseline")) == []
    module.write_text(source + "\n# changed\n")
    assert made(go(copied, override, until="baseline")) == ["baseline"]


class TestErrors:
    @pytest.fixture
    def prepared(self, tiny_run):
        return Prepared(tiny_run.artefacts["prepare"].path)

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            ("one_tower", "must return a query tower and a candidate tower"),
            ("different_widths", "5"),
            ("unknown_feature", "mood"),
            ("nothing", "must be a function in its module"),
        ],
    )
    def test_towers_that_do_not_fit_are_a_config_error(self, prepared, function, said):
        factory = f"tests.pipeline.own_towers:{function}"
        with pytest.raises(ConfigError, match=r"`student\.factory` must return") as e:
            build_student(StudentConfig(factory=factory), prepared)
        assert said in str(e.value)

    def test_settings_of_the_built_in_towers_are_an_error(self, tmp_path):
        with pytest.raises(ConfigError, match="`dim` is a setting of the built-in"):
            small_pipelines.load(tmp_path, student(dim=8))

    def test_the_penalty_on_embeddings_applies_to_own_towers(self, tmp_path):
        assert small_pipelines.load(tmp_path, student(l2=0.1)).student.l2 == 0.1
