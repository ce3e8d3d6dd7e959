"""Versions and machine of a run."""

from recdistill.evaluation.report.run_environment import describe_environment


def test_environment_names_versions_and_not_who_or_where():
    found = describe_environment(["numpy", "no-such-package"])
    assert list(found["packages"]) == ["numpy"]
    assert found["cores"] >= 1
    assert set(found) == {"python", "platform", "cpu", "cores", "packages"}
