"""replicas: the part of a batch that each process of a worker group trains on."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from recdistill.lists.replicas import joined, slice_of_batch

SIZE, LISTS = 5, 4


def parts_of(x, processes=2):
    """The part of each process of a batch with the inputs `x`."""
    y = {"labels": tf.zeros((LISTS, SIZE))}
    batch = tf.nest.map_structure(tf.constant, (x, y, np.ones(LISTS, "float32")))
    parts = []
    for rank in range(processes):
        with joined(SimpleNamespace(rank=rank, size=processes)):
            parts.append(slice_of_batch(batch))
    return parts


def test_shared_candidates_and_their_strata_stay_whole():
    x = {
        "query": {"user": np.arange(LISTS)},
        "candidate_index": np.arange(SIZE),
        "mask": np.ones((LISTS, SIZE), bool),
        "stratum": np.array([0, 0, 1, 1, 2]),
        "teacher_weight": np.arange(LISTS, dtype="float32"),
    }
    for (own, y, weight), lists in zip(parts_of(x), ([0, 1], [2, 3]), strict=True):
        for name in ("candidate_index", "stratum"):
            np.testing.assert_array_equal(own[name], x[name])
        np.testing.assert_array_equal(own["query"]["user"], lists)
        np.testing.assert_array_equal(own["teacher_weight"], lists)
        assert own["mask"].shape == y["labels"].shape == (2, SIZE)
        assert weight.shape == (2,)


def test_strata_of_own_candidates_are_those_of_the_lists():
    index = np.arange(LISTS * SIZE).reshape(LISTS, SIZE)
    parts = parts_of({"candidate_index": index, "stratum": index % 3})
    for (own, _, _), lists in zip(parts, ([0, 1], [2, 3]), strict=True):
        np.testing.assert_array_equal(own["candidate_index"], index[lists])
        np.testing.assert_array_equal(own["stratum"], index[lists] % 3)


def test_a_process_without_windows_has_a_row_of_padding():
    query = {"hour": tf.constant([[7, 8]])}
    known = tf.constant([[True, True]])
    batch = {"known": known, "query": query, "windows": tf.constant([[4, 5, 6]])}
    with joined(SimpleNamespace(rank=0, size=2)):
        none = slice_of_batch(batch)
    with joined(SimpleNamespace(rank=1, size=2)):
        all_of_them = slice_of_batch(batch)
    assert none["windows"].numpy().tolist() == [[0, 0, 0]]
    assert none["query"]["hour"].numpy().tolist() == [[0, 0]]
    assert none["known"].numpy().tolist() == [[False, False]]
    assert all_of_them["windows"].numpy().tolist() == [[4, 5, 6]]
    assert all_of_them["query"]["hour"].numpy().tolist() == [[7, 8]]
