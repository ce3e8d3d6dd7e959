"""flops: counts derived by hand from the shapes of a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.evaluation.latency import flops
from recdistill.evaluation.latency.flops import flops_of_function, flops_of_run


def zeros(*shape):
    return tf.zeros(shape)


@pytest.mark.parametrize(
    ("function", "arguments", "count"),
    [
        (tf.matmul, (zeros(4, 3), zeros(3, 5)), 2 * 4 * 3 * 5),
        (
            lambda a, b: tf.matmul(a, b, transpose_a=True),
            (zeros(3, 4), zeros(3, 5)),
            2 * 4 * 3 * 5,
        ),
        (tf.matmul, (zeros(7, 4, 3), zeros(7, 3, 5)), 7 * 2 * 4 * 3 * 5),
        (tf.linalg.matvec, (zeros(9, 6), zeros(6)), 2 * 9 * 6),
        (
            lambda a, b: tf.einsum("abij,abkj->abik", a, b),
            (zeros(2, 3, 4, 5), zeros(2, 3, 6, 5)),
            2 * 2 * 3 * 4 * 6 * 5,
        ),
        # A width of 3 leaves 8 of 10 positions; 2 channels become 5.
        (
            lambda x: tf.nn.conv1d(x, zeros(3, 2, 5), 1, "VALID"),
            (zeros(1, 10, 2),),
            2 * 8 * 5 * 3 * 2,
        ),
        (lambda x: tf.nn.relu(x + x), (zeros(4, 3),), 0),
        (
            lambda a, b: tf.einsum("...ij,jk->...ik", a, b),
            (zeros(2, 3, 4, 5), zeros(5, 6)),
            2 * 2 * 3 * 4 * 5 * 6,
        ),
        (
            lambda a, b: tf.einsum("...ij,...jk->...ik", a, b),
            (zeros(2, 1, 4, 5), zeros(2, 3, 5, 6)),
            2 * 2 * 3 * 4 * 5 * 6,
        ),
        # Three entries are not 0, and each is multiplied with a row of 7.
        (
            lambda a, b: tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(a), b),
            (tf.constant([[1.0, 0, 0, 2], [0, 3, 0, 0]]), zeros(4, 7)),
            2 * 3 * 7,
        ),
    ],
)
def test_the_count_is_that_derived_by_hand(function, arguments, count):
    assert flops_of_function(function, *arguments) == count


def test_every_iteration_of_a_loop_is_counted():
    layer = keras.layers.GRU(6)
    steps = zeros(2, 7, 3)
    layer(steps)
    # The inputs of the three gates at once, the state 7 times.
    want = 2 * 2 * 7 * 3 * 18 + 7 * 2 * 2 * 6 * 18
    assert flops_of_function(lambda x: layer(x), steps) == want


def test_variables_and_structures_of_tensors_are_supported():
    weight = tf.Variable(zeros(3, 5))
    got = flops_of_function(
        lambda x: {"y": x["b"] @ weight}, {"a": zeros(), "b": zeros(2, 3)}
    )
    assert got == 2 * 2 * 3 * 5


def test_a_size_that_depends_on_the_data_is_counted():
    graph = tf.Graph()
    with graph.as_default():
        rows = tf.compat.v1.placeholder(tf.float32, [None, 3], "rows")
        chosen = tf.boolean_mask(rows, rows[:, 0] > 0)
        product = tf.matmul(chosen, tf.ones([3, 5]))
    with tf.compat.v1.Session(graph=graph) as session:
        feed = {"rows:0": np.array([[1.0] * 3, [-1.0] * 3, [1.0] * 3])}
        assert flops_of_run(session, product, feed) == 2 * 2 * 3 * 5


def test_products_of_weights_are_counted_because_every_call_computes_them():
    left, right = tf.Variable(zeros(4, 3)), tf.Variable(zeros(3, 5))
    got = flops_of_function(lambda x: x @ (left @ right), zeros(2, 4))
    assert got == 2 * 4 * 3 * 5 + 2 * 2 * 4 * 5


def test_lookup_tables_elsewhere_cause_no_warning(caplog):
    pairs = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    table = tf.lookup.StaticHashTable(pairs, -1)
    assert flops_of_function(tf.matmul, zeros(1, 2), zeros(2, 1)) == 4
    assert table.size() == 1
    assert "table_initializer" not in caplog.text


def test_captured_tensors_are_not_arguments():
    weight = tf.ones([40, 5])
    assert flops_of_function(lambda x: x @ weight, zeros(2, 40)) == 2 * 2 * 40 * 5


def test_a_function_with_a_lookup_table_is_refused():
    pairs = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    table = tf.lookup.StaticHashTable(pairs, -1)
    with pytest.raises(ValueError, match="only tensors and variables"):
        flops_of_function(table.lookup, tf.constant(["a"]))


@pytest.mark.parametrize("captured", [tf.Variable, tf.constant])
def test_a_function_with_large_weights_is_refused_before_they_are_copied(
    monkeypatch, captured
):
    # Smaller constants become part of the graph.
    weights = captured(zeros(40, 5))
    monkeypatch.setattr(flops, "LARGEST_WEIGHTS", 4 * 40 * 5)
    assert flops_of_function(lambda x: x @ weights, zeros(2, 40)) == 2 * 2 * 40 * 5
    monkeypatch.setattr(flops, "LARGEST_WEIGHTS", 4 * 40 * 5 - 1)
    with pytest.raises(ValueError, match="at most 799 bytes of tensors"):
        flops_of_function(lambda x: x @ weights, zeros(2, 40))
