"""batches: ragged rows against Python lists, shards, and the tensor contract."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.data.batches import (
    Collator,
    Lists,
    Ragged,
    batches,
    catalogue_mask,
    catalogue_relevance,
    in_order,
    read_lists,
    score_catalogue,
)

ITEMS = 8


def ragged(rows, dtype="int32"):
    values = np.array([value for row in rows for value in row], dtype)
    return Ragged(values, np.cumsum([0, *map(len, rows)]))


def listed(rows):
    """The rows as Python lists."""
    bounds = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return [rows.values[low:high].tolist() for low, high in bounds]


def lists(positives, seen=None, relevance=None, **more):
    """Lists with these positives; a query feature says which list it is."""
    count = len(positives)
    return Lists(
        list_id=np.arange(count),
        query_id=np.array([f"q{k}" for k in range(count)], object),
        query={"number": np.arange(count, dtype="float32")},
        positives=ragged(positives),
        relevance=ragged(relevance or [[1.0] * len(p) for p in positives], "float32"),
        seen=ragged(seen or [[]] * count),
        weight=np.arange(count, dtype="float32") + 1,
        query_row=np.arange(count),
        **more,
    )


def flat(pieces):
    return [value for piece in pieces for value in piece]


def rng(seed=0):
    return np.random.default_rng(seed)


ROWS = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)


class TestRagged:
    def test_takes_rows_in_the_given_order(self):
        got = ragged([[1, 2], [], [3]]).take(np.array([2, 0, 0, 1]))
        assert listed(got) == [[3], [1, 2], [1, 2], []]
        assert len(got) == 4

    def test_is_padded_on_the_right(self):
        got = ragged([[1, 2], [], [3]]).padded(-1)
        assert got.tolist() == [[1, 2], [-1, -1], [3, -1]] and got.dtype == np.int32

    def test_padded_has_a_column_at_least(self):
        assert ragged([[], []]).padded(0).tolist() == [[0], [0]]
        assert ragged([]).padded(0).shape == (0, 1)

    def test_knows_the_row_of_each_value(self):
        assert ragged([[1, 2], [], [3]]).row_numbers().tolist() == [0, 0, 2]

    @settings(deadline=None)
    @given(ROWS, st.data())
    def test_behaves_as_lists_do(self, rows, data):
        one = ragged(rows)
        assert len(one) == len(rows)
        width = max([1, *map(len, rows)])
        assert one.padded(-1).tolist() == [r + [-1] * (width - len(r)) for r in rows]
        numbers = [k for k, row in enumerate(rows) for _ in row]
        assert one.row_numbers().tolist() == numbers
        place = st.integers(0, max(len(rows) - 1, 0))
        chosen = data.draw(st.lists(place, max_size=8 if rows else 0))
        got = one.take(np.array(chosen, int))
        assert listed(got) == [rows[k] for k in chosen]
        assert len(got.padded(0)) == len(chosen)

    @settings(deadline=None)
    @given(ROWS, st.integers(0, 6), st.integers(0, 6))
    def test_reads_any_slice_of_an_arrow_column(self, rows, start, length):
        column = pa.array(rows, pa.list_(pa.int32())).slice(start, length)
        got = Ragged.from_arrow(column)
        assert listed(got) == rows[start : start + length]
        assert got.offsets[0] == 0 and got.offsets[-1] == len(got.values)
        assert len(got.padded(0)) == len(got)


def fixed(rows, kind):
    values = pa.array(np.array(rows).ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(values, len(rows[0]))


def shard_table(numbers, scored=False):
    """A shard; everything in a row follows from its number."""
    columns = {
        "list_id": pa.array(numbers, pa.int64()),
        "query_id": [f"q{k}" for k in numbers],
        "query_row": pa.array([k - 1 for k in numbers], pa.int64()),
        "candidates": pa.array([[k % ITEMS] for k in numbers], pa.list_(pa.int32())),
        "relevance": pa.array([[k / 2] for k in numbers], pa.list_(pa.float32())),
        "list_weight": pa.array([k / 4 for k in numbers], pa.float32()),
        "seen": pa.array(
            [[(k + j) % ITEMS for j in range(1, 1 + k % 3)] for k in numbers],
            pa.list_(pa.int32()),
        ),
        "query.user": pa.array(numbers, pa.int32()),
        "query.history": fixed([[k, 0] for k in numbers], pa.int32()),
        "query.jobs": pa.array([[k] * (k % 3) for k in numbers], pa.list_(pa.int32())),
        "raw.user": [f"user-{k}" for k in numbers],
        "raw.history": pa.array(
            [["größe"] * (k % 2) for k in numbers], pa.list_(pa.string())
        ),
    }
    if scored:
        columns["scored_candidates"] = fixed(
            [[k % ITEMS, (k + 1) % ITEMS, -1] for k in numbers], pa.int32()
        )
        scores = np.array([[k / 2, -0.25, 0.0] for k in numbers], "float16")
        columns["teacher_scores"] = fixed(scores, pa.float16())
    return pa.table(columns)


def write(folder, *counts, scored=False):
    """Shards with so many lists; their ids count on from shard to shard."""
    paths, first = [], 0
    for number, count in enumerate(counts):
        paths.append(folder / f"train-{number:05d}.parquet")
        numbers = list(range(first, first + count))
        pq.write_table(shard_table(numbers or [0], scored).slice(0, count), paths[-1])
        first += count
    return paths


class TestReadLists:
    def test_brings_back_every_column(self, tmp_path):
        (path,) = write(tmp_path, 4, scored=True)
        got = read_lists(path)
        assert len(got) == 4
        assert got.list_id.tolist() == [0, 1, 2, 3]
        assert got.query_id.tolist() == ["q0", "q1", "q2", "q3"]
        assert got.query_row.tolist() == [-1, 0, 1, 2]
        assert listed(got.positives) == [[0], [1], [2], [3]]
        assert listed(got.relevance) == [[0.0], [0.5], [1.0], [1.5]]
        assert listed(got.seen) == [[], [2], [3, 4], []]
        assert got.weight.tolist() == [0.0, 0.25, 0.5, 0.75]
        assert got.query["user"].tolist() == [0, 1, 2, 3]
        assert got.query["history"].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
        assert got.query["jobs"].tolist() == [[0, 0], [1, 0], [2, 2], [0, 0]]
        assert got.raw["user"].tolist() == [f"user-{k}" for k in range(4)]
        assert listed(got.raw["history"]) == [[], ["größe"], [], ["größe"]]
        assert got.candidates.tolist() == [[k, k + 1, -1] for k in range(4)]
        assert got.teacher_scores.dtype == np.float16
        assert got.teacher_scores.tolist() == [[k / 2, -0.25, 0.0] for k in range(4)]

    def test_of_an_unscored_shard_has_no_scores(self, tmp_path):
        (path,) = write(tmp_path, 2)
        got = read_lists(path)
        assert got.candidates is None and got.teacher_scores is None

    def test_reads_what_was_written_from_a_slice_and_in_row_groups(self, tmp_path):
        path = tmp_path / "part.parquet"
        table = shard_table(range(9), scored=True).slice(2, 5)
        pq.write_table(table, path, row_group_size=2)
        got = read_lists(path)
        assert got.list_id.tolist() == [2, 3, 4, 5, 6]
        assert listed(got.seen) == [[3, 4], [], [5], [6, 7], []]
        assert got.teacher_scores[:, 0].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]

    def test_of_an_empty_shard_has_no_list(self, tmp_path):
        (path,) = write(tmp_path, 0, scored=True)
        got = read_lists(path)
        assert len(got) == 0 and len(got.seen) == 0
        assert got.query["history"].shape == (0, 2)

    def test_rows_taken_keep_all_their_columns_together(self, tmp_path):
        (path,) = write(tmp_path, 7, scored=True)
        got = read_lists(path).take(np.array([5, 1]))
        (want,) = write(tmp_path, 7, scored=True)
        table = pq.read_table(want).take([5, 1])
        pq.write_table(table, want)
        want = read_lists(want)
        for name, value in vars(want).items():
            mine = getattr(got, name)
            if isinstance(value, Ragged):
                assert listed(mine) == listed(value), name
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(mine, value)
        assert listed(got.raw["history"]) == listed(want.raw["history"])
        np.testing.assert_array_equal(got.query["history"], want.query["history"])


class TestCatalogue:
    def test_leaves_out_what_was_seen_but_not_an_observed_positive(self):
        one = lists([[2], [0, 5], [-1]], seen=[[1, 2], [], [7, 7]])
        got = catalogue_mask(one, ITEMS)
        assert got.dtype == bool
        absent = [np.flatnonzero(~row).tolist() for row in got]
        assert absent == [[1], [], [7]]

    def test_places_relevance_and_skips_items_that_it_lacks(self):
        one = lists([[2], [0, 5], [-1]], relevance=[[3.0], [1.0, 0.5], [9.0]])
        got = catalogue_relevance(one, ITEMS)
        assert got.dtype == np.float32
        want = np.zeros((3, ITEMS))
        want[0, 2], want[1, 0], want[1, 5] = 3.0, 1.0, 0.5
        np.testing.assert_array_equal(got, want)

    def test_is_shared_by_the_lists_of_a_batch(self):
        one = lists([[2], [0, 5]], seen=[[1], [3]])
        x, y, weight = Collator(ITEMS)(one, rng())
        assert set(x) == {"candidate_index", "mask", "query"}
        assert x["candidate_index"].dtype == np.int32
        assert x["candidate_index"].tolist() == list(range(ITEMS))
        np.testing.assert_array_equal(x["mask"], catalogue_mask(one, ITEMS))
        np.testing.assert_array_equal(y["labels"], catalogue_relevance(one, ITEMS))
        np.testing.assert_array_equal(y["mask"], x["mask"])
        assert weight.tolist() == [1.0, 2.0]
        assert x["query"]["number"].tolist() == [0.0, 1.0]


class TestSampled:
    def collate(self, one, tail, seed=0):
        x, y, _ = Collator(ITEMS, tail=tail)(one, rng(seed))
        np.testing.assert_array_equal(x["mask"], y["mask"])
        assert x["candidate_index"].dtype == np.int32 and x["mask"].dtype == bool
        assert y["labels"].dtype == np.float32
        assert x["candidate_index"].shape == x["mask"].shape == y["labels"].shape
        return x["candidate_index"], x["mask"], y["labels"]

    def test_positives_come_first_with_their_relevance(self):
        one = lists([[2, 6], [5]], relevance=[[3.0, 0.5], [2.0]])
        index, mask, relevance = self.collate(one, tail=3)
        assert index.shape == (2, 2 + 3)
        assert index[0, :2].tolist() == [2, 6] and index[1, 0] == 5
        assert mask[:, :2].tolist() == [[True, True], [True, False]]
        assert relevance[:, :2].tolist() == [[3.0, 0.5], [2.0, 0.0]]
        assert not relevance[:, 2:].any()

    def test_a_tail_is_shared_by_the_lists_and_has_no_item_twice(self):
        index, _, _ = self.collate(lists([[0], [1], [2]]), tail=6)
        assert (index[:, 1:] == index[:1, 1:]).all()
        assert len(set(index[0, 1:].tolist())) == 6

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(-1, ITEMS - 1), max_size=3, unique=True),
                st.lists(st.integers(0, ITEMS - 1), max_size=4),
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(1, ITEMS + 3),
        st.integers(0, 9),
    )
    def test_nothing_stands_twice_and_nothing_seen_is_a_negative(
        self, rows, tail, seed
    ):
        one = lists([p for p, _ in rows], [s for _, s in rows])
        index, mask, relevance = self.collate(one, tail, seed)
        assert index.min() >= 0 and index.max() < ITEMS
        drawn = index[0, -min(tail, ITEMS) :].tolist()
        for k, (positives, seen) in enumerate(rows):
            reachable = [p for p in positives if p >= 0]
            free = [d for d in drawn if d not in reachable and d not in seen]
            real = index[k][mask[k]].tolist()
            assert sorted(real) == sorted(reachable + free)
            labels = dict(zip(real, relevance[k][mask[k]].tolist(), strict=True))
            assert labels == {i: 1.0 * (i in reachable) for i in real}
            assert not relevance[k][~mask[k]].any()

    def test_a_tail_larger_than_the_catalogue_is_the_catalogue(self):
        index, mask, _ = self.collate(lists([[3]]), tail=100)
        assert sorted(index[0][mask[0]].tolist()) == list(range(ITEMS))

    def test_a_positive_is_not_its_own_negative_where_other_lists_have_more(self):
        index, mask, _ = self.collate(lists([[0], [1, 2]]), tail=100)
        assert index[0][mask[0]].tolist().count(0) == 1
        assert mask.sum(axis=1).tolist() == [ITEMS, ITEMS]

    def test_no_tail_leaves_the_positives(self):
        index, mask, _ = self.collate(lists([[3]]), tail=0)
        assert index.tolist() == [[3]] and mask.tolist() == [[True]]

    def test_every_item_is_drawn_as_often(self):
        one, count = lists([[-1]]), np.zeros(ITEMS)
        for seed in range(400):
            index, mask, _ = self.collate(one, tail=2, seed=seed)
            count += np.bincount(index[mask], minlength=ITEMS)
        # 400 draws of 2 of 8 items: 100 each, with a deviation of 8.7.
        np.testing.assert_allclose(count, 100, atol=4 * 8.7)


class TestShared:
    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(-1, ITEMS - 1), max_size=3, unique=True),
                st.lists(st.integers(0, ITEMS - 1), max_size=4),
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, ITEMS + 3),
        st.integers(0, 9),
    )
    def test_each_list_is_the_one_that_it_would_be_alone(self, rows, tail, seed):
        one = lists([p for p, _ in rows], [s for _, s in rows])
        apart, want, _ = Collator(ITEMS, tail)(one, rng(seed))
        x, got, _ = Collator(ITEMS, tail, shared=True)(one, rng(seed))
        index = x["candidate_index"]
        assert index.dtype == np.int32 and got["labels"].dtype == np.float32
        assert x["mask"].shape == got["labels"].shape == (len(rows), len(index))

        def candidates(index, mask, labels):
            return sorted(zip(index[mask].tolist(), labels[mask].tolist(), strict=True))

        for k in range(len(rows)):
            own = apart["candidate_index"][k], want["mask"][k], want["labels"][k]
            together = index, got["mask"][k], got["labels"][k]
            assert candidates(*together) == candidates(*own)


class TestStored:
    stored = np.array([[2, 4, -1], [5, 0, 1]])

    def lists(self, positives=((2,), (1, -1)), **more):
        scores = np.array([[0.5, -1.0, 9.0], [1.0, 2.0, 3.0]], "float16")
        return lists(
            positives,
            relevance=[[3.0] * len(p) for p in positives],
            candidates=self.stored,
            teacher_scores=scores,
            **more,
        )

    def test_candidates_keep_their_places_beside_their_scores(self):
        x, y, _ = Collator(ITEMS, with_teacher=True)(self.lists(), rng())
        assert x["candidate_index"].tolist() == [[2, 4, 0], [5, 0, 1]]
        assert x["candidate_index"].dtype == np.int32
        assert x["mask"].tolist() == [[True, True, False], [True] * 3]
        assert x["teacher_scores"].dtype == np.float32
        assert x["teacher_scores"].tolist() == [[0.5, -1.0, 9.0], [1.0, 2.0, 3.0]]
        assert y["labels"].tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
        assert y["labels"].dtype == np.float32

    def test_item_0_is_no_padding_and_padding_is_not_item_0(self):
        x, y, _ = Collator(ITEMS, with_teacher=True)(self.lists(((0,), (0,))), rng())
        assert y["labels"].tolist() == [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
        assert x["mask"][1].all()

    def test_without_a_teacher_are_not_used(self):
        x, _, _ = Collator(ITEMS)(self.lists(), rng())
        assert "teacher_scores" not in x
        assert x["candidate_index"].tolist() == list(range(ITEMS))

    def test_scores_of_the_whole_catalogue_need_no_candidates(self):
        scores = np.arange(2.0 * ITEMS).reshape(2, ITEMS).astype("float16")
        one = lists([[2], [5]], teacher_scores=scores)
        x, _, _ = Collator(ITEMS, with_teacher=True)(one, rng())
        np.testing.assert_array_equal(x["teacher_scores"], scores)
        assert x["candidate_index"].shape == (ITEMS,)


def test_profiles_are_the_training_rows_of_the_queries():
    one = lists([[1], [2], [3]])
    one.query_row[:] = [2, -1, 0]
    training_rows = ragged([[4, 5, 6], [7], [8]])
    x, _, _ = Collator(ITEMS, training_rows=training_rows)(one, rng())
    # A query that the training part lacks, row -1, has nothing to leave out.
    assert x["training_row"].tolist() == [[8, 0, 0], [0, 0, 0], [4, 5, 6]]
    assert x["training_row"].dtype == np.int32


def numbers(batch):
    return batch[0]["query"]["user"].numpy().tolist()


class TestBatches:
    def test_of_the_same_seed_are_the_same(self, tmp_path):
        shards = write(tmp_path, 7, 6)
        collate = Collator(ITEMS, tail=3)
        one, same, other = (
            list(batches(shards, collate, 2, seed=seed, epochs=2)) for seed in (1, 1, 2)
        )
        for left, right in zip(one, same, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, left, right)
        assert [numbers(b) for b in one] != [numbers(b) for b in other]

    def test_of_an_epoch_hold_every_list_once_at_most(self, tmp_path):
        shards = write(tmp_path, 7, 6, 0, 1)
        epoch = [
            numbers(b) for b in batches(shards, Collator(ITEMS), 2, seed=0, epochs=1)
        ]
        assert [len(b) for b in epoch].count(2) == 3 + 3
        seen = flat(epoch)
        assert len(set(seen)) == len(seen) == 6 + 6 + 1
        # Lists of different shards do not mix.
        assert all(len({k < 7 for k in b}) == 1 for b in epoch)

    def test_are_shuffled_anew_each_epoch(self, tmp_path):
        shards = write(tmp_path, 12)
        two = [
            numbers(b) for b in batches(shards, Collator(ITEMS), 3, seed=0, epochs=2)
        ]
        first, second = flat(two[:4]), flat(two[4:])
        assert sorted(first) == sorted(second) == list(range(12))
        assert first != second and first != list(range(12))

    def test_take_the_shards_in_another_order_each_epoch(self, tmp_path):
        data = batches(write(tmp_path, 1, 1, 1), Collator(ITEMS), 1, seed=0, epochs=6)
        seen = flat(numbers(b) for b in data)
        epochs = [tuple(seen[k : k + 3]) for k in range(0, 18, 3)]
        assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
        assert len(set(epochs)) > 1

    def test_go_on_for_ever_without_a_number_of_epochs(self, tmp_path):
        data = batches(write(tmp_path, 3), Collator(ITEMS), 3, seed=0)
        assert len(list(data.take(10))) == 10

    def test_are_smaller_where_a_shard_is(self, tmp_path):
        data = batches(write(tmp_path, 3), Collator(ITEMS), 100, seed=0, epochs=1)
        (batch,) = data
        assert sorted(numbers(batch)) == [0, 1, 2]

    def test_keep_a_list_together(self, tmp_path):
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

    def test_know_their_shapes_whatever_their_sizes(self, tmp_path):
        data = batches(write(tmp_path, 4), Collator(ITEMS, tail=2), 2, seed=0)
        x, y, weight = data.element_spec
        assert x["candidate_index"] == tf.TensorSpec([None, None], tf.int32)
        assert x["mask"] == y["mask"] == tf.TensorSpec([None, None], tf.bool)
        assert y["labels"] == tf.TensorSpec([None, None], tf.float32)
        assert weight == tf.TensorSpec([None], tf.float32)

    @pytest.mark.parametrize("counts", [(), (0,), (0, 0)])
    def test_need_a_list(self, tmp_path, counts):
        with pytest.raises(ValueError, match="`shards` must hold a list to train on"):
            batches(write(tmp_path, *counts), Collator(ITEMS), 2, seed=0)

    def test_are_the_same_where_the_shards_do_not_fit_in_memory(
        self, tmp_path, monkeypatch
    ):
        shards = write(tmp_path, 5, 4)
        kept = list(batches(shards, Collator(ITEMS), 2, seed=0, epochs=2))
        monkeypatch.setattr("recdistill.data.batches.IN_MEMORY_BYTES", 3)
        read = list(batches(shards, Collator(ITEMS), 2, seed=0, epochs=2))
        assert [numbers(b) for b in kept] == [numbers(b) for b in read]


class TestInOrder:
    def ids(self, pieces):
        return [piece.list_id.tolist() for piece in pieces]

    def test_reads_every_list_in_its_order(self, tmp_path):
        shards = write(tmp_path, 5, 0, 3)
        got = self.ids(in_order(shards, 2))
        assert got == [[0, 1], [2, 3], [4], [5, 6], [7]]

    def test_of_no_shard_is_empty(self, tmp_path):
        assert self.ids(in_order([], 2)) == []
        assert self.ids(in_order(write(tmp_path, 0), 2)) == []

    def test_a_limit_draws_from_all_lists_and_keeps_their_order(self, tmp_path):
        shards = write(tmp_path, 20, 30)
        one, same, other = (
            flat(self.ids(in_order(shards, 4, limit=15, seed=seed)))
            for seed in (3, 3, 4)
        )
        assert one == same != other
        assert len(one) == 15 and one == sorted(set(one))
        assert min(one) < 20 <= max(one)

    def test_a_limit_beyond_the_lists_reads_all(self, tmp_path):
        got = self.ids(in_order(write(tmp_path, 3), 10, limit=99))
        assert got == [[0, 1, 2]]


def test_the_whole_catalogue_is_scored_for_every_query():
    def score(batch):
        assert batch["mask"].shape == (3, ITEMS)
        index = tf.cast(batch["candidate_index"], tf.float32)
        return 10.0 * batch["query"]["number"][:, None] + index[None]

    got = score_catalogue(score, lists([[1], [2], [3]]), ITEMS)
    want = [[10.0 * query + item for item in range(ITEMS)] for query in range(3)]
    np.testing.assert_array_equal(got, want)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
