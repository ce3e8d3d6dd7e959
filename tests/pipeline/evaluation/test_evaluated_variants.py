"""Students of a sweep, found by the reports of earlier evaluations."""

from recdistill.pipeline.evaluation.evaluated_variants import evaluated_variants
from tests.evaluation.report.example_reports import report


def save(folder, key, *, dim=32, name="films", machine=None, more=None, **changes):
    """Saves a report in the folder of a run; returns it."""
    config = {"name": name, "student": {"dim": dim}, "evaluate": {"bootstrap": dim}}
    config |= more or {}
    saved = report(config=config, **changes)
    environment = {**saved.environment, **(machine or {})}
    saved = saved.model_copy(update={"environment": environment})
    path = folder / name / f"evaluate-{key}"
    path.mkdir(parents=True)
    saved.save(path / "report.json")
    return saved


def test_variants_are_students_with_other_settings_in_the_same_evaluation(tmp_path):
    own = save(tmp_path, "a", dim=32)
    save(tmp_path, "b", dim=64)
    save(tmp_path, "c", dim=16, name="small")
    save(tmp_path, "d", dim=8, machine={"cpu": "another"})
    other = own.protocol.model_copy(update={"candidates": "listed"})
    save(tmp_path, "e", dim=9, protocol=other)
    data = own.dataset.model_copy(update={"fingerprint": "cd34"})
    save(tmp_path, "f", dim=10, dataset=data)
    checks = {"guard": {"action": "stop"}, "distill": {"gate": "warn"}}
    save(tmp_path, "h", name="checked", more=checks)
    (tmp_path / "films" / "evaluate-g").mkdir()
    (tmp_path / "films" / "evaluate-g" / "report.json").write_text("[1")
    found = evaluated_variants(tmp_path, own)
    assert list(found) == ["student.dim=64", "student.dim=16"]
    assert found["student.dim=64"].metrics == own.models["distilled"].metrics
    assert not found["student.dim=64"].slices
