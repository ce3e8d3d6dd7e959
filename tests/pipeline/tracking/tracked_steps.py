"""Finished steps with training curves and a report, written without training."""

import tensorflow as tf

from recdistill.pipeline.artefacts.artefact import Artefact
from tests.evaluation.report.example_reports import report

CURVE = {
    "step": [1, 2],
    "loss": [3.5, None],
    "learning_rate": [0.01, 0.005],
    "gradient_norm": [7.0, 6.0],
}
TRIAL = {
    "learning_rate": 0.01,
    "history": [0.25, None],
    "epoch_steps": 1,
    "curve": CURVE,
}
POINTS = [
    ("learning_rate_0.01", 1, {"loss": 3.5, "learning_rate": 0.01, "gradient_norm": 7}),
    ("learning_rate_0.01", 2, {"learning_rate": 0.005, "gradient_norm": 6.0}),
    ("learning_rate_0.01", 1, {"validation": 0.25}),
]


def finished(folder, step, **record):
    """The artefact of a step; `evaluate` has a report, and `export` a SavedModel."""
    path = folder / f"{step}-0123456789ab"
    path.mkdir(parents=True, exist_ok=True)
    if step == "evaluate":
        report().save(path / "report.json")
        (path / "report.html").write_text("<p>page</p>")
    if step == "export":
        version = folder / "export" / "films" / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "saved_model.pb").write_bytes(b"model")
        record["path"] = str(version)
    return Artefact(path, f"{step}0123456789ab", {"seconds": 1.5, **record}, False)


def finished_run(folder):
    """The artefacts of all steps by name."""
    records = {
        "prepare": {},
        "baseline": {"trials": [TRIAL]},
        "teacher": {"trained": [{**TRIAL, "model": "ranker"}]},
        "score": {},
        "distill": {"trials": [TRIAL, {**TRIAL, "learning_rate": 0.1}]},
        "evaluate": {},
        "export": {},
    }
    return {step: finished(folder, step, **record) for step, record in records.items()}


def events(folder):
    """Values in the TensorBoard files below a folder, by run, tag and step."""
    found = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for raw in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(raw.numpy())
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                plugin = value.metadata.plugin_data.plugin_name
                key = (str(path.parent.relative_to(folder)), value.tag, event.step)
                assert key not in found
                found[key] = (
                    [each.decode() for each in tensor.tolist()]
                    if plugin == "text"
                    else float(tensor)
                )
    return found
