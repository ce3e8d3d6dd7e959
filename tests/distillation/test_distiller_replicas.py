"""The Distiller under a `tf.distribute` strategy with several replicas."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, keras, sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from recdistill.losses import HintMSE, ListwiseKLDivergence
from tests.small_models import evaluate, fit, make_arrays, make_batches, make_distiller
one = tf.distribute.get_strategy()
several = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x, y, weight = make_arrays()
assert x["mask"].dtype == bool
# The replicas receive lists of different weights and numbers of candidates.
x["teacher_query_embedding"] = x["teacher_scores"][:, :2]
batches = make_batches((x, y, weight), 8)
results = []
for strategy in (one, several):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        losses = [ListwiseKLDivergence(), HintMSE()]
        distiller = make_distiller(
            None, None, losses, keras.optimizers.SGD(0.1), temperatures=[2.0, None]
        )
        distiller.compile(distiller.optimizer, "mse", metrics=["mae"])
    history = fit(distiller, batches, epochs=2, validation_data=batches)
    scores = distiller.predict(batches, verbose=0).tolist()
    distiller.save(sys.argv[1])
    results.append({"history": history, "scores": scores})
print(json.dumps(results))
"""


def test_two_replicas_with_boolean_masks_train_and_report_like_one(tmp_path):
    # Two CPU devices can be configured only before TensorFlow starts.
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "distiller.keras")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert set(two["history"]) == set(one["history"])
    for name, values in one["history"].items():
        assert two["history"][name] == pytest.approx(values, rel=1e-4), name
    for mine, other in zip(two["scores"], one["scores"], strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
