"""options: ranges of the settings, and the automatic number of threads."""

import os
from pathlib import Path

import pytest

from recdistill.errors import ServeError
from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.server.options import ServerOptions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 65_536}, "`port` must be from 0 to 65535. Received: 65536"),
        ({"rest_port": -1}, "`rest_port` must be from 0 to 65535. Received: -1"),
        ({"poll_s": 0}, "`poll_s` must be above 0. Received: 0"),
        ({"rest_connections": 0}, "`rest_connections` must be above 0"),
        ({"load_retries": -1}, "`load_retries` must be at least 0. Received: -1"),
        ({"drain_s": -0.5}, "`drain_s` must be at least 0. Received: -0.5"),
    ],
)
def test_a_number_out_of_range_is_an_error(settings, message):
    with pytest.raises(ServeError) as caught:
        ServerOptions(Path("models.config"), **settings)
    assert message in str(caught.value)


def test_the_automatic_number_of_threads_depends_on_batching():
    plain = ServerOptions(Path("models.config"))
    assert plain.threads(0) == 2 * (os.cpu_count() or 1)
    assert plain.threads(5) == 5
    batching = Batching(4, 0, 4, 1)
    for settings in ({"batching": batching}, {"per_model_batching": True}):
        assert ServerOptions(Path("models.config"), **settings).threads(0) == 64
