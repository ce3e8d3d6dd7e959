"""unknown_values: shares by feature, without missing values."""

import numpy as np

from recdistill.features import CategorySpec, HistorySpec, IdSpec, TextSpec
from recdistill.features.encoders import (
    HistoryEncoder,
    TextEncoder,
    VocabularyEncoder,
)
from recdistill.features.unknown_values import (
    UnknownValues,
    in_words,
    with_vocabulary,
)


def test_missing_values_do_not_count():
    found = UnknownValues()
    found.add("club", np.array([0, 0, 1, 2]))
    found.add("club", np.array([[1, 5], [0, 0]]))
    found.add("empty", np.array([0, 0]))
    found.add("bad", np.array([1, 0, 1]))
    assert found.shares() == {"club": 0.5, "empty": 0.0, "bad": 1.0}
    assert found.everywhere() == {"bad": 2}
    total = UnknownValues()
    total.update(found)
    total.update(found)
    assert total.everywhere() == {"bad": 4}


def test_features_with_a_vocabulary_are_selected():
    items = VocabularyEncoder("item", IdSpec(), ["a"])
    encoders = [
        items,
        VocabularyEncoder("club", CategorySpec(), ["b"]),
        TextEncoder("title", TextSpec()),
        HistoryEncoder("past", HistorySpec(), items),
    ]
    names = [encoder.feature for encoder in with_vocabulary(encoders)]
    assert names == ["item", "club", "past"]


def test_shares_are_described_from_the_largest_to_the_smallest():
    assert in_words({"a": 0.0, "b": 0.25, "c": 1.0}) == "c 100.0 %, b 25.0 %"
    assert in_words({}) == ""
