"""reindex: other items, the same towers, and no import of the training code."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from recdistill.atomic import folder_checksums, write_sealed
from recdistill.cli.main import app
from recdistill.errors import DataError, ExportError, NotAnExportError, ReindexError
from recdistill.export import (
    EncodedItems,
    ExportSettings,
    export_towers,
    layout,
    publishing,
)
from recdistill.export.reindexing import _as_in_training, reindex
from recdistill.retrieval.indexing import IndexSettings
from tests.small_models import (
    export_films,
    films_items,
    films_rows,
    films_schema,
    films_student,
)

pytestmark = pytest.mark.slow

NEW = pa.table(
    {
        "item_id": ["item-3", "größe", "映画", *(f"neu-{k}" for k in range(70))],
        "class": ["new", "old", "unseen"] + ["new", "old"] * 35,
        "title": [f"Another title {k % 7}" for k in range(73)],
    }
)
"""More items than before, known and new, without columns for the teacher only."""

ANY = tf.constant([[""]])


@pytest.fixture(scope="module")
def student():
    return films_student(films_schema())


@pytest.fixture(scope="module")
def first(student, tmp_path_factory):
    """A version with an IVF index and the query tower for devices."""
    return export_films(
        tmp_path_factory.mktemp("export"),
        student,
        metadata={"key": "of the step", "fingerprint": "f"},
        index=IndexSettings("ivf", "int8", target_recall=0.9),
        warm_up_batches=(1, 2),
        excluded_inputs=("history",),
        on_device=True,
        types={"clicks": "integer"},
    )


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """The next version, made by a program that cannot import the training code."""
    folder = first.path.parent
    (first.path / layout.BATCHING_PARAMS).write_text("max_batch_size { value: 8 }")
    items = tmp_path_factory.mktemp("items") / "new.parquet"
    pq.write_table(NEW, items)
    program = f"""
import sys
blocked = ["keras", "tf_keras", "keras_rs"]
ours = ("models", "distillation", "pipeline.training", "features.embedding")
ours += ("export.student_export", "export.tower_export")
blocked += [f"recdistill.{{name}}" for name in ours]
sys.modules.update(dict.fromkeys(blocked))
from recdistill.cli.main import main
sys.argv = ["recdistill", "reindex", {str(folder)!r}, "--items", {str(items)!r}]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # 71 of 73 ids and one of 73 classes were not in training; `größe` was.
    assert done.stdout.splitlines() == [
        f"{folder / '2'}: 73 items, towers of version 1",
        "values unknown in training: item_id 97.3 %, class 1.4 %",
    ]
    return folder / "2"


def test_items_whose_values_are_all_unknown_are_an_error_that_shows_both_forms(first):
    folder = first.path.parent
    numbers = NEW.set_column(1, "class", pa.array([7] * 73))
    message = r"column `class`, such as .*'new'.* \(text\). .* 73 values, all unknown"
    with pytest.raises(ReindexError, match=message + r", such as 7 \(integer\)"):
        reindex(folder, numbers, version=1)
    ids = NEW.set_column(0, "item_id", pa.array([f"0{k}" for k in range(73)]))
    with pytest.raises(ReindexError, match=r"column `item_id`, .* such as '00'"):
        reindex(folder, ids, version=1)
    assert layout.versions(folder)[-1] <= 2


def checkpoint(version):
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names}


def test_towers_and_graph_are_copied_byte_for_byte(first, second):
    graph = "saved_model.pb"
    assert (second / graph).read_bytes() == (first.path / graph).read_bytes()
    old, new = checkpoint(first.path), checkpoint(second)
    assert old.keys() == new.keys()
    towers = [name for name in old if name.startswith("weights/")]
    assert len(towers) >= 8
    for name in [*towers, "_CHECKPOINTABLE_OBJECT_GRAPH"]:
        assert np.asarray(old[name]).tobytes() == np.asarray(new[name]).tobytes()
    assert len(new["catalogue/item_ids/.ATTRIBUTES/VARIABLE_VALUE"]) == 73


def test_new_items_are_scored_by_their_features(student, second):
    schema = films_schema().for_student()
    raw = {n: NEW[n].to_pylist() for n in ("item_id", "class", "title")}
    items = student.encode_candidates(schema.lookup_candidates(raw)).numpy()
    rows = {n: v for n, v in films_rows().items() if n != "dwell"}
    queries = student.encode_query(schema.lookup_query(rows), training=False).numpy()
    # The scales of the columns are those of the new items.
    step = np.abs(items).max(axis=0) / 127
    stored = np.round(items / step) * step
    ids = np.broadcast_to(NEW["item_id"].to_numpy(), (12, 73)).astype(object)
    answer = tf.saved_model.load(str(second)).signatures["rank"](
        candidate_ids=tf.constant(ids),
        **{
            n: tf.constant(v, "float32" if v.dtype == float else None)
            for n, v in rows.items()
        },
    )
    assert answer["known"].numpy().all()
    np.testing.assert_allclose(answer["scores"], queries @ stored.T, atol=1e-5)


def test_removed_items_are_unknown_and_k_reaches_the_new_size(second):
    model = tf.saved_model.load(str(second))
    query = {n: v[:1] for n, v in films_rows().items() if n != "dwell"}
    query = {
        n: tf.constant(v, "float32" if v.dtype == float else None)
        for n, v in query.items()
    }
    rank = model.signatures["rank"](candidate_ids=tf.constant([["item-4"]]), **query)
    assert not rank["known"].numpy().any()
    got = model.signatures["recommend"](
        k=tf.constant([73]), exclude_ids=ANY, allow_ids=ANY, **query
    )
    names = {name.decode() for name in got["item_ids"].numpy()[0]}
    assert names == set(NEW["item_id"].to_pylist())
    more = model.signatures["recommend"](
        k=tf.constant([74]), exclude_ids=ANY, allow_ids=ANY, **query
    )
    assert more["item_ids"].shape == (1, 73)


def test_the_manifest_names_the_version_of_the_towers(first, second):
    manifest = layout.read_manifest(second)
    assert manifest["reindexed_from"] == 1
    assert manifest["items"] == 73
    assert manifest["metadata"] == {"fingerprint": "f", "measured_version": 1}
    assert manifest["index"]["kind"] == "ivf"
    assert manifest["index"]["target_recall"] == 0.9
    assert manifest["warm_up"] == first.manifest["warm_up"]
    assert manifest["signatures"] == first.manifest["signatures"]
    added = [layout.MANIFEST.as_posix(), layout.BATCHING_PARAMS.as_posix()]
    assert manifest["sha256"] == folder_checksums(second, added)
    assert layout.verified_manifest(second) == manifest
    # What the operator added to the old version.
    batching = (second / layout.BATCHING_PARAMS).read_text()
    assert batching == "max_batch_size { value: 8 }"
    assert manifest["parity"]["queries"] == 12
    card = (second / layout.MODEL_CARD).read_text(encoding="utf-8")
    assert "those of\nversion 1." in card
    tower = "assets.extra/query_tower.tflite"
    assert (second / tower).read_bytes() == (first.path / tower).read_bytes()


def test_a_version_that_answers_wrongly_is_not_published(first, monkeypatch):
    from recdistill.export import reindexing as module

    write = module._write

    def swapped(old, staging, catalogue):
        ids = catalogue.item_ids
        ids.assign(tf.reverse(ids, [0]))
        write(old, staging, catalogue)

    monkeypatch.setattr(module, "_write", swapped)
    before = layout.versions(first.path.parent)
    with pytest.raises(ExportError, match="must answer as the live model"):
        reindex(first.path.parent, NEW, version=1)
    assert layout.versions(first.path.parent) == before
    assert not list(first.path.parent.glob(".staging-*"))


@pytest.mark.parametrize(
    ("items", "version", "message"),
    [
        (NEW, 9, r"must hold the version 9 of a model.*\[1"),
        (
            NEW.slice(0, 9),
            None,
            r"as many rows as .* returns items, 10.*Received: 9",
        ),
        (NEW.drop_columns(["class"]), None, "`items` must have the column 'class'"),
        (pa.concat_tables([NEW, NEW]), None, "each id once.*Received: 'item-3'"),
    ],
)
def test_items_or_versions_that_do_not_fit_are_refused(first, items, version, message):
    with pytest.raises(ReindexError, match=message):
        reindex(first.path.parent, items, version=version)


def test_a_folder_without_versions_is_refused(tmp_path):
    with pytest.raises(ReindexError, match="no version"):
        reindex(tmp_path, NEW)
    (tmp_path / "1").mkdir()
    with pytest.raises(NotAnExportError, match="with the manifest"):
        reindex(tmp_path, NEW)
    manifest = tmp_path / "1" / layout.MANIFEST
    manifest.parent.mkdir()
    write_sealed(manifest, {"format": 1})
    with pytest.raises(
        ReindexError, match=r"export the model again. Received: format 1"
    ):
        reindex(tmp_path, NEW)


def test_the_command_reports_bad_items_and_missing_versions(tmp_path):
    items = tmp_path / "items.parquet"
    items.write_text("no parquet")
    asked = ["reindex", str(tmp_path), "--items", str(items)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "items.parquet cannot be read" in " ".join(result.stderr.split())
    pq.write_table(films_items(), items)
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "must hold the version of a model" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("values", "spec", "want"),
    [
        (["0012", "true"], tf.TensorSpec([None], tf.string), ["0012", "true"]),
        (["1.5", "$2.00"], tf.TensorSpec([None], tf.float32), [1.5, 2.0]),
        (["1", "2"], tf.TensorSpec([None], tf.int64), [1, 2]),
        (["[1, 2]", "3 4"], tf.TensorSpec([None, 2], tf.float32), [[1, 2], [3, 4]]),
        ([7, 8], tf.TensorSpec([None], tf.int64), [7, 8]),
    ],
)
def test_columns_of_text_files_become_the_inputs_of_a_tower(values, spec, want):
    from recdistill.export.reindexing import _input_column

    got = _input_column(pa.chunked_array([values]), spec)
    assert np.asarray(got).tolist() == want


def test_columns_are_converted_as_in_training(first):
    items = pa.table({"item_id": ["0012", "7.0"], "title": ["a", "b"]})
    got = _as_in_training(items, {"item_id": "integer", "not there": "number"})
    assert got.column_names == items.column_names
    assert got["item_id"].to_pylist() == [12, 7]
    assert first.manifest["schema"]["types"] == {"clicks": "integer"}
    bad = NEW.append_column("clicks", pa.array(["1.5"] * 73))
    with pytest.raises(DataError, match="column `clicks`, row 1: must be a whole num"):
        reindex(first.path.parent, bad, version=1)


def test_files_of_towers_are_copied_and_few_live_scores_are_held(tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("one\ntwo\nthree\n")
    tf.saved_model.save(Words(tmp_path / "words.txt"), str(tmp_path / "tower"))
    words = ["one", "two", "three", "more"]
    old = export_towers(
        tmp_path / "tower",
        tmp_path / "export",
        name="words",
        items=EncodedItems(words, tmp_path / "tower", {"word": words}),
        queries={"word": words},
        settings=ExportSettings(top_k=2, warm_up_batches=(1,)),
    )
    monkeypatch.setattr(publishing, "LIVE_SCORES", 7)
    words = ["three", "two", "x"]
    new = reindex(old.path.parent, pa.table({"item_id": words, "word": words}))
    assert new.parity.queries == 7 // 3
    [file] = (old.path / "assets").iterdir()
    assert (new.path / "assets" / file.name).read_bytes() == file.read_bytes()


class Words(tf.Module):
    """A tower from words in a file to vectors; `serving_default` is its signature."""

    def __init__(self, file):
        super().__init__()
        whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64
        line = tf.lookup.TextFileIndex.LINE_NUMBER
        lines = tf.lookup.TextFileInitializer(str(file), tf.string, whole, number, line)
        self.table = tf.lookup.StaticHashTable(lines, 3)
        self.vectors = tf.Variable(tf.eye(4))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
    def __call__(self, word):
        return {"embedding": tf.gather(self.vectors, self.table.lookup(word))}
