"""synthetic: each documented effect exists, and vanishes at strength 0."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.linalg import hadamard

from recdistill.data import Dataset, EffectStrengths, synthetic

pytestmark = pytest.mark.slow

NAMES = [field.name for field in fields(EffectStrengths)]
ALL_OFF = EffectStrengths(**dict.fromkeys(NAMES, 0.0))
YEAR_S = 365 * 86_400
START_S = 1_700_000_000


@dataclass
class Log:
    """A data set as arrays: user and item numbers, and the time of year in [0, 1)."""

    data: Dataset
    users: np.ndarray
    items: np.ndarray
    seconds: np.ndarray

    @property
    def time(self) -> np.ndarray:
        return (self.seconds - START_S) / YEAR_S

    def counts(self) -> np.ndarray:
        return np.bincount(self.items, minlength=self.data.items.num_rows)

    def category(self) -> np.ndarray:
        return numbers(self.data.items["category"])

    def segment(self) -> np.ndarray:
        return numbers(self.data.queries["segment"])


def numbers(names: pa.ChunkedArray) -> np.ndarray:
    return np.array([int(name[1:]) for name in names.to_pylist()])


def everything(data: Dataset) -> pa.Table:
    return pa.Table.from_batches(data.interactions())


def generate(n_queries=1_000, n_items=400, n_interactions=20_000, seed=1, **on) -> Log:
    """Data in which only the effects of `on` exist."""
    strengths = replace(ALL_OFF, **on)
    data = synthetic(n_queries, n_items, n_interactions, seed, strengths=strengths)
    table = everything(data)
    return Log(
        data,
        numbers(table["user_id"]),
        numbers(table["item_id"]),
        table["timestamp"].to_numpy(),
    )


class TestForm:
    @pytest.mark.parametrize(
        "sizes", [(1, 2, 1), (300, 50, 7_500), (40, 10, 200), (700, 20, 900)]
    )
    def test_sizes_are_exact_and_no_pair_comes_twice(self, sizes):
        data = synthetic(*sizes)
        table = everything(data)
        assert (data.queries.num_rows, data.items.num_rows, table.num_rows) == sizes
        pairs = table.group_by(["user_id", "item_id"]).aggregate([])
        assert pairs.num_rows == table.num_rows

    def test_ids_are_those_of_the_tables(self):
        data = synthetic(50, 40, 500)
        table = everything(data)
        assert set(table["user_id"].to_pylist()) <= set(
            data.queries["user_id"].to_pylist()
        )
        assert set(table["item_id"].to_pylist()) <= set(
            data.items["item_id"].to_pylist()
        )

    def test_the_columns_have_the_documented_types(self):
        data = synthetic(50, 40, 500)
        assert everything(data).schema == pa.schema(
            {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}
        )
        assert data.items.schema == pa.schema(
            {
                "item_id": pa.string(),
                "category": pa.string(),
                "tags": pa.list_(pa.string()),
                "price": pa.float64(),
                "vector": pa.list_(pa.float32()),
                "title": pa.string(),
                "quality": pa.float64(),
            }
        )
        assert {len(vector) for vector in data.items["vector"].to_pylist()} == {8}
        assert data.queries.schema.names == ["user_id", "segment", "budget"]

    def test_tags_name_the_large_directions_of_the_vector(self):
        for item in synthetic(10, 60, 100).items.to_pylist():
            large = [
                f"axis{j}" for j, value in enumerate(item["vector"]) if value > 0.8
            ]
            assert item["tags"] == large

    def test_times_of_a_user_increase_strictly_within_the_year(self):
        log = generate(300, 60, 9_000)
        same = log.users[1:] == log.users[:-1]
        assert (np.diff(log.seconds)[same] > 0).all()
        assert 0 <= log.time.min() and log.time.max() < 1

    def test_activity_is_uneven(self):
        counts = np.bincount(generate().users, minlength=1_000)
        assert counts.std() > 0.4 * counts.mean()

    def test_batches_are_small(self):
        data = synthetic(256, 2_000, 140_000, strengths=ALL_OFF)
        sizes = [batch.num_rows for batch in data.interactions()]
        assert max(sizes) <= 65_536 and sum(sizes) == 140_000


class TestSeed:
    def test_the_same_seed_gives_the_same_data_in_every_pass(self):
        one, two = synthetic(300, 50, 3_000, seed=4), synthetic(300, 50, 3_000, seed=4)
        assert everything(one).equals(everything(two))
        assert everything(one).equals(everything(one))
        assert one.items.equals(two.items) and one.queries.equals(two.queries)
        assert one.fingerprint == two.fingerprint

    def test_another_seed_or_strength_gives_other_data(self):
        one, two = synthetic(300, 50, 3_000, seed=4), synthetic(300, 50, 3_000, seed=5)
        assert not everything(one).equals(everything(two))
        assert not one.items.equals(two.items)
        assert one.fingerprint != two.fingerprint
        stronger = EffectStrengths(drift=2.0)
        other = synthetic(300, 50, 3_000, seed=4, strengths=stronger)
        assert other.fingerprint != one.fingerprint


class TestStructure:
    @pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0])
    def test_popularity_follows_zipf(self, exponent):
        log = generate(3_000, 400, 9_000, popularity=exponent)
        counts = np.sort(log.counts())[::-1][:100]
        rank = np.arange(1, 101)
        slope = np.polyfit(np.log(rank), np.log(counts), 1)[0]
        # Sorting by noisy counts tilts even equal popularities a little.
        assert slope == pytest.approx(-exponent, abs=0.2)

    @pytest.mark.parametrize("drift", [0.0, 1.0])
    def test_items_have_a_season(self, drift):
        """The z of "more in the first half" has variance 1 if nothing drifts."""
        log = generate(drift=drift)
        first = np.bincount(log.items[log.time < 0.5], minlength=400)
        all_of_them = log.counts()
        share = (log.time < 0.5).mean()
        z = (first - share * all_of_them) / np.sqrt(all_of_them * share * (1 - share))
        if drift:
            assert z.var() > 3
        else:
            assert z.var() == pytest.approx(1, abs=0.25)

    @pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
    def test_segments_prefer_categories_as_the_hadamard_matrix_says(self, strength):
        """One half is e^s strong, the other e^-s: the mean sign is tanh(s)."""
        log = generate(2_000, 500, 10_000, cross=strength)
        signs = hadamard(32)[log.segment()[log.users], log.category()[log.items]]
        assert signs.mean() == pytest.approx(np.tanh(strength), abs=0.1)

    def test_no_dot_product_of_few_dimensions_explains_the_cross_effect(self):
        """Rank d reaches a cosine of at most sqrt(d / n) with a Hadamard matrix."""
        log = generate(2_000, 500, 40_000, cross=1.0)
        table = np.zeros((32, 32))
        np.add.at(table, (log.segment()[log.users], log.category()[log.items]), 1)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        effect = (table - expected) / np.sqrt(expected)
        left, values, right = np.linalg.svd(effect)
        low_rank = (left[:, :8] * values[:8]) @ right[:8]
        target = hadamard(32)

        def cosine(matrix: np.ndarray) -> float:
            return (matrix * target).sum() / np.linalg.norm(matrix) / 32

        assert cosine(effect) > 0.8
        assert cosine(low_rank) < (8 / 32) ** 0.5 + 0.05

    def test_the_cross_effect_is_not_in_segment_or_category_alone(self):
        log = generate(2_000, 500, 20_000, cross=1.0)
        per_category = np.bincount(log.category()[log.items], minlength=32)[1:]
        supply = np.bincount(log.category(), minlength=32)[1:]
        rate = per_category / supply
        assert rate.std() < 0.25 * rate.mean()

    @pytest.mark.parametrize("strength", [0.0, 2.0])
    def test_a_category_is_followed_by_the_next(self, strength):
        """One category of 32 is e^s strong: e^s / (e^s + 31) of the steps."""
        log = generate(2_000, 500, 20_000, sequence=strength)
        category = log.category()[log.items]
        same = log.users[1:] == log.users[:-1]
        follows = (category[1:] == (category[:-1] + 1) % 32)[same]
        chance = np.exp(strength) / (np.exp(strength) + 31)
        assert follows.mean() == pytest.approx(chance, abs=0.03)

    @pytest.mark.parametrize("strength", [0.0, 0.7])
    def test_quality_raises_popularity_in_proportion(self, strength):
        log = generate(quality=strength)
        quality = log.data.items["quality"].to_numpy()
        slope = np.polyfit(quality, np.log(log.counts() + 1), 1)[0]
        assert slope == pytest.approx(strength, abs=0.1)

    @pytest.mark.parametrize("strength", [0.0, 1.0])
    def test_users_choose_by_their_taste(self, strength):
        """The mean vector of n independent choices has a squared length of 8 / n."""
        log = generate(taste=strength)
        vectors = np.array(log.data.items["vector"].to_pylist())
        sums = np.zeros((1_000, 8))
        np.add.at(sums, log.users, vectors[log.items])
        counts = np.bincount(log.users, minlength=1_000)
        spread = ((sums**2).sum(1)[counts > 0] / counts[counts > 0]).mean()
        if strength:
            assert spread > 16
        else:
            assert spread == pytest.approx(8, abs=1)

    @pytest.mark.parametrize("strength", [0.0, 0.5])
    def test_prices_follow_budgets(self, strength):
        """exp(-s gap^2) times a standard normal: slope 2s / (1 + 2s) on the budget."""
        log = generate(price=strength)
        price = np.log(log.data.items["price"].to_numpy())[log.items]
        budget = np.log(log.data.queries["budget"].to_numpy())[log.users]
        slope = np.polyfit(budget, price, 1)[0]
        assert slope == pytest.approx(2 * strength / (1 + 2 * strength), abs=0.1)


class TestRefusals:
    @pytest.mark.parametrize("name", ["n_queries", "n_items", "n_interactions"])
    def test_sizes_below_one(self, name):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1.*{name}=0"):
            synthetic(**{name: 0})

    def test_segments_that_are_not_a_power_of_two(self):
        with pytest.raises(ValueError, match=r"power of 2\. Received: n_segments=12"):
            synthetic(n_segments=12)

    def test_more_interactions_than_half_the_pairs(self):
        with pytest.raises(ValueError, match=r"n_items / 2 = 50, .*n_interactions=51"):
            synthetic(10, 10, 51)

    def test_a_negative_seed(self):
        with pytest.raises(ValueError, match="`seed` must be at least 0"):
            synthetic(seed=-1)
