"""Rankings by a two-tower model in parts equal those of the scores of all items."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from recdistill.pipeline.ranking import two_tower_catalogue
from recdistill.pipeline.ranking.catalogue_ranking import (
    NotRankableError,
    rank_catalogue,
)
from recdistill.pipeline.ranking.two_tower_catalogue import TwoTowerCatalogue
from tests.pipeline.ranking.test_catalogue_ranking import lists_of, random_lists

ITEMS = 60


class Towers:
    """A model whose candidates have these embeddings."""

    def __init__(self, vectors):
        self.candidate_table = self
        self.size = len(vectors)
        self.vectors = tf.constant(vectors, tf.float32)

    def __call__(self, rows):
        return rows

    def encode_candidates(self, rows):
        return tf.gather(self.vectors, rows)

    def encode_query(self, query):
        return query["vector"]


def integers(rng, *shape):
    """Small integers: their products are exact, with many ties."""
    return rng.integers(-2, 3, shape).astype("float32")


def reals(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def with_vectors(lists, vectors):
    return dataclasses.replace(lists, query={"vector": vectors})


def whole(towers, lists, top):
    """The ranking by the scores of all items."""
    scores = TwoTowerCatalogue(towers).scores
    return rank_catalogue(scores, lists, towers.size, top)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(two_tower_catalogue, "ITEMS_AT_ONCE", 13)
    monkeypatch.setattr(two_tower_catalogue, "PRODUCT_SIZE", 13 * 5)
    monkeypatch.setattr(two_tower_catalogue, "QUERIES_AT_ONCE", 12)


@pytest.mark.parametrize("vectors", [integers, reals])
@pytest.mark.parametrize("top", [0, 1, 7, 100])
def test_a_catalogue_in_parts_is_ranked_as_a_whole(small_parts, vectors, top):
    rng = np.random.default_rng(5)
    lists = random_lists(rng, 23, ITEMS)
    lists = with_vectors(lists, vectors(rng, 23, 4))
    towers = Towers(vectors(rng, ITEMS, 4))
    want = whole(towers, lists, top)
    catalogue = TwoTowerCatalogue(towers)
    got = catalogue.rank(lists, top)
    np.testing.assert_array_equal(got.top, want.top)
    for name in ("row", "rank", "gain"):
        np.testing.assert_array_equal(
            getattr(got.ranks, name), getattr(want.ranks, name)
        )
    first = catalogue.top(lists, top)
    np.testing.assert_array_equal(first, want.top[:, : min(top, ITEMS)])


def test_lists_without_positives_or_excluded_items_are_ranked(small_parts):
    rng = np.random.default_rng(6)
    lists = with_vectors(lists_of([[], []], [[], []]), reals(rng, 2, 4))
    towers = Towers(reals(rng, ITEMS, 4))
    got = TwoTowerCatalogue(towers).rank(lists, 9)
    np.testing.assert_array_equal(got.top, whole(towers, lists, 9).top)
    assert len(got.ranks.rank) == 0 and got.ranks.batch_size == 2


def test_no_lists_have_no_ranking(small_parts):
    rng = np.random.default_rng(6)
    lists = with_vectors(lists_of([], []), reals(rng, 0, 4))
    got = TwoTowerCatalogue(Towers(reals(rng, ITEMS, 4))).rank(lists, 9)
    assert got.top.shape == (0, 9)
    assert got.ranks.batch_size == 0


def test_scores_that_differ_in_the_last_bit_are_ranked_as_a_whole(
    small_parts, monkeypatch
):
    rng = np.random.default_rng(7)
    lists = with_vectors(random_lists(rng, 23, ITEMS), reals(rng, 23, 4))
    towers = Towers(reals(rng, ITEMS, 4))
    want = whole(towers, lists, 5)
    products, ranked_whole = two_tower_catalogue._products, []

    def other_bits(queries, items):
        # All parts but the last have 13 items; the positives' product has others.
        found = products(queries, items)
        return found if len(items) in (13, ITEMS) else found * 1.0000002

    def counted(*args):
        ranked_whole.append(args)
        return rank_catalogue(*args)

    monkeypatch.setattr(two_tower_catalogue, "_products", other_bits)
    monkeypatch.setattr(two_tower_catalogue, "rank_catalogue", counted)
    got = TwoTowerCatalogue(towers).rank(lists, 5)
    assert ranked_whole
    np.testing.assert_array_equal(got.top, want.top)
    np.testing.assert_array_equal(got.ranks.rank, want.ranks.rank)


@pytest.mark.parametrize("method", ["rank", "top"])
def test_a_score_that_is_not_a_number_is_refused(small_parts, method):
    rng = np.random.default_rng(6)
    lists = with_vectors(random_lists(rng, 3, ITEMS), np.full((3, 4), np.nan, "f4"))
    catalogue = TwoTowerCatalogue(Towers(reals(rng, ITEMS, 4)))
    with pytest.raises(NotRankableError, match="not NaN"):
        getattr(catalogue, method)(lists, 2)
