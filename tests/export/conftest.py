"""One export of the films model, shared by the tests of its content and its answers.

`save_tfrs_towers.py` runs in its own process, under Keras 2.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from tests.small_models import (
    export_films,
    films_items,
    films_rows,
    films_schema,
    films_student,
)

collect_ignore = ["save_tfrs_towers.py"]


@pytest.fixture(scope="session")
def schema():
    return films_schema()


@pytest.fixture(scope="session")
def student(schema):
    return films_student(schema)


@pytest.fixture(scope="session")
def exported(student, tmp_path_factory):
    return export_films(tmp_path_factory.mktemp("export"), student)


@pytest.fixture(scope="session")
def embeddings(schema, student):
    """The live student's embeddings of all queries and items."""
    own, table = schema.for_student(), films_items()
    raw = {e.feature: np.array(table[e.feature].to_pylist()) for e in own.candidate}
    queries = student.encode_query(own.lookup_query(films_rows()))
    items = student.encode_candidates(own.lookup_candidates(raw))
    return queries.numpy(), items.numpy()


@pytest.fixture(scope="session")
def scores(embeddings):
    """The live student's scores of all items, for every query."""
    queries, items = embeddings
    return queries @ items.T


@pytest.fixture(scope="session")
def serve(exported):
    """Answers of TensorFlow's session loader, without checks of shapes, as in C++."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported.path))
    calls = {}

    def call(signature, inputs):
        contract = graph.signature_def[signature]
        if signature not in calls:
            options = config_pb2.CallableOptions()
            options.feed.extend(info.name for info in contract.inputs.values())
            options.fetch.extend(info.name for info in contract.outputs.values())
            calls[signature] = session._make_callable_from_options(options)
        values = [
            np.asarray(inputs[name]).astype(
                object if info.dtype == 7 else tf.as_dtype(info.dtype).as_numpy_dtype
            )
            for name, info in contract.inputs.items()
        ]
        values = [_as_bytes(v) if v.dtype == object else v for v in values]
        outputs = calls[signature](*values)
        return dict(zip(contract.outputs, outputs, strict=True))

    return call


def _as_bytes(values):
    flat = [v.encode() if isinstance(v, str) else v for v in values.ravel()]
    return np.array([*flat, b""], object)[:-1].reshape(values.shape)
