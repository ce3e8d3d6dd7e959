"""Extended vocabularies: earlier indices stay, and new values follow."""

import pyarrow as pa

from recdistill.features.vocabulary_extension import extended_vocabulary


def test_earlier_values_keep_their_index_and_new_ones_follow_in_their_order():
    earlier, newer = ["b", "gone", "a"], ["z", "a", "c", "b"]
    found = extended_vocabulary(earlier, newer).to_pylist()
    assert found == ["b", "gone", "a", "z", "c"]
    # A second extension with the same data changes nothing.
    assert extended_vocabulary(found, newer).to_pylist() == found


def test_empty_vocabularies_can_be_extended_and_arrow_arrays_are_taken():
    ids = pa.array(["7", "07"])
    assert extended_vocabulary([], ids).to_pylist() == ["7", "07"]
    assert extended_vocabulary(ids, []).to_pylist() == ["7", "07"]
