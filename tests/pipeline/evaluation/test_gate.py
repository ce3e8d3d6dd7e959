"""The gate: which teachers pass, and the faults that stop a run before scoring."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.atomic import file_checksum
from recdistill.errors import GateError
from recdistill.evaluation.rows import ListRows
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.evaluation.gate import (
    CheckedScorer,
    Faults,
    check_usable,
    compare_on_validation,
    decide,
    enter,
)
from tests import small_pipelines

SOUND = Faults(lists=20, constant=0, not_finite=0)


def table(values, queries=None):
    """One row per list; each list has its own query unless `queries` is given."""
    rows = ListRows()
    names = queries or [f"u{k}" for k in range(len(values))]
    rows.add(list(range(len(values))), names, {"mrr": np.array(values, float)})
    return rows.table()


def gate(
    teacher,
    baseline,
    popularity=None,
    *,
    override=False,
    queries=None,
    faults=SOUND,
    trained_on=None,
):
    others = {
        "popularity": table(popularity or [0.0] * len(teacher), queries),
        "baseline": table(baseline, queries),
    }
    rows = table(teacher, queries)
    return decide(
        rows,
        others,
        "mrr",
        samples=200,
        seed=1,
        override=override,
        faults=faults,
        trained_on=trained_on,
    )


def test_a_teacher_that_is_better_on_every_list_passes():
    part = gate([0.75] * 20, [0.5] * 20, [0.25] * 20)
    assert part.passed
    assert not part.overridden
    # The difference is the same for each query, so the interval has no width.
    assert part.message == (
        "The teacher is worth distilling: mrr on validation, "
        "teacher minus popularity +0.5000 [+0.5000, +0.5000]; "
        "teacher minus baseline +0.2500 [+0.2500, +0.2500]."
    )
    gap = part.differences["teacher_minus_baseline"]
    assert (gap.value, gap.low, gap.high) == (0.25, 0.25, 0.25)


def test_a_teacher_that_is_worse_beyond_noise_does_not_pass():
    part = gate([0.25] * 20, [0.5] * 20)
    assert not part.passed
    assert part.message.startswith(
        "The teacher does not beat the baseline beyond noise: mrr on validation, "
        "teacher minus popularity +0.2500 [+0.2500, +0.2500]; "
        "teacher minus baseline -0.2500 [-0.2500, -0.2500]"
    )


def test_a_teacher_that_beats_neither_has_both_named():
    part = gate([0.5] * 20, [0.5] * 20, [0.5] * 20)
    assert not part.passed
    assert "does not beat popularity and the baseline beyond noise" in part.message


def test_a_gain_within_the_noise_does_not_pass():
    teacher = [0.0, 1.0] * 10 + [0.6]
    part = gate(teacher, [0.5] * 21)
    gap = part.differences["teacher_minus_baseline"]
    assert gap.value == pytest.approx(0.1 / 21)
    assert gap.low < 0 < gap.high
    assert not part.passed


def test_the_noise_is_that_between_queries_not_between_lists():
    # 40 lists, but two queries only: one loses, one wins by a little more.
    queries = ["ann", "bob"] * 20
    part = gate([0.0, 1.0] * 20, [0.4] * 40, queries=queries)
    assert not part.passed
    assert gate([0.0, 1.0] * 200, [0.4] * 400).passed


def test_one_query_gives_no_interval_and_the_message_has_the_reason():
    part = gate([0.9] * 5, [0.1] * 5, queries=["ann"] * 5)
    assert not part.passed
    assert "teacher minus baseline unknown (" in part.message


@pytest.mark.parametrize("override", [True, False])
def test_the_override_is_recorded_only_if_the_teacher_did_not_pass(override):
    failed = gate([0.1] * 9, [0.5] * 9, override=override)
    assert (failed.passed, failed.overridden) == (False, override)
    passed = gate([0.9] * 9, [0.5] * 9, override=override)
    assert (passed.passed, passed.overridden) == (True, False)


@pytest.mark.parametrize(("seen", "repeats"), [("include", 7), ("exclude", 0)])
def test_repeats_among_the_validation_lists_are_named(tmp_path, seen, repeats):
    rows = {"valid": [0.75] * 20, "valid_popularity": [0.5] * 20}
    for name, values in rows.items():
        pq.write_table(table(values), tmp_path / f"{name}.parquet")
    sums = {path.name: file_checksum(path) for path in tmp_path.iterdir()}
    record = {"faults": vars(SOUND), "sha256": sums}
    teacher = Artefact(tmp_path, "key", record, False)
    counts = {"seen": seen, "lists": {"valid": 20}, "repeats": {"valid": 7}}
    part = compare_on_validation(
        small_pipelines.config(evaluate={"metrics": ["mrr"], "bootstrap": 20}),
        teacher,
        teacher.file("valid.parquet"),
        teacher,
        None,
        Artefact(tmp_path, "key", counts, False),
    )
    assert part.repeats == repeats
    assert ("7 of 20 validation lists have an item" in part.message) == bool(repeats)


def test_the_seed_decides_the_interval():
    rng = np.random.default_rng(0)
    values = rng.random((3, 40)).tolist()
    assert gate(*values).differences == gate(*values).differences


def test_a_teacher_that_passes_gives_no_warning():
    assert enter(gate([0.9] * 9, [0.5] * 9)) is None


def test_the_error_names_the_override_and_the_override_gives_a_warning():
    closed = gate([0.1] * 9, [0.5] * 9)
    with pytest.raises(GateError) as caught:
        enter(closed)
    assert str(caught.value).startswith(
        f"{closed.message} The run stops before distillation"
    )
    assert str(caught.value).endswith("with --set distill.gate=warn.")
    overridden = gate([0.1] * 9, [0.5] * 9, override=True)
    note = f"{overridden.message} The run continues because distill.gate is warn."
    assert enter(overridden) == note


class TestFaults:
    better = staticmethod(partial(gate, [0.75] * 20, [0.5] * 20))

    def test_a_better_teacher_with_nan_scores_does_not_pass(self):
        part = self.better(faults=Faults(lists=20, constant=0, not_finite=3))
        assert (part.passed, part.not_finite) == (False, 3)
        assert part.message.startswith(
            "The teacher gives 3 NaN or infinite scores in 20 validation lists: mrr"
        )

    @pytest.mark.parametrize(("constant", "passed"), [(10, True), (11, False)])
    def test_more_than_half_of_the_lists_must_have_scores_that_differ(
        self, constant, passed
    ):
        part = self.better(faults=Faults(lists=20, constant=constant, not_finite=0))
        assert part.passed == passed
        assert (part.lists, part.constant_lists) == (20, constant)
        said = "gives all candidates the same score in 11 of 20 validation lists"
        assert (said in part.message) != passed

    @pytest.mark.parametrize(
        "leaked", [{"valid": 1, "test": 0}, {"valid": 0, "test": 2}]
    )
    def test_a_teacher_trained_on_held_out_lists_does_not_pass(self, leaked):
        part = self.better(trained_on=leaked)
        assert not part.passed
        assert part.trained_on == leaked
        assert (
            f"was trained on {leaked['valid']} of the validation lists and "
            f"{leaked['test']} of the test lists"
        ) in part.message

    def test_the_message_has_all_reasons_and_all_can_be_overridden(self):
        faults = Faults(lists=20, constant=20, not_finite=1)
        leaked = {"valid": 4, "test": 5}
        part = gate(
            [0.1] * 20, [0.5] * 20, faults=faults, trained_on=leaked, override=True
        )
        assert (part.passed, part.overridden) == (False, True)
        assert part.message.startswith(
            "The teacher does not beat the baseline beyond noise and gives 1 NaN or "
            "infinite scores in 20 validation lists and gives all candidates the same "
            "score in 20 of 20 validation lists and was trained on 4 of the"
        )

    def test_faults_stop_the_run_before_scoring(self):
        def check(faults, trained_on, mode):
            teacher = Artefact(Path(), "", {"faults": vars(faults)}, reused=True)
            check_usable(
                small_pipelines.config(distill={"gate": mode}), teacher, trained_on
            )

        constant = Faults(lists=20, constant=20, not_finite=0)
        with pytest.raises(GateError, match=r"20 of 20 .* --set distill\.gate=warn"):
            check(constant, None, "stop")
        with pytest.raises(GateError, match="trained on 1 of the validation lists"):
            check(SOUND, {"valid": 1, "test": 0}, "stop")
        check(constant, {"valid": 1, "test": 0}, "warn")
        check(SOUND, {"valid": 0, "test": 0}, "stop")
        check(SOUND, None, "stop")

    def test_a_list_of_nan_counts_once_and_not_as_constant(self):
        scorer = CheckedScorer(lambda x: np.full((1, 3), np.nan, "float32"))
        scorer({"mask": np.ones((1, 3), bool)})
        assert scorer.faults == Faults(lists=1, constant=0, not_finite=3)


class TestCheckedScorer:
    @pytest.mark.parametrize(
        ("scores", "found"),
        [
            ([[0.0, 1.0, 7.0]], True),
            ([[0.2, 1.001, 0.5]], False),
            ([[0.2, -0.001, 0.5]], False),
            ([[np.nan, 0.4, 0.5]], True),
        ],
    )
    def test_scores_between_0_and_1_are_probabilities(self, scores, found):
        scorer = CheckedScorer(lambda x: np.array(scores, "float32"))
        mask = np.array([[True, True, False]])
        scorer({"mask": mask})
        assert scorer.probabilities == found
        scorer({"mask": ~mask & False})  # A list without candidates says nothing.
        assert scorer.probabilities == found

    def test_faults_of_real_candidates_are_added_up_over_calls(self):
        mask = np.array([[True, True, True, False], [True, True, False, False]])
        first = np.array([[1.0, np.nan, 2.0, np.inf], [3.0, 3.0, 4.0, 5.0]], "float32")
        second = np.array([[-np.inf, 1.0, 1.0, 0.0], [3.0, 4.0, 4.0, 4.0]], "float32")
        scorer = CheckedScorer(lambda x: x["scores"])
        got = scorer({"scores": first, "mask": mask})
        scorer({"scores": second, "mask": mask})
        # Constant are the second list, and the third but for what is no number.
        assert scorer.faults == Faults(lists=4, constant=2, not_finite=2)
        low = np.finfo("float32").min
        np.testing.assert_array_equal(got, [[1, low, 2, low], [3, 3, 4, 5]])

    def test_a_list_of_one_candidate_is_not_constant(self):
        scorer = CheckedScorer(lambda x: np.zeros((2, 3), "float32"))
        scorer({"mask": np.array([[True, False, False], [False, False, False]])})
        assert scorer.faults == Faults(lists=2, constant=0, not_finite=0)
