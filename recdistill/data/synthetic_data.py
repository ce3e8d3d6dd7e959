"""Synthetic interactions with known effects, of any size."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.linalg import hadamard

from recdistill.data.dataset import BATCH_ROWS, Columns, Dataset

_VERSION = 1
_SLATE = 64
_VECTOR = 8
_BLOCK = 256
_START_S = 1_700_000_000
_YEAR_S = 365 * 86_400
_TAG_THRESHOLD = 0.8
_ADJECTIVES = (
    "Quiet",
    "Golden",
    "Broken",
    "Hidden",
    "Electric",
    "Last",
    "Wild",
    "Blue",
)
_NOUNS = ("River", "Empire", "Garden", "Machine", "Letter", "Harbour", "Winter", "Road")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class EffectStrengths:
    """Strengths of the effects in synthetic data; 0 removes an effect.

    Args:
        popularity: Exponent of Zipf's law.
        drift: Strength of the seasons.
        cross: Strength of the interaction of segment and category.
        taste: Strength of the hidden taste.
        sequence: Strength of the sequence of categories.
        price: Strength of the distance between price and budget.
        quality: Strength of the quality.
    """

    popularity: float = 1.0
    drift: float = 1.0
    cross: float = 1.0
    taste: float = 1.0
    sequence: float = 2.0
    price: float = 0.5
    quality: float = 0.7


@dataclass(frozen=True)
class _Recipe:
    n_queries: int
    n_items: int
    n_interactions: int
    seed: int
    n_segments: int
    strengths: EffectStrengths

    def rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])


def synthetic(
    n_queries: int = 2_000,
    n_items: int = 500,
    n_interactions: int = 60_000,
    seed: int = 1,
    *,
    n_segments: int = 32,
    strengths: EffectStrengths = EffectStrengths(),
) -> Dataset:
    r"""Synthetic data set: users choose items from slates by a known utility.

    The user $u$ sees, at time $t$ of the year ($0 \le t < 1$), a slate of 64 items
    sampled by popularity, $P(i) \propto \mathrm{rank}_i^{-\text{popularity}}$ (Zipf).
    Of those not chosen before, one is chosen with probability softmax of

    $$ V = \text{drift} \cos 2\pi(t - \phi_i) + \text{cross}\, H_{g_u c_i}
         + \text{taste}\, w_u^\top z_i + \text{sequence}\, [c_i = c_\text{last} + 1]
         - \text{price}\, (\ln p_i - \ln b_u)^2 + \text{quality}\, q_i $$

    - **Drift.** Each item has a season $\phi_i$, uniform over the year.
    - **Cross.** $H$ is the Hadamard matrix of order `n_segments`, of entries +1 and -1,
      between the segment $g_u$ of the user and the category $c_i$ of the item. Its
      singular values are all equal, so scores that are a dot product of dimension $d$
      explain at most $d$ / `n_segments` of it (Eckart and Young, 1936), while a model
      that reads segment and category together can look it up.
    - **Taste.** $z_i$ is the `vector` of the item, standard normal in 8 dimensions;
      $w_u$ is hidden, normal with variance 1/8, so that the term has variance 1.
    - **Sequence.** After an item of category $c$, the category $c + 1$ (modulo
      `n_segments`) is preferred.
    - **Price.** The closer the price is to the `budget` of the user, the better; both
      are log-normal.
    - **Quality.** $q_i$, standard normal: the column `quality` of the items. It is
      a privileged feature, for the teacher only.

    Queries have `user_id`, `segment` (text) and `budget`. Items have `item_id`,
    `category` (text), `tags` (one for each large component of the vector, possibly
    none), `price`, `vector`, `title` (its adjective follows from the category) and
    `quality`. Interactions have `user_id`, `item_id` and `timestamp` (seconds, strictly
    increasing for each user), user by user; no pair occurs twice. Popularity ranks and
    categories are independent.

    Users are simulated in blocks with a random stream each, so that memory grows with
    users and items only, and every pass gives the same data.

    Args:
        n_queries: Number of users.
        n_items: Number of items.
        n_interactions: Total number; log-normally distributed over the users.
        seed: At least 0. The same seed gives the same data.
        n_segments: Number of segments, and of categories: a power of 2.
        strengths: Strengths of the effects.

    Raises:
        ValueError: If a size is below 1, `n_segments` is not a power of 2, or there are
            more interactions than half of all pairs.

    Examples:
        >>> data = synthetic(n_queries=100, n_items=50, n_interactions=700)
        >>> sum(batch.num_rows for batch in data.interactions())
        700
    """
    sizes = {
        "n_queries": n_queries,
        "n_items": n_items,
        "n_interactions": n_interactions,
        "n_segments": n_segments,
    }
    _check(sizes, seed)
    recipe = _Recipe(**sizes, seed=seed, strengths=strengths)
    world = _World(recipe)
    settings = {"version": _VERSION, **sizes, "seed": seed, **asdict(strengths)}
    described = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()
    return Dataset(
        name="synthetic",
        columns=Columns(),
        items=world.item_table(),
        queries=world.query_table(),
        fingerprint=digest,
        source={"synthetic": digest},
        stream=world.interactions,
    )


def _check(sizes: dict[str, int], seed: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={size}")
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0. Received: seed={seed}")
    segments = sizes["n_segments"]
    if segments & (segments - 1):
        raise ValueError(
            f"`n_segments` must be a power of 2. Received: n_segments={segments}"
        )
    most = sizes["n_queries"] * sizes["n_items"] // 2
    if sizes["n_interactions"] > most:
        raise ValueError(
            f"`n_interactions` must be at most n_queries * n_items / 2 = {most}, since "
            f"no pair occurs twice. Received: n_interactions={sizes['n_interactions']}"
        )


class _World:
    """The items, the users and their activity, fixed before the first choice."""

    def __init__(self, recipe: _Recipe) -> None:
        self.recipe = recipe
        rng = recipe.rng(0)
        n_items, n_segments = recipe.n_items, recipe.n_segments
        self.rank = 1 + rng.permutation(n_items)
        share = np.cumsum(self.rank**-recipe.strengths.popularity)
        self.cumulative = share / share[-1]
        self.season = rng.random(n_items)
        self.category = rng.integers(n_segments, size=n_items)
        self.vector = rng.standard_normal((n_items, _VECTOR))
        self.log_price = rng.standard_normal(n_items)
        self.quality = rng.standard_normal(n_items)
        self.noun = rng.integers(len(_NOUNS), size=n_items)
        rng = recipe.rng(1)
        self.segment = rng.integers(n_segments, size=recipe.n_queries)
        self.log_budget = rng.standard_normal(recipe.n_queries)
        self.activity = _activity(rng, recipe)
        self.cross = hadamard(n_segments)

    def item_table(self) -> pa.Table:
        tags = [[f"axis{j}" for j in np.flatnonzero(row)] for row in self._large()]
        return pa.table(
            {
                "item_id": _names("i", np.arange(self.recipe.n_items)),
                "category": [f"c{each:02d}" for each in self.category],
                "tags": pa.array(tags, pa.list_(pa.string())),
                "price": np.exp(self.log_price),
                "vector": pa.array(
                    list(self.vector.astype(np.float32)), pa.list_(pa.float32())
                ),
                "title": self._titles(),
                "quality": self.quality,
            }
        )

    def query_table(self) -> pa.Table:
        return pa.table(
            {
                "user_id": _names("u", np.arange(self.recipe.n_queries)),
                "segment": [f"s{each:02d}" for each in self.segment],
                "budget": np.exp(self.log_budget),
            }
        )

    def interactions(self) -> Iterator[pa.RecordBatch]:
        for first in range(0, self.recipe.n_queries, _BLOCK):
            users = np.arange(first, min(first + _BLOCK, self.recipe.n_queries))
            block = _Block(self, users).batch()
            for start in range(0, block.num_rows, BATCH_ROWS):
                yield block.slice(start, BATCH_ROWS)

    def _large(self) -> NDArray[np.bool_]:
        return self.vector > _TAG_THRESHOLD

    def _titles(self) -> list[str]:
        return [
            f"{_ADJECTIVES[category % len(_ADJECTIVES)]} {_NOUNS[noun]} {number}"
            for number, (category, noun) in enumerate(
                zip(self.category, self.noun, strict=True)
            )
        ]


class _Block:
    """Choices of some users, simulated step by step for all of them at once."""

    def __init__(self, world: _World, users: Integers) -> None:
        self.world = world
        self.users = users
        self.rng = world.recipe.rng(2, int(users[0]))
        self.counts = world.activity[users]
        self.steps = int(self.counts.max())
        self.timestamps = self._timestamps()
        self.taste = self.rng.standard_normal((len(users), _VECTOR)) / _VECTOR**0.5
        self.seen = np.zeros((len(users), world.recipe.n_items), bool)
        self.last = np.full(len(users), -2)

    def batch(self) -> pa.RecordBatch:
        """Interactions of the block, user by user, in order of time."""
        chosen = np.zeros((len(self.users), self.steps), np.int64)
        for step in range(self.steps):
            active = np.flatnonzero(self.counts > step)
            items = self._choose(active, step)
            chosen[active, step] = items
            self.seen[active, items] = True
            self.last[active] = self.world.category[items]
        made = np.arange(self.steps) < self.counts[:, None]
        return pa.RecordBatch.from_pydict(
            {
                "user_id": _names("u", np.repeat(self.users, self.counts)),
                "item_id": _names("i", chosen[made]),
                "timestamp": self.timestamps[made],
            }
        )

    def _timestamps(self) -> Integers:
        """`(users, steps)`; a user is active for 5 to 35 percent of the year."""
        span = self.rng.uniform(0.05, 0.35, (len(self.users), 1))
        start = self.rng.random((len(self.users), 1)) * (1 - span)
        times = start + span * self.rng.random((len(self.users), self.steps))
        times[np.arange(self.steps) >= self.counts[:, None]] = 1.0
        seconds = _START_S + (np.sort(times, axis=1) * _YEAR_S).astype(np.int64)
        steps = np.arange(self.steps)
        increasing: Integers = np.maximum.accumulate(seconds - steps, axis=1) + steps
        return increasing

    def _choose(self, active: Integers, step: int) -> Integers:
        draws = self.rng.random((len(active), _SLATE))
        slate = np.searchsorted(self.world.cumulative, draws)
        noise = self.rng.gumbel(size=slate.shape)
        time = (self.timestamps[active, step] - _START_S) / _YEAR_S
        utility = self._utility(active, slate, time) + noise
        utility[self.seen[active[:, None], slate]] = -np.inf
        best = utility.argmax(axis=1)
        rows = np.arange(len(active))
        items: Integers = slate[rows, best]
        for row in np.flatnonzero(np.isneginf(utility[rows, best])):
            items[row] = self.rng.choice(np.flatnonzero(~self.seen[active[row]]))
        return items

    def _utility(self, active: Integers, slate: Integers, time: Floats) -> Floats:
        world, strengths = self.world, self.world.recipe.strengths
        users = self.users[active]
        category = world.category[slate]
        after = (self.last[active, None] + 1) % world.recipe.n_segments
        follows = (category == after) & (self.last[active, None] >= 0)
        season = np.cos(2 * np.pi * (time[:, None] - world.season[slate]))
        taste = np.einsum("ud,uid->ui", self.taste[active], world.vector[slate])
        gap = world.log_price[slate] - world.log_budget[users][:, None]
        utility: Floats = (
            strengths.drift * season
            + strengths.cross * world.cross[world.segment[users][:, None], category]
            + strengths.taste * taste
            + strengths.sequence * follows
            - strengths.price * gap**2
            + strengths.quality * world.quality[slate]
        )
        return utility


def _activity(rng: np.random.Generator, recipe: _Recipe) -> Integers:
    """`(n_queries,)`, log-normal, at most the number of items, with the exact total."""
    share = rng.lognormal(sigma=0.6, size=recipe.n_queries)
    counts = np.zeros(recipe.n_queries, np.int64)
    left = recipe.n_interactions
    while left:
        room = counts < recipe.n_items
        counts += rng.multinomial(left, room * share / (room * share).sum())
        counts = np.minimum(counts, recipe.n_items)
        left = recipe.n_interactions - int(counts.sum())
    return counts


def _names(letter: str, numbers: Integers) -> pa.Array:
    return pa.array([f"{letter}{number}" for number in numbers.tolist()], pa.string())
