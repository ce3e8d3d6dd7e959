"""Versions and machine of a run."""

from recdistill.evaluation.report.run_environment import describe_environment


def test_the_environment_has_versions_but_no_user_or_host_name():
    found = describe_environment(["numpy", "no-such-package"])
    assert list(found["packages"]) == ["numpy"]
    assert found["cores"] >= 1
    assert set(found) == {"python", "platform", "cpu", "cores", "packages"}
