"""load_plot: the lines that are drawn, and files that can be read."""

import numpy as np
import pytest
from matplotlib.image import imread

from recdistill.serving.load_test.load_plot import latency_over_time, plot_load_test
from recdistill.serving.load_test.version_swap import Swap
from tests.serving.load_test.made_samples import result_of, samples


def test_median_and_p99_of_each_interval_are_those_of_its_requests():
    """Two intervals of a second with 1, 3, 2 ms and 9, 7 ms."""
    seen = samples([1, 3, 2, 9, 7], due_s=[0, 0.5, 0.9, 1.1, 2.0])
    middle, median, slow = latency_over_time(seen, bins=2)
    assert middle.tolist() == [0.5, 1.5]
    np.testing.assert_allclose(median, [2, 7], rtol=1e-6)
    np.testing.assert_allclose(slow, [3, 9], rtol=1e-6)


def test_an_interval_without_answers_has_no_latency():
    seen = samples([1, 5], due_s=[0, 3.0], code=[0, 1])
    _, median, _ = latency_over_time(seen, bins=3)
    np.testing.assert_allclose(median, [1, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_failures_and_swaps_are_drawn(tmp_path, ending):
    rng = np.random.default_rng(0)
    seen = samples(rng.lognormal(1, 1, 500), code=rng.integers(0, 2, 500))
    file = tmp_path / f"latency.{ending}"
    plot_load_test(result_of(seen, swap=Swap(8, 1.0, None), seconds=5), file)
    if ending == "png":
        picture = imread(file)
        assert picture.shape[1] > 1000
        assert picture.std() > 0.01
    else:
        assert "version 8 loads" in file.read_text()


def test_a_test_without_answers_can_be_drawn(tmp_path):
    plot_load_test(result_of(samples([1.0] * 3, code=[1] * 3)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_file_format_that_matplotlib_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        plot_load_test(result_of(samples([1.0])), tmp_path / "a.txt")
