"""tower_export: towers that recdistill did not build are served like a student's."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from recdistill.errors import ReindexError
from recdistill.export import (
    EmbeddedItems,
    EncodedItems,
    ExportSettings,
    TowerSource,
    export_towers,
    reindex,
)
from recdistill.export.tower_export import _opened
from recdistill.retrieval.exact import LOWEST
from recdistill.serving import Client
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions

pytestmark = pytest.mark.slow

ITEMS = [f"film-{k}" for k in range(30)]
USERS = ["ann", "bob", "nobody", ""]
HISTORIES = [["film-1", "film-2", "film-7"], ["film-3"], [], ["unknown", "film-0"]]
QUERIES = {
    "user_id": USERS,
    "history": HISTORIES,
    "age": [31.0, 47.0, 20.0, 65.0],
}
SETTINGS = ExportSettings(top_k=5, warm_up_batches=(1, 2))
ANY = tf.constant([[""]])


def embedding_of(vocabulary, width, mask_token=None):
    """A lookup of texts and an embedding of its indices."""
    lookup = keras.layers.StringLookup(vocabulary=vocabulary, mask_token=mask_token)
    return lookup, keras.layers.Embedding(lookup.vocabulary_size(), width)


def functional_query_tower():
    """Raw user, history of any length and age to five dimensions, with Keras layers."""
    user = keras.Input((), dtype="string", name="user_id")
    history = keras.Input((None,), dtype="string", name="history")
    age = keras.Input((), name="age")
    lookup, embed = embedding_of(["ann", "bob"], 3)
    item_lookup, item_embed = embedding_of(ITEMS[:20], 4, mask_token="")
    mask = keras.ops.cast(item_lookup(history) != 0, "float32")[..., None]
    pooled = keras.ops.sum(item_embed(item_lookup(history)) * mask, axis=1)
    scaled = keras.ops.expand_dims(age / 100.0, 1)
    joined = keras.layers.Concatenate()([embed(lookup(user)), pooled, scaled])
    inputs = {"user_id": user, "history": history, "age": age}
    return keras.Model(inputs, keras.layers.Dense(5)(joined))


class ItemTower(keras.layers.Layer):
    """A subclass that takes a dict: the title's embedding plus a function of the price.

    Its lookup is in a dict of lists, and a dropout must not run when serving.
    """

    def __init__(self):
        super().__init__()
        self.parts = {"title": [*embedding_of([f"Title {k}" for k in range(9)], 5)]}
        self.price = keras.layers.Dense(5)
        self.dropout = keras.layers.Dropout(0.9)

    def call(self, inputs, training=False):
        lookup, embed = self.parts["title"]
        title = embed(lookup(inputs["title"]))
        price = self.price(keras.ops.expand_dims(inputs["price"], 1))
        return self.dropout(title + price, training=training)


class QueryModel(keras.Model):
    """A subclass that takes a dict and refuses any input that is not its own."""

    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def call(self, inputs):
        if set(inputs) != {"user_id", "history", "age"}:
            raise ValueError(f"Received: {sorted(inputs)}")
        return self.tower(inputs)


FEATURES = pd.DataFrame(
    {
        "title": [f"Title {k % 11}" for k in range(30)],
        "price": np.linspace(0, 3, 30),
    }
)


@pytest.fixture(scope="module")
def query_tower():
    keras.utils.set_random_seed(3)
    return functional_query_tower()


@pytest.fixture(scope="module")
def live_queries(query_tower):
    padded = np.full((4, 3), "", object)
    for row, ids in enumerate(HISTORIES):
        padded[row, : len(ids)] = ids
    inputs = {
        "user_id": tf.constant(USERS),
        "history": tf.constant(padded),
        "age": tf.constant(QUERIES["age"]),
    }
    return query_tower(inputs, training=False).numpy()


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(4).normal(size=(30, 5)).astype("float32")


@pytest.fixture(scope="module")
def embedded(query_tower, vectors, tmp_path_factory):
    """A functional query tower with given item embeddings."""
    return export_towers(
        query_tower,
        tmp_path_factory.mktemp("export"),
        name="own",
        items=EmbeddedItems(ITEMS, vectors),
        queries=QUERIES,
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def item_tower():
    keras.utils.set_random_seed(5)
    return ItemTower()


@pytest.fixture(scope="module")
def encoded(query_tower, item_tower, tmp_path_factory):
    """Two subclasses as towers, and the items' features in a data frame."""
    return export_towers(
        QueryModel(query_tower),
        tmp_path_factory.mktemp("export"),
        name="own",
        items=EncodedItems(ITEMS, item_tower, FEATURES),
        queries=QUERIES,
        settings=SETTINGS,
    )


def ask(exported, signature, rows, **more):
    """Answers of a loaded export to some of the queries."""
    loaded = tf.saved_model.load(str(getattr(exported, "path", exported)))
    width = max(1, *(len(HISTORIES[row]) for row in rows))
    history = [HISTORIES[row] + [""] * (width - len(HISTORIES[row])) for row in rows]
    answer = loaded.signatures[signature](
        user_id=tf.constant([USERS[row] for row in rows]),
        history=tf.constant(history),
        age=tf.constant([QUERIES["age"][row] for row in rows]),
        **{name: tf.constant(value) for name, value in more.items()},
    )
    return {name: value.numpy() for name, value in answer.items()}


def texts(ids):
    return [[each.decode() for each in row] for row in ids]


class TestEmbeddedItems:
    def test_inputs_keep_their_names_dtypes_and_free_widths(self, embedded):
        assert embedded.manifest["signatures"]["serving_default"]["inputs"] == {
            "age": {"dtype": "float32", "shape": [None]},
            "history": {"dtype": "string", "shape": [None, None]},
            "user_id": {"dtype": "string", "shape": [None]},
        }

    def test_there_are_four_signatures_without_a_candidate_tower(self, embedded):
        assert sorted(embedded.manifest["signatures"]) == [
            "encode_query",
            "rank",
            "recommend",
            "serving_default",
        ]
        # Two `recommend` requests for each of three batch sizes.
        assert embedded.parity.requests == 3 * 5
        assert embedded.parity.max_difference <= 1e-5

    def test_the_plain_call_returns_the_best_items(
        self, embedded, live_queries, vectors
    ):
        answer = ask(embedded, "serving_default", [0, 1, 2, 3])
        best = np.argsort(-live_queries @ vectors.T, axis=1)[:, :5]
        assert texts(answer["item_ids"]) == np.array(ITEMS)[best].tolist()

    def test_excluded_items_are_left_out_and_k_is_chosen_by_the_caller(
        self, embedded, live_queries, vectors
    ):
        order = np.array(ITEMS)[np.argsort(-live_queries[0] @ vectors.T)]
        answer = ask(
            embedded,
            "recommend",
            [0],
            k=[3],
            exclude_ids=[[order[0], order[2], "never seen"]],
            allow_ids=[[""]],
        )
        assert texts(answer["item_ids"]) == [[order[1], order[3], order[4]]]

    def test_rank_scores_known_items_and_marks_unknown_ones(
        self, embedded, live_queries, vectors
    ):
        asked = [["film-9", "never seen"]]
        answer = ask(embedded, "rank", [1], candidate_ids=asked)
        assert answer["known"].tolist() == [[True, False]]
        want = [live_queries[1] @ vectors[9], LOWEST]
        np.testing.assert_allclose(answer["scores"][0], want, rtol=1e-5)

    def test_each_weight_is_stored_once(self, embedded, query_tower):
        prefix = str(embedded.path / "variables" / "variables")
        stored = dict(tf.train.list_variables(prefix))
        stored.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
        want = [tuple(v.shape) for v in query_tower.trainable_variables]
        want += [(30, 5), (30,)]  # Item embeddings and ids.
        assert sorted(map(tuple, stored.values())) == sorted(want)

    def test_the_model_card_lists_the_inputs(self, embedded):
        card = (embedded.path / "assets.extra" / "MODEL_CARD.md").read_text()
        assert "| query | `history` | string |  |" in card
        assert "A two-tower model:" in card

    def test_the_client_gets_the_same_answers_from_the_embedded_server(
        self, embedded, live_queries, vectors, tmp_path
    ):
        folder = embedded.path.parent
        file = tmp_path / "models.config"
        Models().with_model("own", str(folder.resolve())).write(file)
        queries = [
            {"user_id": user, "history": history, "age": age}
            for user, history, age in zip(*QUERIES.values(), strict=True)
        ]
        order = np.argsort(-live_queries @ vectors.T, axis=1)
        exclude = [[ITEMS[rows[0]], "unknown"] for rows in order]
        with (
            LocalServer(ServerOptions(file, port=0, rest_port=0)) as server,
            Client(f"http://127.0.0.1:{server.rest_port}", "own") as client,
        ):
            lists = client.recommend(queries, k=3, exclude=exclude)
            ranked = client.rank(queries[:1], [["film-2", "unknown"]])
        for answer, rows in zip(lists, order, strict=True):
            assert list(answer.item_ids) == [ITEMS[row] for row in rows[1:4]]
        assert list(ranked[0].known) == [True, False]
        score = live_queries[0] @ vectors[2]
        np.testing.assert_allclose(ranked[0].scores[0], score, rtol=1e-5)

    def test_its_items_cannot_be_replaced_without_a_candidate_tower(self, embedded):
        items = pa.table({"item_id": ITEMS})
        with pytest.raises(ReindexError, match="with a candidate tower, to encode the"):
            reindex(embedded.path.parent, items)


class TestEncodedItems:
    def test_all_five_signatures_exist_and_agree(self, encoded):
        signature = encoded.manifest["signatures"]["encode_candidates"]
        assert signature["inputs"] == {
            "price": {"dtype": "float32", "shape": [None]},
            "title": {"dtype": "string", "shape": [None]},
        }
        assert encoded.parity.requests == 3 * 6
        assert encoded.parity.max_difference <= 1e-5

    def test_items_are_replaced_by_reindex(self, encoded, item_tower, live_queries):
        titles, prices = ["Title 2", "never seen", "Title 0"] * 2, np.arange(6.0)
        items = pa.table(
            {"title": titles, "price": prices, "item_id": [*"uvwxyz"], "more": prices}
        )
        done = reindex(encoded.path.parent, items)
        assert done.version == 2
        assert done.manifest["schema"] == encoded.manifest["schema"]
        features = {
            "title": tf.constant(titles),
            "price": tf.constant(prices, "float32"),
        }
        want = live_queries[1] @ item_tower(features).numpy().T
        answer = ask(done, "rank", [1], candidate_ids=[[*"uvwxyz", "film-1"]])
        assert answer["known"].tolist() == [[True] * 6 + [False]]
        np.testing.assert_allclose(answer["scores"][0, :6], want, atol=1e-5)

    def test_reindex_needs_the_column_of_the_ids(self, encoded):
        items = pa.table({"title": ITEMS, "price": np.zeros(30)})
        with pytest.raises(ReindexError, match="must have the column 'item_id'"):
            reindex(encoded.path.parent, items, version=1)


class VectorTower(tf.Module):
    """A module without Keras: a vocabulary file, a matrix and two outputs."""

    def __init__(self, file):
        super().__init__()
        initializer = tf.lookup.TextFileInitializer(
            str(file),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(initializer, 2)
        self.matrix = tf.Variable([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "user")])
    def encode(self, user):
        vectors = tf.gather(self.matrix, self.table.lookup(user))
        return {"vector": vectors, "norm": tf.norm(vectors, axis=1)}


@pytest.fixture
def saved_module(tmp_path):
    vocabulary = tmp_path / "users.txt"
    vocabulary.write_text("ann\nbob\n")
    module = VectorTower(vocabulary)
    folder = tmp_path / "tower"
    tf.saved_model.save(module, str(folder), signatures={"users": module.encode})
    vocabulary.unlink()
    return folder


class TestSavedModels:
    def test_a_saved_model_with_a_vocabulary_file_is_a_tower(
        self, saved_module, tmp_path
    ):
        done = export_towers(
            TowerSource(saved_module, signature="users", output="vector"),
            tmp_path / "export",
            name="own",
            items=EmbeddedItems([7, 8], [[1.0, 0.0], [0.0, 1.0]]),
            queries={"user": ["ann", "bob", "nobody"]},
            settings=ExportSettings(top_k=2),
        )
        loaded = tf.saved_model.load(str(done.path))
        answer = loaded.signatures["serving_default"](user=tf.constant(["bob", "ann"]))
        assert texts(answer["item_ids"].numpy()) == [["8", "7"], ["7", "8"]]
        assert answer["scores"].numpy().tolist() == [[2.0, 0.0], [1.0, 0.0]]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({}, r"must have the signature 'serving_default'.*\['users'\]"),
            ({"signature": "users"}, r"one output.*of \['norm', 'vector'\]"),
        ],
    )
    def test_a_signature_or_output_that_is_ambiguous_is_refused(
        self, saved_module, tmp_path, changes, message
    ):
        with pytest.raises(ValueError, match=message):
            export_towers(
                TowerSource(saved_module, **changes),
                tmp_path / "export",
                name="own",
                items=EmbeddedItems(["a"], [[1.0, 0.0]]),
                queries=["ann"],
            )

    @pytest.mark.skipif(
        not importlib.util.find_spec("tensorflow_recommenders")
        or not importlib.util.find_spec("tf_keras"),
        reason="tensorflow-recommenders and tf_keras are not installed",
    )
    def test_a_tfrs_pair_is_exported_through_its_saved_models(self, tmp_path):
        script = Path(__file__).with_name("save_tfrs_towers.py")
        subprocess.run(
            [sys.executable, str(script), str(tmp_path)],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
            check=True,
            capture_output=True,
        )
        expected = np.load(tmp_path / "expected.npz")
        users, films = expected["users"], expected["films"]
        # The other way: the tower built again in Keras 3, with the old weights.
        rebuilt = keras.Sequential(embedding_of(users.tolist(), 4))
        rebuilt(tf.constant(users))
        rebuilt.set_weights([expected["query_weights"]])
        np.testing.assert_array_equal(rebuilt(tf.constant(users)), expected["queries"])
        done = export_towers(
            tmp_path / "query",
            tmp_path / "export",
            name="films",
            items=EncodedItems(films, tmp_path / "candidate", films),
            queries=users,
            settings=ExportSettings(top_k=3),
        )
        [name] = done.manifest["signatures"]["serving_default"]["inputs"]
        loaded = tf.saved_model.load(str(done.path))
        answer = loaded.signatures["serving_default"](**{name: tf.constant(users)})
        scores = expected["queries"] @ expected["items"].T
        best = np.argsort(-scores, axis=1)[:, :3]
        assert texts(answer["item_ids"].numpy()) == films[best].tolist()


class TestInputsOfTowers:
    """Names, dtypes and shapes of inputs, without an export."""

    def opened(self, tower, examples):
        return _opened("query_tower", tower, "queries", examples)

    def specs(self, tower, examples):
        opened, _ = self.opened(tower, examples)
        return {
            name: (spec.dtype.name, spec.shape.as_list())
            for name, spec in opened.inputs.items()
        }

    def test_a_sequential_tower_takes_one_array(self):
        tower = keras.Sequential(embedding_of(["ann"], 2))
        opened, rows = self.opened(tower, ["ann", "bob"])
        assert self.specs(tower, ["ann", "bob"]) == {"input": ("string", [None])}
        assert opened.encode({"input": tf.constant(rows["input"])}).shape == (2, 2)

    def test_the_only_key_of_a_mapping_names_an_input_without_a_name(self):
        tower = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        assert self.specs(tower, {"taste": np.ones((4, 3))}) == {
            "taste": ("float32", [None, 3])
        }

    def test_the_name_that_a_tower_gives_its_input_stays(self):
        tower = keras.Sequential(
            [keras.Input((3,), name="taste"), keras.layers.Dense(2)]
        )
        assert list(self.specs(tower, np.ones((4, 3)))) == ["taste"]
        with pytest.raises(ValueError, match=r"input 'taste'.*\['flavour'\]"):
            self.specs(tower, {"flavour": np.ones((4, 3))})

    def test_a_functional_tower_with_a_list_of_inputs_is_called_by_names(self):
        first, second = keras.Input((2,), name="a"), keras.Input((2,), name="b")
        tower = keras.Model([first, second], first - second)
        opened, rows = self.opened(tower, {"b": [[1, 1]], "a": np.float32([[3, 5]])})
        got = opened.encode({name: tf.constant(value) for name, value in rows.items()})
        assert got.numpy().tolist() == [[2.0, 4.0]]

    def test_inputs_of_a_subclass_are_those_of_the_example_rows(self):
        examples = {
            "title": ["a"],
            "price": np.array([1.5]),
            "codes": np.array([[1, 2, 3]]),
        }
        assert self.specs(ItemTower(), examples) == {
            "title": ("string", [None]),
            "price": ("float32", [None]),
            "codes": ("int64", [None, 3]),
        }

    def test_lists_of_different_lengths_make_an_axis_variable(self):
        specs = self.specs(ItemTower(), {"tags": [["a"], ["b", "c"]]})
        assert specs == {"tags": ("string", [None, None])}

    def test_inputs_can_be_declared(self):
        spec = tf.TensorSpec([None, None], tf.int32)
        tower = TowerSource(ItemTower(), inputs={"codes": spec})
        assert self.specs(tower, {"codes": np.array([[1, 2, 3]])}) == {
            "codes": ("int32", [None, None])
        }


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"queries": {**QUERIES, "age": ["old"] * 4}},
                r"must hold float32 values for the input 'age'. Received: text.*'old'",
            ),
            (
                {"queries": {**QUERIES, "user_id": [1, 2, 3, 4]}},
                r"must hold string values for the input 'user_id'. Received: int64",
            ),
            (
                {"queries": {k: v for k, v in QUERIES.items() if k != "age"}},
                r"`queries` must have the raw input 'age'",
            ),
            ({"queries": USERS}, r"must be a mapping from input names to arrays"),
            (
                {"queries": {**QUERIES, "age": [1.0]}},
                r"`queries` must have the same number of rows.*'age': 1",
            ),
            (
                {"items": EmbeddedItems(ITEMS[:29], np.ones((30, 5)))},
                r"one id for each item. Received: 29 ids for 30 items",
            ),
            (
                {"items": EmbeddedItems(ITEMS, np.ones((30, 4)))},
                r"with the dim of the query tower, 5. Received: shape \(30, 4\)",
            ),
            (
                {"items": EmbeddedItems(["film-1"] * 30, np.ones((30, 5)))},
                r"each id once.*Received: 'film-1'",
            ),
            (
                {"items": EmbeddedItems(np.ones(30), np.ones((30, 5)))},
                r"`ids` must be a list of strings or integers.*float64",
            ),
            ({"items": EmbeddedItems(ITEMS, np.full((30, 5), np.nan))}, "be finite"),
            ({"settings": ExportSettings(top_k=31)}, r"items, 30. Received: top_k=31"),
            ({"query_tower": len}, r"`query_tower` must be a Keras layer or model, or"),
            ({"name": "a/b"}, r"`name` must start with a letter"),
        ],
    )
    def test_an_argument_that_does_not_fit_is_refused(
        self, query_tower, vectors, tmp_path, changes, message
    ):
        arguments = {
            "query_tower": query_tower,
            "folder": tmp_path,
            "name": "own",
            "items": EmbeddedItems(ITEMS, vectors),
            "queries": QUERIES,
            "settings": SETTINGS,
        }
        with pytest.raises(ValueError, match=message):
            export_towers(**{**arguments, **changes})
        assert list(tmp_path.iterdir()) == []

    def test_a_tower_without_a_list_axis_in_its_output(self, tmp_path):
        tower = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(4)])
        with pytest.raises(ValueError, match=r"\(batch, dim\).*\(5, 2, 4\)"):
            export_towers(
                tower,
                tmp_path,
                name="own",
                items=EmbeddedItems(["a"], np.ones((1, 4))),
                queries=np.ones((5, 2, 3)),
            )

    def test_a_tower_whose_answer_depends_on_the_padding_of_a_list(self, tmp_path):
        codes = keras.Input((None,), dtype="int32", name="codes")
        pooled = keras.layers.GlobalAveragePooling1D()(
            keras.layers.Embedding(9, 4)(codes)
        )
        with pytest.raises(ValueError, match=r"\(0\) at the end of `codes`.*mask_zero"):
            export_towers(
                keras.Model({"codes": codes}, pooled),
                tmp_path,
                name="mean",
                items=EmbeddedItems(["a", "b"], np.ones((2, 4))),
                queries={"codes": [[3], [4, 5]]},
            )
        assert not list(tmp_path.rglob("saved_model.pb"))

    def test_an_input_with_a_reserved_name(self, tmp_path):
        tower = keras.Sequential([keras.Input((2,), name="k"), keras.layers.Dense(4)])
        with pytest.raises(ValueError, match=r"must not be called .*Received: 'k'"):
            export_towers(
                tower,
                tmp_path,
                name="own",
                items=EmbeddedItems(["a"], np.ones((1, 4))),
                queries=np.ones((5, 2)),
                settings=ExportSettings(top_k=1),
            )

    def test_a_lookup_table_that_no_layer_has(self, tmp_path):
        hidden = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["ann"], [1]), 0
        )

        class Hidden(keras.layers.Layer):
            def call(self, users):
                return tf.one_hot(hidden.lookup(users), 4)

        with pytest.raises(ValueError, match="keep its lookup tables as attributes"):
            export_towers(
                Hidden(),
                tmp_path,
                name="own",
                items=EmbeddedItems(["a"], np.ones((1, 4))),
                queries=["ann", "bob"],
                settings=ExportSettings(top_k=1),
            )
        assert list((tmp_path / "own").iterdir()) == []
