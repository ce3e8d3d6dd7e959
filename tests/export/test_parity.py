"""parity: which answers count as equal to those of the live model."""

from dataclasses import replace

import numpy as np
import pytest

from recdistill.errors import ExportError
from recdistill.export import parity
from recdistill.export.parity import Live, Request, check_parity
from recdistill.retrieval.exact import LOWEST
from tests.small_models import ITEMS, films_items, films_rows

pytestmark = pytest.mark.slow


def live_of(queries, items):
    raw = films_rows()
    raw = {name: value for name, value in raw.items() if name != "dwell"}
    table = films_items().to_pydict()
    candidates = {n: np.array(table[n], object) for n in ("item_id", "class", "title")}
    return Live(raw, candidates, ITEMS[: len(items)], queries, items, 3)


class TestParity:
    """Three items with live scores 1, 1 - 1e-6 and 0 for the only query."""

    def compare(self, signature, answer, **inputs):
        items = np.array([[1.0], [1.0 - 1e-6], [0.0]], "float32")
        live = live_of(np.ones((1, 1), "float32"), items)
        comparison = parity._Comparison(live)
        comparison.add(Request(signature, inputs, np.array([0])), answer)
        return comparison

    def recommended(self, ids, scores, signature="serving_default", **inputs):
        names = np.array([[i.encode() for i in ids]], object)
        answer = {"item_ids": names, "scores": np.array([scores], "float32")}
        return self.compare(signature, answer, **inputs)

    def test_the_right_answer_passes(self):
        got = self.recommended(ITEMS[:3], [1.0, 1.0 - 1e-6, 0.0])
        assert (got.max_difference, got.swapped) == (pytest.approx(0, abs=1e-7), 0)

    def test_items_with_scores_within_the_tolerance_may_swap(self):
        got = self.recommended([ITEMS[1], ITEMS[0], ITEMS[2]], [1.0, 1.0, 0.0])
        assert got.swapped == 2
        assert got.max_difference == pytest.approx(1e-6, rel=0.1)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (
                [ITEMS[0], ITEMS[2], ITEMS[1]],
                r"at place 2 of query 0, with live score 0",
            ),
            ([ITEMS[0], ITEMS[0], ITEMS[2]], "is not 3 distinct items"),
            ([ITEMS[0], ITEMS[1]], "is not 3 distinct items"),
            ([ITEMS[0], ITEMS[1], ""], "at place 3"),
        ],
    )
    def test_wrong_items_fail(self, ids, message):
        with pytest.raises(ExportError, match=message):
            self.recommended(ids, [1.0, 1.0, 0.0][: len(ids)])

    def test_an_excluded_item_fails(self):
        asked = {
            "k": np.array([1]),
            "exclude_ids": [[ITEMS[0]]],
            "allow_ids": [[""]],
        }
        self.recommended([ITEMS[1]], [1.0], "recommend", **asked)
        with pytest.raises(ExportError, match=r"`recommend`.*`item_ids` has b'item-0'"):
            self.recommended([ITEMS[0]], [1.0], "recommend", **asked)

    def test_an_item_of_an_excluded_input_fails(self):
        items = np.array([[1.0], [0.5], [0.0]], "float32")
        live = live_of(np.ones((1, 1), "float32"), items)
        rows = {
            "history": np.array([[ITEMS[1], ITEMS[0]]], object),
            "history_length": np.array([1]),
        }
        live = replace(live, query_rows=rows, excluded_inputs=("history",))
        comparison = parity._Comparison(live)
        request = Request("serving_default", rows, np.array([0]))

        def answer(*places):
            ids = [[ITEMS[k].encode() if k >= 0 else b"" for k in places]]
            scores = [[items[k, 0] if k >= 0 else LOWEST for k in places]]
            return {"item_ids": np.array(ids, object), "scores": np.array(scores)}

        comparison.add(request, answer(0, 2, -1))
        with pytest.raises(ExportError, match=r"has b'item-1' at place 2 of query 0"):
            comparison.add(request, answer(0, 1, 2))

    @pytest.mark.parametrize("wrong", [ITEMS[0], ITEMS[2], "never seen"])
    def test_a_place_without_an_item_must_be_empty(self, wrong):
        asked = {
            "k": np.array([2]),
            "exclude_ids": [[ITEMS[0]]],
            "allow_ids": [[ITEMS[0], ITEMS[1]]],
        }
        scores = [1.0 - 1e-6, LOWEST]
        self.recommended([ITEMS[1], ""], scores, "recommend", **asked)
        with pytest.raises(ExportError, match=r"at place 2 .* must be empty"):
            self.recommended([ITEMS[1], wrong], scores, "recommend", **asked)

    @pytest.mark.parametrize("wrong", [1.0 + 3e-5, np.nan, np.inf])
    def test_a_wrong_score_fails(self, wrong):
        with pytest.raises(ExportError, match=r"`scores` is"):
            self.recommended(ITEMS[:3], [wrong, 1.0, 0.0])

    def test_rank_is_compared_by_score_and_by_known_ids(self):
        asked = {"candidate_ids": [[ITEMS[2], "never seen"]]}
        right = np.array([[0.0, LOWEST]], "float32")
        known = np.array([[True, False]])
        self.compare("rank", {"scores": right, "known": known}, **asked)
        with pytest.raises(ExportError, match="`known` differs"):
            self.compare("rank", {"scores": right, "known": ~known}, **asked)
        with pytest.raises(ExportError, match=r"column 0\), max \|Δ\| 0\.0001 where"):
            self.compare("rank", {"scores": right + 1e-4, "known": known}, **asked)

    def test_large_embeddings_are_compared_relative_to_their_largest_entry(self):
        live = live_of(np.array([[1000.0, 1.0]], "float32"), np.ones((3, 2), "float32"))
        request = Request("encode_query", {}, np.array([0]))
        comparison = parity._Comparison(live)
        comparison.add(request, {"embedding": np.array([[1000.0, 1.0 + 5e-3]])})
        assert comparison.max_difference == pytest.approx(5e-3 / 1000)
        with pytest.raises(ExportError, match=r"`embedding` is 1000\.1 where"):
            comparison.add(request, {"embedding": np.array([[1000.1, 1.0]])})


def test_a_model_that_does_not_load_fails_with_the_reason(tmp_path, embeddings):
    with pytest.raises(ExportError, match=r"fresh process[\s\S]*saved_model"):
        queries, items = embeddings
        raw = {n: v for n, v in films_rows().items() if n != "dwell"}
        table = films_items().to_pydict()
        candidates = {
            n: np.array(table[n], object) for n in ("item_id", "class", "title")
        }
        live = Live(raw, candidates, ITEMS, queries, items, 3)
        check_parity(tmp_path, live, [1])
