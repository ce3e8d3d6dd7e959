"""canonical_graph: a model has the same files, whatever the process did before."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.atomic import folder_checksums
from recdistill.export.canonical_graph import write_canonical
from recdistill.export.inspection import read_model
from recdistill.export.signatures import Servable
from recdistill.export.student_export import StudentTowers
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import ExactIndex
from tests.small_models import ITEMS, films_schema, films_student

pytestmark = pytest.mark.slow


def save(folder):
    """A student of seeded weights with all its signatures, as a SavedModel."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    schema = films_schema()
    towers = StudentTowers(films_student(schema), schema)
    index = ExactIndex(np.eye(len(ITEMS), 6, dtype="float32"))
    Servable(towers, Catalogue(ITEMS, index), 2).save(folder)


def test_a_model_that_is_saved_again_has_the_same_files(tmp_path):
    save(tmp_path / "one")
    # Everything that counts functions, tables, layers and resources goes on.
    tf.function(lambda x: x + 1)(tf.constant(1))
    films_schema()
    save(tmp_path / "two")
    one, two = (folder_checksums(tmp_path / name) for name in ("one", "two"))
    assert "saved_model.pb" in one
    assert "fingerprint.pb" not in one
    assert one == two


def test_names_are_numbered_without_gaps_and_calls_still_find_their_functions(
    tmp_path,
):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def choose(self, x):
            return tf.cond(x > 0, lambda: tf.sin(x), lambda: tf.cos(x))

    module = Module()
    tf.saved_model.save(module, str(tmp_path), signatures=module.choose)
    write_canonical(tmp_path)
    library = read_model(tmp_path).meta_graphs[0].graph_def.library.function
    numbers = [int(each.signature.name.rpartition("_")[2]) for each in library]
    assert max(numbers) < 2 * len(numbers)
    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    for x in (2.0, -2.0):
        [value] = signature(tf.constant(x)).values()
        assert value.numpy() == pytest.approx(np.sin(2.0) if x > 0 else np.cos(2.0))
