"""signatures: answers of the exported graph, called as the C++ server calls it."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.export.signatures import Servable
from recdistill.export.student_export import StudentTowers
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import LARGEST, LOWEST, ExactIndex
from tests.small_models import ITEMS, films_items, films_rows

pytestmark = pytest.mark.slow

ANY = np.full((1, 1), "", object)
"""Ids of one query that excludes nothing, or may get any item."""


def queries_of(rows):
    chosen = np.atleast_1d(rows)
    raw = films_rows()
    raw.pop("dwell")
    return {name: value[chosen] for name, value in raw.items()}


def as_text(ids):
    return [[each.decode() for each in row] for row in ids]


class TestAnswers:
    @pytest.mark.parametrize("batch", [1, 7])
    def test_serving_default_returns_the_best_items(self, serve, scores, batch):
        answer = serve("serving_default", queries_of(np.arange(batch)))
        best = np.argsort(-scores[:batch], axis=1)[:, :10]
        assert as_text(answer["item_ids"]) == np.array(ITEMS)[best].tolist()
        want = np.take_along_axis(scores[:batch], best, axis=1)
        np.testing.assert_allclose(answer["scores"], want, atol=1e-5)

    @pytest.mark.parametrize("batch", [1, 7])
    @pytest.mark.parametrize("list_size", [1, 50])
    def test_rank_returns_the_live_scores(self, serve, scores, batch, list_size):
        rng = np.random.default_rng(list_size)
        rows = rng.integers(0, len(ITEMS), (batch, list_size))
        inputs = {"candidate_ids": np.array(ITEMS)[rows]}
        answer = serve("rank", queries_of(np.arange(batch)) | inputs)
        want = np.take_along_axis(scores[:batch], rows, axis=1)
        np.testing.assert_allclose(answer["scores"], want, atol=1e-5)
        assert answer["known"].all()

    def test_unknown_candidates_are_marked_and_get_the_lowest_score(self, serve):
        inputs = {"candidate_ids": [["never seen", ITEMS[3], ""]]}
        answer = serve("rank", queries_of(0) | inputs)
        assert answer["known"].tolist() == [[False, True, False]]
        lowest = np.float32(LOWEST)
        assert (answer["scores"][0] == lowest).tolist() == [True, False, True]

    def test_both_towers_return_the_live_embeddings(self, serve, embeddings):
        queries, items = embeddings
        got = serve("encode_query", queries_of(np.arange(12)))["embedding"]
        np.testing.assert_allclose(got, queries, atol=1e-5)
        table = films_items().select(["item_id", "class", "title"]).to_pydict()
        got = serve("encode_candidates", table)["embedding"]
        np.testing.assert_allclose(got, items, atol=1e-5)

    def test_ids_after_the_history_length_are_ignored(self, serve):
        query = queries_of([3])
        assert query["history_length"] == [3]
        plain = serve("encode_query", query)["embedding"]
        junk = np.full((1, 9), ITEMS[7], object)
        junk[:, :3] = query["history"][:, :3]
        wide = serve("encode_query", query | {"history": junk})["embedding"]
        narrow = query | {"history": query["history"][:, :3]}
        np.testing.assert_allclose(wide, plain, atol=1e-6)
        np.testing.assert_allclose(
            serve("encode_query", narrow)["embedding"], plain, atol=1e-6
        )
        longer = query | {"history": junk, "history_length": [4]}
        assert np.abs(serve("encode_query", longer)["embedding"] - plain).max() > 1e-3

    def test_an_empty_history_may_have_width_zero(self, serve):
        query = queries_of([0])
        assert query["history_length"] == [0]
        none = query | {"history": np.zeros((1, 0), object)}
        np.testing.assert_array_equal(
            serve("encode_query", none)["embedding"],
            serve("encode_query", query)["embedding"],
        )

    def test_excluded_items_are_replaced_by_the_next_best(self, serve, scores):
        order = np.array(ITEMS)[np.argsort(-scores[:2], axis=1)]
        exclude = np.array([order[0, :3], ["", "never seen", order[1, 1]]])
        inputs = {"k": [4, 4], "exclude_ids": exclude, "allow_ids": ANY[[0, 0]]}
        got = as_text(serve("recommend", queries_of([0, 1]) | inputs)["item_ids"])
        assert got == [order[0, 3:7].tolist(), order[1, [0, 2, 3, 4]].tolist()]

    def test_an_excluded_input_removes_its_items_up_to_its_length(
        self, schema, student, embeddings, scores
    ):
        # The model reads four ids of a history; query 6 sends six.
        towers = StudentTowers(student, schema)
        catalogue = Catalogue(ITEMS, ExactIndex(embeddings[1]))
        servable = Servable(towers, catalogue, 10, ["history"])
        inputs = queries_of([2, 3, 6])
        best = [ITEMS[k] for k in scores[[2, 3, 6]].argmax(axis=1)]
        inputs["history"] = np.array(
            [
                # The best item stands behind the length and stays.
                [*inputs["history"][0, :2], best[0], *[""] * 3],
                [best[1], "never seen", *inputs["history"][1, 2:]],
                [best[2], *inputs["history"][2, 1:]],
            ],
            object,
        )
        live = {n: tf.constant(v.tolist()) for n, v in inputs.items()}
        live |= {"Age": tf.constant(inputs["Age"], tf.float32)}
        live |= {"taste": tf.constant(inputs["taste"], tf.float32)}
        own = schema.for_student().lookup_query(live)
        scored = student.encode_query(own).numpy() @ embeddings[1].T
        extra = {
            "k": tf.constant([10, 10, 10]),
            "exclude_ids": tf.constant([[ITEMS[5]], [""], ["never seen"]]),
            "allow_ids": tf.constant([[""]] * 3),
        }
        answers = {
            "serving_default": servable.signatures["serving_default"].call(live),
            "recommend": servable.signatures["recommend"].call({**live, **extra}),
        }
        for name, answer in answers.items():
            for row, length in enumerate([2, 3, 6]):
                gone = set(inputs["history"][row, :length])
                if name == "recommend" and row == 0:
                    gone.add(ITEMS[5])
                order = np.argsort(-scored[row])
                want = [ITEMS[k] for k in order if ITEMS[k] not in gone][:10]
                assert as_text(answer["item_ids"].numpy())[row] == want

    def test_k_may_be_the_catalogue_size_and_places_without_item_are_empty(self, serve):
        inputs = {"k": [60], "exclude_ids": [ITEMS[1:]], "allow_ids": ANY}
        answer = serve("recommend", queries_of(0) | inputs)
        [ids], [got] = as_text(answer["item_ids"]), answer["scores"]
        assert ids == [ITEMS[0]] + [""] * (len(ITEMS) - 1)
        assert np.isfinite(got).all()
        assert (got[1:] == np.float32(LOWEST)).all()

    def test_a_restricted_query_gets_only_allowed_items(self, serve, scores):
        allow = np.array([[ITEMS[7], ITEMS[3], "never seen", ITEMS[3]], [""] * 4])
        inputs = {"k": [3, 3], "exclude_ids": ANY[[0, 0]], "allow_ids": allow}
        answer = serve("recommend", queries_of([0, 1]) | inputs)
        limited, free = as_text(answer["item_ids"])
        pair = sorted([3, 7], key=lambda row: -scores[0, row])
        assert limited == [ITEMS[pair[0]], ITEMS[pair[1]], ""]
        assert free == np.array(ITEMS)[np.argsort(-scores[1])[:3]].tolist()
        want = [*scores[0, pair], LOWEST]
        np.testing.assert_allclose(answer["scores"][0], want, rtol=1e-5)

    def test_a_query_restricted_to_unknown_or_excluded_items_gets_none(self, serve):
        allow = np.array([["never seen", ""], [ITEMS[3], ITEMS[3]]])
        exclude = np.array([[""], [ITEMS[3]]])
        inputs = {"k": [2, 2], "exclude_ids": exclude, "allow_ids": allow}
        answer = serve("recommend", queries_of([0, 1]) | inputs)
        assert as_text(answer["item_ids"]) == [["", ""]] * 2
        assert (answer["scores"] == np.float32(LOWEST)).all()

    def test_every_query_of_a_batch_gets_the_largest_k(self, serve):
        inputs = {"k": [1, 3], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]}
        both = serve("recommend", queries_of([4, 5]) | inputs)
        alone = {"k": [3], "exclude_ids": ANY, "allow_ids": ANY}
        first = serve("recommend", queries_of(4) | alone)
        assert both["item_ids"].shape == (2, 3)
        assert as_text(both["item_ids"])[:1] == as_text(first["item_ids"])

    def test_a_request_without_rows_has_an_empty_answer(self, serve):
        inputs = {"k": [], "exclude_ids": ANY[:0], "allow_ids": ANY[:0]}
        answer = serve("recommend", queries_of(np.arange(0)) | inputs)
        assert answer["item_ids"].shape == answer["scores"].shape == (0, 1)

    @pytest.mark.parametrize("age", [np.nan, np.inf, 3e38, -3e38])
    def test_scores_are_finite_for_extreme_inputs(self, serve, age):
        query = queries_of(1) | {"Age": [age], "taste": [[age, 3e38]]}
        for signature in ("serving_default", "encode_query"):
            for value in serve(signature, query).values():
                assert value.dtype == object or np.isfinite(value).all()
        entries = serve("encode_query", query)["embedding"]
        assert np.abs(entries).max() <= np.float32(LARGEST)

    @pytest.mark.parametrize(
        ("signature", "inputs", "message"),
        [
            (
                "recommend",
                {"k": [0, 5], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]},
                r"`k` must be from 1 to the number of items, 60\. Received:.*0 5",
            ),
            (
                "recommend",
                {"k": [1, 61], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]},
                r"`k` must be from 1 to the number of items, 60\. Received:.*1 61",
            ),
            (
                "rank",
                {"candidate_ids": [["a"], ["b"], ["c"]]},
                r"`candidate_ids` must have the batch size of `.+`\. Received:.*3.*2",
            ),
            (
                "serving_default",
                {"Age": [1.0]},
                r"`Age` must have the batch size of `user_id`\. Received:.*1.*2",
            ),
            (
                "encode_query",
                {"history_length": [0, 7]},
                r"`history_length` must be from 0 to the width of `history`\. "
                r"Received:.*0 7.*6",
            ),
            ("encode_query", {"history_length": [-1, 0]}, r"`history_length` must be"),
            (
                "encode_query",
                {"history": ["a", "b"]},
                r"encode_query_history\S* \[2\] is not compatible with "
                r"expected shape \[\?,\?\][\s\S]*input_history",
            ),
            ("rank", {"candidate_ids": ["a", "b"]}, r"input_candidate_ids"),
        ],
    )
    def test_the_error_names_the_wrong_input(self, serve, signature, inputs, message):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            serve(signature, queries_of([0, 1]) | inputs)
