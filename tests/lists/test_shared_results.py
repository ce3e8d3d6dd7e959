"""shared_results: results are computed once in a block, for the same tensors."""

import tensorflow as tf

from recdistill.lists.shared_results import once, remember, shared_results

CALLS = []


def total(values, factor):
    CALLS.append(factor)
    return factor * tf.reduce_sum(values)


def test_a_result_is_computed_once_in_a_block_and_again_after_it():
    CALLS.clear()
    values = tf.constant([1.0, 2.0])
    with shared_results():
        first = once(total, values, 2.0)
        with shared_results():
            assert once(total, values, 2.0) is first
        assert once(total, values, 2.0) is first
        assert float(once(total, values, 3.0)) == 9.0
        assert float(once(total, tf.constant([1.0, 2.0]), 2.0)) == 6.0
    assert float(once(total, values, 2.0)) == 6.0
    assert CALLS == [2.0, 3.0, 2.0, 2.0]


def test_a_remembered_result_is_not_computed():
    CALLS.clear()
    values = tf.constant([1.0])
    with shared_results():
        remember(7.0, total, values, 1.0)
        assert once(total, values, 1.0) == 7.0
    assert not CALLS


def test_a_result_of_a_branch_is_not_used_outside_of_it():
    @tf.function
    def both(values, condition):
        with shared_results():
            inside = tf.cond(condition, lambda: once(total, values, 2.0), lambda: 0.0)
            return inside + once(total, values, 2.0)

    values = tf.constant([1.0, 2.0])
    assert float(both(values, tf.constant(True))) == 12.0
    assert float(both(values, tf.constant(False))) == 6.0
