"""What may be imported without TensorFlow, which takes seconds to import."""

import subprocess
import sys

PROGRAM = """
import sys
import recdistill.evaluation.latency.saved_model_timing
import recdistill.export.layout
import recdistill.export.warm_up
import recdistill.serving.deploy.models_config
import recdistill.serving.deploy.tuning
training = [name for name in sys.modules if name.startswith("recdistill.pipeline")]
assert not training, training

import recdistill.metrics as metrics
metrics.ndcg
assert "NDCG" in dir(metrics)
assert not {"tensorflow", "keras"} & set(sys.modules)
assert metrics.NDCG(5).name == "ndcg@5" and "tensorflow" in sys.modules
"""


def test_serving_tools_and_numpy_metrics_do_not_import_tensorflow():
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
