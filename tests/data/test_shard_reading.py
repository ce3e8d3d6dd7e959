"""Shards: reading lists, in order and as training batches."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import batches, in_order, read_lists
from tests.data.list_builders import ITEMS, as_lists, flat, ragged, shard_table, write


class TestReadLists:
    def test_every_column_is_read(self, tmp_path):
        (path,) = write(tmp_path, 4, scored=True)
        got = read_lists(path)
        assert len(got) == 4
        assert got.list_id.tolist() == [0, 1, 2, 3]
        assert got.query_id.tolist() == ["q0", "q1", "q2", "q3"]
        assert got.query_row.tolist() == [-1, 0, 1, 2]
        assert as_lists(got.positives) == [[0], [1], [2], [3]]
        assert as_lists(got.relevance) == [[0.0], [0.5], [1.0], [1.5]]
        assert as_lists(got.seen) == [[], [2], [3, 4], []]
        assert got.weight.tolist() == [0.0, 0.25, 0.5, 0.75]
        assert got.query["user"].tolist() == [0, 1, 2, 3]
        assert got.query["history"].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
        assert got.query["jobs"].tolist() == [[0, 0], [1, 0], [2, 2], [0, 0]]
        assert got.raw["user"].tolist() == [f"user-{k}" for k in range(4)]
        assert as_lists(got.raw["history"]) == [[], ["größe"], [], ["größe"]]
        assert got.candidates.tolist() == [[k, k + 1, -1] for k in range(4)]
        assert got.teacher_scores.dtype == np.float16
        assert got.teacher_scores.tolist() == [[k / 2, -0.25, 0.0] for k in range(4)]

    def test_an_unscored_shard_has_no_scores(self, tmp_path):
        (path,) = write(tmp_path, 2)
        got = read_lists(path)
        assert got.candidates is None and got.teacher_scores is None

    def test_slices_and_row_groups_are_read_correctly(self, tmp_path):
        path = tmp_path / "part.parquet"
        table = shard_table(range(9), scored=True).slice(2, 5)
        pq.write_table(table, path, row_group_size=2)
        got = read_lists(path)
        assert got.list_id.tolist() == [2, 3, 4, 5, 6]
        assert as_lists(got.seen) == [[3, 4], [], [5], [6, 7], []]
        assert got.teacher_scores[:, 0].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]

    def test_an_empty_shard_has_no_lists(self, tmp_path):
        (path,) = write(tmp_path, 0, scored=True)
        got = read_lists(path)
        assert len(got) == 0 and len(got.seen) == 0
        assert got.query["history"].shape == (0, 2)

    def test_take_keeps_the_columns_of_a_row_together(self, tmp_path):
        (path,) = write(tmp_path, 7, scored=True)
        got = read_lists(path).take(np.array([5, 1]))
        (want,) = write(tmp_path, 7, scored=True)
        table = pq.read_table(want).take([5, 1])
        pq.write_table(table, want)
        want = read_lists(want)
        for name, value in vars(want).items():
            mine = getattr(got, name)
            if isinstance(value, Ragged):
                assert as_lists(mine) == as_lists(value), name
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(mine, value)
        assert as_lists(got.raw["history"]) == as_lists(want.raw["history"])
        np.testing.assert_array_equal(got.query["history"], want.query["history"])


def numbers(batch):
    return batch[0]["query"]["user"].numpy().tolist()


class TestBatches:
    def test_the_same_seed_gives_the_same_batches(self, tmp_path):
        shards = write(tmp_path, 7, 6)
        collate = Collator(ITEMS, tail=3)
        one, same, other = (
            list(batches(shards, collate, 2, seed=seed, epochs=2)) for seed in (1, 1, 2)
        )
        for left, right in zip(one, same, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, left, right)
        assert [numbers(b) for b in one] != [numbers(b) for b in other]

    @pytest.mark.parametrize("in_memory", [2**29, 3, 900])
    def test_an_epoch_has_each_list_once_and_mixes_the_shards(
        self, tmp_path, monkeypatch, in_memory
    ):
        path = "recdistill.data.shard_reading.IN_MEMORY_BYTES"
        monkeypatch.setattr(path, in_memory)
        shards = write(tmp_path, 7, 6, 0, 1)
        data = batches(shards, Collator(ITEMS), 4, seed=0, epochs=3)
        found = [numbers(b) for b in data]
        assert [len(b) for b in found] == [4] * 10 + [2]
        for epoch in range(3):
            assert sorted(flat(found)[14 * epoch : 14 * epoch + 14]) == list(range(14))
        assert any(len({k < 7 for k in b}) == 2 for b in found)

    @pytest.mark.parametrize("in_memory", [2**29, 3])
    @pytest.mark.parametrize("delivered", [1, 3, 4, 9])
    def test_batches_go_on_after_an_interruption_as_if_there_had_been_none(
        self, tmp_path, monkeypatch, in_memory, delivered
    ):
        path = "recdistill.data.shard_reading.IN_MEMORY_BYTES"
        monkeypatch.setattr(path, in_memory)
        shards, collate = write(tmp_path, 7, 6), Collator(ITEMS, tail=3)
        whole = list(batches(shards, collate, 4, seed=5).take(12))
        rest = batches(shards, collate, 4, seed=5, delivered=delivered)
        for left, right in zip(
            whole[delivered:], rest.take(12 - delivered), strict=True
        ):
            tf.nest.map_structure(np.testing.assert_array_equal, left, right)

    def test_batches_are_shuffled_in_each_epoch(self, tmp_path):
        shards = write(tmp_path, 12)
        two = [
            numbers(b) for b in batches(shards, Collator(ITEMS), 3, seed=0, epochs=2)
        ]
        first, second = flat(two[:4]), flat(two[4:])
        assert sorted(first) == sorted(second) == list(range(12))
        assert first != second and first != list(range(12))

    def test_shards_are_shuffled_in_each_epoch(self, tmp_path):
        data = batches(write(tmp_path, 1, 1, 1), Collator(ITEMS), 1, seed=0, epochs=6)
        seen = flat(numbers(b) for b in data)
        epochs = [tuple(seen[k : k + 3]) for k in range(0, 18, 3)]
        assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
        assert len(set(epochs)) > 1

    def test_without_a_number_of_epochs_batches_repeat_without_end(self, tmp_path):
        data = batches(write(tmp_path, 3), Collator(ITEMS), 3, seed=0)
        assert len(list(data.take(10))) == 10

    def test_a_small_shard_gives_a_small_batch(self, tmp_path):
        data = batches(write(tmp_path, 3), Collator(ITEMS), 100, seed=0, epochs=1)
        (batch,) = data
        assert sorted(numbers(batch)) == [0, 1, 2]

    def test_a_batch_keeps_the_parts_of_a_list_together(self, tmp_path):
        shards = write(tmp_path, 9, scored=True)
        collate = Collator(
            ITEMS, with_teacher=True, training_rows=ragged([[k] for k in range(9)])
        )
        for x, y, weight in batches(shards, collate, 3, seed=0, epochs=1):
            user = x["query"]["user"].numpy()
            np.testing.assert_array_equal(weight, user / 4)
            np.testing.assert_array_equal(x["query"]["history"][:, 0], user)
            np.testing.assert_array_equal(x["candidate_index"][:, 0], user % ITEMS)
            np.testing.assert_array_equal(x["teacher_scores"][:, 0], user / 2)
            np.testing.assert_array_equal(
                x["training_row"][:, 0], np.maximum(user - 1, 0)
            )
            np.testing.assert_array_equal(y["labels"][:, 0], user / 2)

    def test_batch_shapes_are_unknown_and_types_are_known(self, tmp_path):
        data = batches(write(tmp_path, 4), Collator(ITEMS, tail=2), 2, seed=0)
        x, y, weight = data.element_spec
        assert x["candidate_index"] == tf.TensorSpec([None, None], tf.int32)
        assert x["mask"] == tf.TensorSpec([None, None], tf.bool)
        assert y["labels"] == tf.TensorSpec([None, None], tf.float32)
        assert weight == tf.TensorSpec([None], tf.float32)

    @pytest.mark.parametrize("counts", [(), (0,), (0, 0)])
    def test_shards_without_lists_are_refused(self, tmp_path, counts):
        with pytest.raises(ValueError, match="`shards` must hold a list to train on"):
            batches(write(tmp_path, *counts), Collator(ITEMS), 2, seed=0)


class TestInOrder:
    def ids(self, pieces):
        return [piece.list_id.tolist() for piece in pieces]

    def test_all_lists_are_read_in_order(self, tmp_path):
        shards = write(tmp_path, 5, 0, 3)
        got = self.ids(in_order(shards, 2))
        assert got == [[0, 1], [2, 3], [4], [5, 6], [7]]

    def test_no_shards_give_no_lists(self, tmp_path):
        assert self.ids(in_order([], 2)) == []
        assert self.ids(in_order(write(tmp_path, 0), 2)) == []

    def test_a_limit_samples_from_all_lists_in_order(self, tmp_path):
        shards = write(tmp_path, 20, 30)
        one, same, other = (
            flat(self.ids(in_order(shards, 4, limit=15, seed=seed)))
            for seed in (3, 3, 4)
        )
        assert one == same != other
        assert len(one) == 15 and one == sorted(set(one))
        assert min(one) < 20 <= max(one)

    def test_only_the_rows_that_are_asked_for_are_read_and_sampled(self, tmp_path):
        shards, rows = write(tmp_path, 5, 0, 3), np.array([1, 4, 6, 7])
        assert self.ids(in_order(shards, 2, rows=rows)) == [[1, 4], [6, 7]]
        one, other = (
            flat(self.ids(in_order(shards, 9, 2, seed, rows))) for seed in (1, 4)
        )
        assert len(one) == len(other) == 2 and one != other
        assert {*one, *other} <= {1, 4, 6, 7}

    def test_a_limit_beyond_the_lists_reads_all(self, tmp_path):
        got = self.ids(in_order(write(tmp_path, 3), 10, limit=99))
        assert got == [[0, 1, 2]]
