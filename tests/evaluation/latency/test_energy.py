"""energy: counters in a temporary folder."""

import pytest

from recdistill.evaluation.latency import energy


@pytest.fixture
def zones(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "ZONES", tmp_path)

    def write(name, microjoules):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")

    return write


def test_counters_of_all_processors_are_added_without_their_parts(zones):
    zones("intel-rapl:0", 2_500_000)
    zones("intel-rapl:1", 500_000)
    zones("intel-rapl:0:0", 900_000)
    assert energy.energy_joules() == pytest.approx(3.0)
    assert energy.why_no_energy() is None


def test_without_counters_the_reason_is_given(zones):
    assert energy.energy_joules() is None
    assert "has no energy counter" in energy.why_no_energy()


def test_an_unreadable_counter_is_a_reason_too(zones, tmp_path):
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir(parents=True)
    assert energy.energy_joules() is None
    assert "cannot be read" in energy.why_no_energy()
