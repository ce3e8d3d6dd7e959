"""model_card: the numbers of manifest and report, in valid Markdown."""

from recdistill.evaluation import paired_tests
from recdistill.export import model_card
from recdistill.export.model_card import render_card, render_run_card
from tests.evaluation.report.example_reports import RETRIEVAL

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
    again = {"report": REPORT, "measured_version": 1}
    assert "were measured for version 1" in render_card({**changed, "metadata": again})


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


def run_report():
    """A report with everything that a card of a run shows."""

    def part(value, low, high, lists):
        metrics = {"ndcg@10": {"value": value, "ci": [low, high]}}
        return {"lists": lists, "queries": lists, "metrics": metrics}

    def fall(name, p):
        difference = {"value": -0.02, "ci": [-0.03, -0.01]}
        slice_ = {"kind": "item", "name": name, "adjusted_p": p}
        return {**slice_, "difference": difference}

    times = {"p50": 0.5, "p90": 0.6, "p99": 0.75, "mean": 0.5, "min": 0.4, "n": 9}
    tail = {"item": {"tail": part(0.125, 0.1, 0.15, 7)}}
    models = {
        name: {
            **REPORT["models"]["distilled"],
            "slices": tail,
            "parameters": 1_234,
            "flops_per_query": None,
            "size_bytes": 2**20,
            "latency_ms": latency,
        }
        for name, latency in (("distilled", {"100": times}), ("teacher", {}))
    }
    return {
        **REPORT,
        "name": "films",
        "seed": 7,
        "dataset": {
            **REPORT["dataset"],
            "fingerprint": "ab" * 32,
            "licence": "CC BY 4.0",
            "lists": {"test": 24},
            "parts": {"test": ["2024-05-01 00:00:00", "2024-05-09 00:00:00"]},
            "unknown": {"test": {"history": 0.031}},
            "source": {"ratings.csv": "cd" * 32},
        },
        "models": models,
        "speedup": {},
        "guard": {"slices": [fall("tail", 0.05), fall("head", 0.06)]},
        "environment": {"cpu": "A CPU", "cores": 2, "packages": {"keras": "3.15"}},
        "config_given": {"seed": 7, "split": {"by": "query_time", "test": None}},
    }


def test_the_card_of_a_run_has_data_slices_limits_cost_and_how_to_reproduce_it():
    card = render_run_card(run_report())
    for line in (
        "- Licence of the data: CC BY 4.0",
        "- test part: 2024-05-01 00:00:00 to 2024-05-09 00:00:00 (UTC), 24 lists",
        "- Values unknown in training, test lists: history 3.1 %",
        "| item | tail | 7 | 0.1250 (0.1000 to 0.1500) | 0.1250 (0.1000 to 0.1500) | ",
        "| parameters | 1,234 | 1,234 | ",
        "| size of the weights | 1.00 MiB | 1.00 MiB | ",
        "| latency, 100 candidates (median; p99) | not measured | "
        "0.500 ms; 0.750 ms | ",
        "- On test lists with rare items (7 lists), ndcg@10 is 0.1250 (0.1000 to "
        "0.1500); over all lists it is 0.2500 (0.2400 to 0.2600).",
        "- Worse than the baseline beyond noise (ndcg@10) in these slices: item tail.",
        "   - `ratings.csv`: SHA-256 `" + "cd" * 32 + "`",
        "3. Run `recdistill run films.toml`. The seed is 7, in the configuration.",
        "The run was made with keras 3.15. The same data, configuration and versions "
        "give the same metrics on",
        'by = "query_time"',
    ):
        assert line in card.splitlines()
    assert "seed 7. The intervals" in card
    # What was not measured is not mentioned, and what belongs to an export neither.
    assert "floating-point" not in card
    assert "## What is served" not in card
    assert "times as fast" not in card


def test_the_card_judges_slices_by_the_level_of_the_evaluation():
    assert model_card.LEVEL == paired_tests.LEVEL


def test_names_of_the_data_are_text_and_no_markup():
    report = run_report()
    slices = report["guard"]["slices"]
    slices.append({**slices[0], "name": "<img src=x>\n# [a](b)"})
    report["dataset"]["name"] = "<b>"
    card = render_run_card(report)
    assert "item tail, item &lt;img src=x> # \\[a](b)." in card
    assert "<img" not in card
    assert "\n&lt;b>: " in card


def test_the_card_names_all_seeds():
    card = render_run_card({**run_report(), "seeds": {"seeds": [7, 8]}})
    assert "Baseline and student were trained with the seeds 7, 8, and" in card
    assert "trained once, with seed" not in card


def test_a_run_without_latency_or_slices_has_no_tables_for_them():
    card = render_run_card({**REPORT, "name": "films"})
    assert "## Cost" not in card
    assert "### Slices" not in card
    assert "- Licence of the data: not stated" in card


def test_the_card_of_an_export_has_the_parts_of_the_run_too():
    card = render_card({**MANIFEST, "metadata": {"report": run_report()}})
    for heading in ("Intended use", "Cost", "What is served", "How to reproduce"):
        assert f"## {heading}\n" in card


def test_the_card_of_retrieved_candidates_also_has_figures_of_the_whole_catalogue():
    protocol = {**REPORT["protocol"], "candidates": "retrieved:200"}
    found = RETRIEVAL.model_dump(mode="json")
    card = render_run_card({**run_report(), "protocol": protocol, "retrieval": found})
    assert "candidates: retrieved:200" in card
    assert "| over the whole catalogue | ndcg@10 |" in card
    assert "| distilled | 0.0894" in card
    assert "first 200 items of popularity, the baseline and the distilled" in card
    assert "over the whole catalogue" not in render_run_card(run_report())


def test_the_card_names_the_number_of_lists_that_the_evaluated_ones_are_a_sample_of():
    protocol = {**REPORT["protocol"], "lists": 1_000, "sampled_from": 54_321}
    card = render_run_card({**run_report(), "protocol": protocol})
    assert ": a sample of 1,000 of 54,321 lists," in card
