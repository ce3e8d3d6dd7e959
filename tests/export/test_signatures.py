"""signatures: answers of the exported graph, called as the C++ server calls it."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.export.signatures import Servable, Signature, _arguments, _concrete
from recdistill.export.student_export import StudentTowers
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.clustering import build_lists
from recdistill.retrieval.exact import LARGEST, LOWEST, ExactIndex
from recdistill.retrieval.ivf import IVFIndex
from tests.server_batches import answers_in_company, assert_same_answer
from tests.small_models import ITEMS, films_items, films_rows

pytestmark = pytest.mark.slow

ANY = np.full((1, 1), "", object)
"""Ids of one query that excludes nothing, or may get any item."""


def test_names_of_inputs_may_differ_in_upper_and_lower_case_only(tmp_path):
    names = ["size", "Size", "class", "input_2", "größe"]
    specs = {name: tf.TensorSpec([None], tf.float32) for name in names}
    one = Signature(specs, lambda x: {"y": x["size"] - x["Size"] + x["größe"]})
    tf.saved_model.save(tf.Module(), tmp_path, signatures={"one": _concrete(one)})
    arguments = _arguments(specs)
    values = {a: tf.constant([float(names.index(n))]) for a, n in arguments.items()}
    answer = tf.saved_model.load(tmp_path).signatures["one"](**values)
    assert answer["y"].numpy() == [0 - 1 + 4]
    assert sorted(arguments.values()) == sorted(names)


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

    def test_places_after_the_k_of_a_query_are_empty(self, serve):
        inputs = {"k": [1, 3], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]}
        both = serve("recommend", queries_of([4, 5]) | inputs)
        alone = {"k": [1], "exclude_ids": ANY, "allow_ids": ANY}
        first = serve("recommend", queries_of(4) | alone)
        assert as_text(both["item_ids"])[0] == [*as_text(first["item_ids"])[0], "", ""]
        want = [first["scores"][0, 0], LOWEST, LOWEST]
        np.testing.assert_allclose(both["scores"][0], want, rtol=1e-5)
        assert all(as_text(both["item_ids"])[1])

    @pytest.mark.parametrize(
        ("k", "places"), [(0, 0), (-3, 0), (61, 60), (2**31 - 1, 60)]
    )
    def test_a_wrong_k_is_clamped_in_its_own_row(self, serve, k, places):
        inputs = {"k": [2, k], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]}
        ids = as_text(serve("recommend", queries_of([4, 5]) | inputs)["item_ids"])
        assert [sum(map(bool, row)) for row in ids] == [2, places]
        alone = {"k": [2], "exclude_ids": ANY, "allow_ids": ANY}
        first = as_text(serve("recommend", queries_of(4) | alone)["item_ids"])
        assert ids[0][:2] == first[0]

    @pytest.mark.parametrize(("length", "clamped"), [(-1, 0), (7, 3), (99, 3)])
    def test_a_wrong_history_length_is_clamped_in_its_own_row(
        self, serve, length, clamped
    ):
        query = queries_of([3, 3])
        right = serve("encode_query", query | {"history_length": [3, clamped]})
        wrong = serve("encode_query", query | {"history_length": [3, length]})
        np.testing.assert_array_equal(right["embedding"], wrong["embedding"])

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


def random_request(rng, signature, empty_column=True):
    """A request of one to three rows, with lists of any width."""
    rows = int(rng.integers(1, 4))

    def lists(values, most):
        width = int(rng.integers(1, most))
        chosen = rng.choice([*values, ""], (rows, width)).astype(object)
        first = np.full((rows, 1), "", object)
        return np.concatenate([first, chosen], axis=1) if empty_column else chosen

    query = queries_of(rng.integers(0, 12, rows))
    query["jobs"] = lists(["cook", "tailor"], 5)
    width = int(rng.integers(1, 9))
    query["history"] = rng.choice([*ITEMS, "", ""], (rows, width)).astype(object)
    query["history_length"] = rng.integers(0, width + 1, rows).astype("int32")
    if signature == "rank":
        query["candidate_ids"] = lists(["new", *ITEMS], 9)
    if signature == "recommend":
        query["k"] = rng.choice([0, 1, 3, 8, 99], rows).astype("int32")
        query["exclude_ids"] = lists(ITEMS, 30)
        query["allow_ids"] = lists(ITEMS, 30)
        query["allow_ids"][rng.random(rows) < 0.5] = ""
    return query


@pytest.fixture(scope="module")
def serve_ivf(schema, student, embeddings):
    """Answers of the same towers with an IVF index of several probes."""
    items = embeddings[1]
    lists = build_lists(items, seed=1)
    assert len(lists.centroids) >= 5
    index = IVFIndex(items, lists, probes=2, probes_k=10)
    catalogue = Catalogue(ITEMS, index)
    signatures = Servable(StudentTowers(student, schema), catalogue, 10).signatures
    traced = {
        name: tf.function(each.call, input_signature=[each.inputs])
        for name, each in signatures.items()
    }

    def call(signature, inputs):
        specs = signatures[signature].inputs
        tensors = {
            name: tf.constant(inputs[name], s.dtype) for name, s in specs.items()
        }
        return {n: value.numpy() for n, value in traced[signature](tensors).items()}

    return call


@pytest.mark.parametrize("index", ["exact", "ivf"])
class TestCompany:
    """Answers do not depend on the other requests of a batch."""

    @pytest.fixture
    def call(self, request, index):
        return request.getfixturevalue("serve" if index == "exact" else "serve_ivf")

    @pytest.mark.parametrize(
        "signature", ["serving_default", "recommend", "rank", "encode_query"]
    )
    def test_an_answer_in_company_is_the_answer_alone(self, call, signature):
        rng = np.random.default_rng(7)
        for _ in range(12):
            requests = [random_request(rng, signature) for _ in range(4)]
            together = answers_in_company(lambda each: call(signature, each), requests)
            for each, answer in zip(requests, together, strict=True):
                assert_same_answer(call(signature, each), answer)

    def test_exclusions_and_limits_of_a_row_are_its_own(self, call, index):
        def request(exclude, allow):
            lists = {"exclude_ids": exclude, "allow_ids": allow}
            rows = {
                n: np.array([["", *r] for r in v], object) for n, v in lists.items()
            }
            return queries_of([4, 4]) | rows | {"k": np.int32([60, 60])}

        # The second row neither excludes nor limits anything, the first one does both.
        narrow = request([[ITEMS[0]], [""]], [[ITEMS[1]], [""]])
        wide = request([ITEMS[:5]] * 2, [ITEMS[5:9]] * 2)
        first, _ = answers_in_company(lambda x: call("recommend", x), [narrow, wide])
        limited, free = as_text(first["item_ids"])
        assert (limited[0], limited[1:]) == (ITEMS[1], [""] * 59)
        assert set(free) == set(ITEMS)

    def test_a_wrong_value_changes_no_other_row(self, call, index):
        good = random_request(np.random.default_rng(1), "recommend")
        wrong = queries_of([1]) | {
            "k": np.int32([-1]),
            "exclude_ids": np.array([["", "\x00"]], object),
            "allow_ids": np.array([[b"\xff\xfe"]], object),
            "history_length": np.int32([2**31 - 1]),
            "Age": np.float32([np.nan]),
            "user_id": np.array([b"\xff"], object),
        }
        answers = answers_in_company(lambda x: call("recommend", x), [wrong, good])
        assert_same_answer(call("recommend", good), answers[1])

    def test_a_history_that_is_too_long_is_the_same_in_company(self, call, index):
        def request(width):
            history = np.array([["", *ITEMS[:width]]], object)
            length = {"history": history, "history_length": np.int32([99])}
            return queries_of([2]) | length

        narrow, wide = request(2), request(7)
        first, _ = answers_in_company(lambda x: call("encode_query", x), [narrow, wide])
        assert_same_answer(call("encode_query", narrow), first)

    def test_a_request_without_rows_has_empty_answers(self, call, index):
        none = queries_of(np.arange(0))
        lists = {
            "exclude_ids": ANY[:0],
            "allow_ids": ANY[:0],
            "k": np.zeros(0, "int32"),
        }
        assert call("serving_default", none)["item_ids"].shape == (0, 10)
        assert call("recommend", none | lists)["scores"].shape == (0, 1)
