"""model_card: the numbers of manifest and report, in valid Markdown."""

from recdistill.export.model_card import render_card

STRING = {"dtype": "string", "shape": [None, None]}
MANIFEST = {
    "name": "films",
    "version": 3,
    "created": "2026-01-02T03:04:05+00:00",
    "items": 12_345,
    "dim": 6,
    "top_k": 10,
    "on_device": True,
    "reindexed_from": None,
    "schema": {
        "item_id": "item_id",
        "query": {"a|b": {"kind": "category", "indices": 5}},
        "candidate": {"vector": {"kind": "vector", "indices": None}},
    },
    "index": {
        "kind": "ivf",
        "storage": "bfloat16",
        "storage_recall": 0.9961,
        "k": 10,
        "probes": 7,
        "lists": 100,
        "share_read": 0.07,
        "recall": 0.9823,
        "target_recall": 0.98,
    },
    "parity": {"queries": 12, "max_difference": 2.5e-7},
    "compatibility": {
        "written_by": "2.21.0",
        "oldest_server": {"tensorflow": "2.12", "because": "the op X"},
    },
    "signatures": {
        "serving_default": {
            "inputs": {"taste": {"dtype": "float32", "shape": [None, 2]}},
            "outputs": {"item_ids": STRING},
        }
    },
    "metadata": {},
}
REPORT = {
    "dataset": {
        "name": "Films",
        "interactions": 4_000,
        "queries": 240,
        "items": 60,
    },
    "protocol": {
        "split": "test, the last 10%",
        "lists": 24,
        "candidates": "catalogue",
        "seen": "exclude",
        "resamples": 50,
        "confidence": 0.95,
    },
    "models": {
        "distilled": {"metrics": {"ndcg@10": {"value": 0.25, "ci": [0.24, 0.26]}}},
        "teacher": {"metrics": {"ndcg@10": {"value": None, "reason": "not scored"}}},
    },
    "gap_closed": {"ndcg@10": {"value": 0.62, "ci": [0.5, 0.7]}},
    "gate": {"overridden": True, "message": "The teacher is not better."},
}


def test_without_a_report_the_card_states_that_no_quality_was_measured():
    card = render_card(MANIFEST)
    assert "No quality was measured" in card
    assert "12,345" in card
    assert "98.23% of the true top 10" in card
    assert "99.61% of the true top 10" in card
    assert "| query | `a\\|b` | category | 5 |" in card
    assert '{"instances": [{"taste": [0.0, 0.0]}]}' in card
    assert "`taste` float32 (batch, 2)" in card
    assert "TensorFlow\n  2.12, an estimate (the op X)" in card


def test_a_report_adds_metrics_with_intervals_and_the_gap_closed():
    card = render_card({**MANIFEST, "metadata": {"report": REPORT}})
    assert "| distilled | 0.2500 (0.2400 to 0.2600) |" in card
    assert "| teacher | not scored |" in card
    assert "| ndcg@10 | 62% (50% to 70%) |" in card
    assert "4,000 interactions of 240 queries" in card
    assert "- The teacher is not better." in card
    assert "No quality was measured" not in card


def test_a_reindexed_version_names_the_version_of_its_towers_and_numbers():
    changed = {**MANIFEST, "reindexed_from": 2, "metadata": {"report": REPORT}}
    card = render_card(changed)
    assert "those of\nversion 2. Items that were not in the training data" in card
    assert "These numbers were measured for version 2" in card


def test_the_statements_about_training_are_left_out_for_towers_of_others():
    inputs = {"codes": {"kind": "input", "dtype": "int64", "shape": [None, 2]}}
    schema = {"item_id": "item_id", "query": inputs, "candidate": {}}
    tensor = {"dtype": "int64", "shape": [None, 2]}
    signatures = {"serving_default": {"inputs": {"codes": tensor}, "outputs": {}}}
    card = render_card({**MANIFEST, "schema": schema, "signatures": signatures})
    assert "| query | `codes` | int64 |  |" in card
    assert '{"instances": [{"codes": [1, 1]}]}' in card
    assert "learned" not in card
    assert "history" not in card
    assert "share one embedding" in render_card(MANIFEST)
