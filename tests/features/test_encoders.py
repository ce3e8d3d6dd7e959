"""encoders: the lookup of each kind, with results computed by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.features.encoders import FIRST, MISSING, UNKNOWN, build_encoder
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)

VOCABULARY = ["b", "größe", "映画"]


def looked_up(encoder, *values):
    inputs = dict(zip(encoder.raw_inputs(), values, strict=True))
    return encoder.lookup({k: tf.constant(v) for k, v in inputs.items()}).numpy()


def items():
    return build_encoder("item", IdSpec(), {"vocabulary": VOCABULARY})


def newest_first(ids, lengths, length=3):
    encoder = build_encoder("history", HistorySpec(length=length), {}, items())
    return looked_up(encoder, ids, np.array(lengths, "int32"))


@pytest.mark.parametrize("spec", [IdSpec(), CategorySpec()])
def test_indices_follow_the_order_of_the_vocabulary(spec):
    encoder = build_encoder("f", spec, {"vocabulary": VOCABULARY})
    got = looked_up(encoder, ["b", "größe", "映画", "B", "b ", ""])
    assert got.dtype == np.int32
    assert got.tolist() == [FIRST, FIRST + 1, FIRST + 2, UNKNOWN, UNKNOWN, MISSING]
    assert encoder.size == len(VOCABULARY) + 2


def test_a_vocabulary_may_be_empty():
    encoder = build_encoder("f", IdSpec(), {"vocabulary": []})
    assert looked_up(encoder, ["a", ""]).tolist() == [UNKNOWN, MISSING]


def test_categories_keep_their_places():
    encoder = build_encoder("f", CategoriesSpec(), {"vocabulary": VOCABULARY})
    got = looked_up(encoder, [["映画", "?", ""], ["", "", ""]])
    assert got.tolist() == [[FIRST + 2, UNKNOWN, MISSING], [MISSING] * 3]


def test_numbers_are_standardised_and_missing_ones_are_flagged():
    encoder = build_encoder("f", NumberSpec(), {"mean": 40.0, "deviation": 10.0})
    got = looked_up(encoder, [40.0, 55.0, 0.0, math.nan, math.inf, -math.inf])
    assert got.dtype == np.float32
    zero = [0.0, 1.0]
    assert got.tolist() == [[0.0, 0.0], [1.5, 0.0], [-4.0, 0.0], zero, zero, zero]


def test_a_number_too_large_to_be_standardised_is_missing():
    encoder = build_encoder("f", NumberSpec(), {"mean": 0.0, "deviation": 0.01})
    assert looked_up(encoder, [3e38]).tolist() == [[0.0, 1.0]]


def test_vectors_are_unchanged_except_for_non_finite_entries():
    encoder = build_encoder("f", VectorSpec(size=2), {})
    got = looked_up(encoder, [[1.5, -2.0], [math.nan, math.inf]])
    assert got.tolist() == [[1.5, -2.0], [0.0, 0.0]]


class TestText:
    def words(self, *texts, buckets=1000, length=3):
        return looked_up(
            build_encoder("f", TextSpec(buckets=buckets, length=length), {}), texts
        )

    def test_is_truncated_and_padded_to_its_length(self):
        got = self.words("one", "one two three four", "", " ,;! ")
        one, two, three = got[1]
        assert got.shape == (4, 3) and got.dtype == np.int32
        assert len({one, two, three, 0}) == 4
        assert got[[0, 2, 3]].tolist() == [[one, 0, 0], [0, 0, 0], [0, 0, 0]]

    def test_does_not_depend_on_case_or_punctuation(self):
        got = self.words("Größe: the FILM", "(größe) -- The film!", "GRÖSSE the film")
        assert got[0].tolist() == got[1].tolist()
        assert got[0][0] != got[2][0] and got[0][1:].tolist() == got[2][1:].tolist()

    @pytest.mark.parametrize(
        "word", ["映画", "новинка", "हिन्दी", "e\u0301te\u0301", "7"]
    )
    def test_a_word_of_any_script_is_one_word(self, word):
        got = self.words(word, f"the {word}")
        assert got[0, 0] > 0 and got[0, 1:].tolist() == [0, 0]
        assert got[1, 1] == got[0, 0]

    def test_all_buckets_are_used_and_differ_from_the_padding(self):
        got = self.words(" ".join(map(str, range(200))), buckets=4, length=200)
        assert set(got[0].tolist()) == {1, 2, 3, 4}
        assert build_encoder("f", TextSpec(buckets=4), {}).size == 5

    def test_hashes_are_the_same_in_every_process(self):
        # Fingerprint64 of the word, modulo the buckets, plus 1. Models in use depend on
        # it, so these numbers must never change.
        assert self.words("the film", buckets=4096, length=2).tolist() == [[3947, 1369]]


class TestHistory:
    def test_is_reversed_so_that_the_newest_comes_first(self):
        got = newest_first([["b", "größe", "?"]], [3])
        assert got.dtype == np.int32
        assert got.tolist() == [[UNKNOWN, FIRST + 1, FIRST]]

    def test_a_long_history_loses_its_oldest_items(self):
        got = newest_first([["?", "?", "b", "größe", "映画"]], [5])
        assert got.tolist() == [[FIRST + 2, FIRST + 1, FIRST]]

    def test_a_short_history_is_padded(self):
        got = newest_first([["b", "größe"], ["b", "größe"]], [2, 1])
        assert got.tolist() == [[FIRST + 1, FIRST, 0], [FIRST, 0, 0]]

    def test_ids_beyond_the_length_are_ignored(self):
        clean = newest_first([["b", "größe", "", ""], ["", "", "", ""]], [2, 0])
        dirty = newest_first([["b", "größe", "映画", "?"], ["b", "?", "", "b"]], [2, 0])
        assert dirty.tolist() == clean.tolist()

    def test_a_length_outside_the_array_is_clipped(self):
        ids = [["b", "größe"]] * 3
        got = newest_first(ids, [99, -1, np.iinfo("int32").min])
        assert got.tolist() == [[FIRST + 1, FIRST, 0], [0, 0, 0], [0, 0, 0]]

    def test_an_empty_id_is_missing(self):
        assert newest_first([["b", "", "映画"]], [3]).tolist() == [[4, MISSING, 2]]

    def test_an_array_without_columns_is_an_empty_history(self):
        got = newest_first(np.zeros((2, 0), object).astype(str), [0, 5])
        assert got.tolist() == [[0, 0, 0], [0, 0, 0]]

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.lists(st.sampled_from([*VOCABULARY, "?"]), max_size=6), min_size=1),
        st.integers(0, 3),
    )
    def test_is_the_reversed_list_with_any_padding(self, histories, extra):
        width = max(map(len, histories)) + extra
        padded = [h + ["b"] * (width - len(h)) for h in histories]
        got = newest_first(
            np.array(padded, object).reshape(len(histories), width).astype(str),
            [len(h) for h in histories],
            length=4,
        )
        number = {value: k + FIRST for k, value in enumerate(VOCABULARY)}
        want = [[number.get(i, UNKNOWN) for i in h[::-1]][:4] for h in histories]
        assert got.tolist() == [row + [0] * (4 - len(row)) for row in want]

    def test_needs_the_encoder_of_the_items(self):
        with pytest.raises(
            ValueError, match=r"`items`.*HistorySpec for feature 'past'"
        ):
            build_encoder("past", HistorySpec(), {})


def test_an_affinity_has_no_encoder():
    with pytest.raises(ValueError, match="AffinitySpec for feature 'affinity'"):
        build_encoder("affinity", AffinitySpec(), {}, items())
