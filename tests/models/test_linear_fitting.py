"""linear_fitting: every form of the inverse against its definition."""

import numpy as np
import pytest
import scipy.sparse

from recdistill.models import linear_fitting
from recdistill.models.linear_fitting import (
    LAPACK_ORDER,
    choose_form,
    fit_inverse,
    fit_low_rank,
    fit_query_inverse,
)
from tests.models.test_linear import ITEMS, L2, item_weights, training_rows


def wide_rows(queries=30, items=50):
    rng = np.random.default_rng(4)
    return (rng.random((queries, items)) < rng.uniform(0.05, 0.5, items)) * 1.0


def test_inverse_by_hand():
    matrix = scipy.sparse.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]]))
    # X'X + 1 is [[3, 1], [1, 2]], with determinant 5.
    want = [[2 / 5, -1 / 5], [-1 / 5, 3 / 5]]
    np.testing.assert_allclose(fit_inverse(matrix, 1.0), want, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("l2", [0.5, 300.0])
def test_inverse_matches_its_definition(seed, l2):
    matrix = training_rows(seed)
    got = fit_inverse(scipy.sparse.csr_array(matrix), l2)
    want = np.linalg.inv(matrix.T @ matrix + l2 * np.eye(ITEMS))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(got, got.T)


def test_item_without_interactions_has_only_its_penalty():
    matrix = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    got = fit_inverse(scipy.sparse.csr_array(matrix), 4.0)
    np.testing.assert_allclose(got[1], [0.0, 1 / 4, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_objective_is_zero_at_the_weights(seed):
    # f(B) = |X - XB|² + l |B|² has the gradient 2 (X'X (B - I) + l B). Only entries off
    # the diagonal are free, so there it must be zero.
    matrix = training_rows(seed)
    inverse = fit_inverse(scipy.sparse.csr_array(matrix), L2).astype("float64")
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    gradient = matrix.T @ matrix @ (weights - np.eye(ITEMS)) + L2 * weights
    off = ~np.eye(ITEMS, dtype=bool)
    np.testing.assert_allclose(gradient[off], 0.0, atol=1e-4)
    np.testing.assert_allclose(weights, item_weights(matrix), atol=1e-5)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_a_penalty_that_is_not_positive_is_refused(l2):
    matrix = scipy.sparse.csr_array(np.eye(2))
    with pytest.raises(ValueError, match=f"`l2` must be positive. Received: l2={l2}"):
        fit_inverse(matrix, l2)


def test_a_penalty_too_small_for_the_data_is_refused():
    matrix = scipy.sparse.csr_array(np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"`l2` is too small .* Received: l2=1e-30"):
        fit_inverse(matrix, 1e-30)


def test_a_matrix_without_items_is_refused():
    with pytest.raises(ValueError, match="`training_rows` must have an item"):
        fit_inverse(scipy.sparse.csr_array((3, 0)), 1.0)


@pytest.mark.parametrize("block", [7, 16, 50])
def test_an_inverse_in_blocks_is_the_inverse(monkeypatch, block):
    monkeypatch.setattr(linear_fitting, "BLOCK", block)
    matrix = wide_rows()
    got = fit_inverse(scipy.sparse.csr_array(matrix), 0.7)
    want = np.linalg.inv(matrix.T @ matrix + 0.7 * np.eye(50))
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_array_equal(got, got.T)


@pytest.mark.parametrize("l2", [0.5, 300.0])
def test_the_query_inverse_gives_the_scores_of_the_item_inverse(monkeypatch, l2):
    monkeypatch.setattr(linear_fitting, "BLOCK", 16)
    matrix = wide_rows()
    want = np.linalg.inv(matrix.T @ matrix + l2 * np.eye(50))
    factor, diagonal = fit_query_inverse(scipy.sparse.csr_array(matrix), l2)
    assert factor.dtype == diagonal.dtype == np.float32
    got = np.diag(diagonal) - factor @ factor.T
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for inverse in (got, want):
        np.fill_diagonal(inverse, np.diag(inverse) * -1)
    history = np.array([3, 17, 41])
    scores = [-p[history].sum(axis=0) / -np.diag(p) for p in (got, want)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_query_inverse_with_a_penalty_too_small_for_the_data_is_refused():
    matrix = scipy.sparse.csr_array(np.ones((5, 7)))
    with pytest.raises(ValueError, match=r"`l2` is too small .* Received: l2=1e-30"):
        fit_query_inverse(matrix, 1e-30)


class TestLowRank:
    def test_it_is_the_leading_part_of_the_whitened_data(self):
        # Two groups of items that are always chosen together, so that two eigenvectors
        # explain everything and the diagonal is the penalty.
        matrix = np.kron([[1.0, 0.0]] * 9 + [[0.0, 1.0]] * 4, np.ones((1, 3)))
        factor, diagonal, own = fit_low_rank(scipy.sparse.csr_array(matrix), 2.0, 2)
        np.testing.assert_allclose(diagonal, np.full(6, 1 / 2), rtol=1e-4)
        want = np.linalg.inv(matrix.T @ matrix + 2.0 * np.eye(6))
        got = np.diag(diagonal) - factor @ factor.T
        np.testing.assert_allclose(got, want, atol=1e-5)
        # The eigenvalues of X'X / 2 are 3 * 9 / 2 and 3 * 4 / 2.
        np.testing.assert_allclose(own, [2 / 27, 2 / 12], rtol=1e-4)

    def test_its_error_falls_with_the_rank_and_ends_at_zero(self, monkeypatch):
        monkeypatch.setattr(linear_fitting, "EXTRA_RANK", 4)
        matrix = wide_rows(queries=90, items=40)
        want = np.linalg.inv(matrix.T @ matrix + L2 * np.eye(40))
        errors = []
        for rank in (4, 16, 40):
            factor, diagonal, _ = fit_low_rank(scipy.sparse.csr_array(matrix), L2, rank)
            got = np.diag(diagonal) - factor @ factor.T
            errors.append(np.linalg.norm(got - want) / np.linalg.norm(want))
            assert (diagonal <= np.float32(1 / L2 * 1.001)).all()
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-3

    def test_every_item_nearly_keeps_its_number_of_interactions(self):
        # The inverse of P is the approximated X'X with the penalty. Without the
        # diagonal, items whose row the eigenvectors miss would lose half of it.
        matrix = wide_rows(queries=90, items=40)
        factor, diagonal, _ = fit_low_rank(scipy.sparse.csr_array(matrix), L2, 6)
        fitted = np.linalg.inv(np.diag(diagonal) - factor @ factor.T)
        np.testing.assert_allclose(np.diag(fitted), matrix.sum(axis=0) + L2, rtol=0.2)

    def test_the_factor_is_the_same_each_time(self):
        rows = scipy.sparse.csr_array(wide_rows())
        for one, two in zip(
            fit_low_rank(rows, L2, 5), fit_low_rank(rows, L2, 5), strict=True
        ):
            np.testing.assert_array_equal(one, two)

    def test_items_without_interactions_have_only_their_penalty(self):
        matrix = wide_rows()
        matrix[:, [0, 9]] = 0.0
        factor, diagonal, own = fit_low_rank(scipy.sparse.csr_array(matrix), L2, 40)
        np.testing.assert_allclose(factor[[0, 9]], 0.0, atol=1e-6)
        np.testing.assert_allclose(diagonal[[0, 9]], 1 / L2, rtol=1e-6)
        assert np.isfinite(own).all()


class TestTheChoiceOfTheForm:
    GIB = 2**30

    def test_the_first_form_that_fits_is_taken(self):
        # 16 bytes * 10,000² are 1.5 GiB; 8 * 500 * 10,500 are 0.04 GiB.
        assert choose_form(500, 10_000, 2 * self.GIB).form == "item_inverse"
        assert choose_form(500, 10_000, self.GIB).form == "query_inverse"
        assert choose_form(500, 10_000, self.GIB).rank == 500
        assert choose_form(10**6, 10_000, self.GIB).form == "low_rank"
        assert choose_form(LAPACK_ORDER + 1, 10**5, 10**6 * self.GIB).form == (
            "item_inverse"
        )

    def test_a_catalogue_of_24742_items_is_not_given_to_lapack(self):
        # This size took 10 GB and then crashed in LAPACK.
        assert choose_form(22_363, 24_742, 4 * self.GIB).form == "low_rank"
        assert choose_form(5_000, 24_742, 4 * self.GIB).form == "query_inverse"

    def test_the_rank_follows_from_the_memory(self):
        # 20 bytes * 10⁶ items * (rank + 16) within 1 GiB: rank 37.
        chosen = choose_form(10**6, 10**6, self.GIB)
        assert (chosen.form, chosen.rank) == ("low_rank", 37)
        assert chosen.fit_bytes <= self.GIB
        assert choose_form(10**6, 10**5, 100 * self.GIB, "low_rank").rank == 512
        assert choose_form(5, 10**5, self.GIB, "low_rank").rank == 5

    def test_a_wanted_form_is_taken_also_beyond_the_memory(self):
        assert choose_form(9, 10**5, self.GIB, "item_inverse").fit_bytes == 16 * 10**10

    def test_too_little_memory_is_refused(self):
        # 20 bytes * 10⁶ * 32 vectors are 0.60 GiB.
        with pytest.raises(ValueError, match=r"`memory_gib` must be at least 0.60 .*"):
            choose_form(10**6, 10**6, self.GIB // 10)

    def test_a_query_inverse_of_too_many_queries_is_refused(self):
        with pytest.raises(ValueError, match=r"at most 16,384 training rows. Received"):
            choose_form(20_000, 100_000, 100 * self.GIB, "query_inverse")
