"""Films model for the export tests: schema, sixty items, queries and student."""

import keras
import numpy as np
import pyarrow as pa

from recdistill.export.publishing import ExportSettings
from recdistill.export.student_export import export_student
from recdistill.features.encoders import build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)
from recdistill.models.two_tower import TwoTowerStudent

ITEMS = [f"item-{k}" for k in range(57)] + ["größe", "映画", "новинка"]
KNOWN = ITEMS[:58]
"""Vocabulary of the training data; the last two items are newer."""


def build_schema():
    item = build_encoder("item_id", IdSpec(), {"vocabulary": KNOWN})
    hidden = {"teacher_only": True}
    return Schema(
        query=[
            build_encoder("user_id", IdSpec(), {"vocabulary": ["ann", "bob", "čeněk"]}),
            build_encoder(
                "jobs", CategoriesSpec(optional=True), {"vocabulary": ["cook"]}
            ),
            build_encoder(
                "Age", NumberSpec(optional=True), {"mean": 40.0, "deviation": 10.0}
            ),
            build_encoder("taste", VectorSpec(size=2), {}),
            build_encoder("dwell", NumberSpec(**hidden), {"mean": 0, "deviation": 1}),
            build_encoder("history", HistorySpec(length=4), {}, item),
        ],
        candidate=[
            item,
            build_encoder("class", CategorySpec(), {"vocabulary": ["new", "old"]}),
            build_encoder("title", TextSpec(buckets=16, length=3), {}),
            build_encoder("clicks", NumberSpec(**hidden), {"mean": 0, "deviation": 1}),
        ],
        affinity={"affinity": AffinitySpec()},
        item_id="item_id",
    )


def build_items():
    return pa.table(
        {
            "item_id": ITEMS,
            "class": [("new", "old", "unseen")[k % 3] for k in range(len(ITEMS))],
            "title": [f"The film {k}, №{k % 5}" for k in range(len(ITEMS))],
            "clicks": [float(k) for k in range(len(ITEMS))],
        }
    )


def build_rows(count=12):
    rng = np.random.default_rng(5)
    history = rng.choice([*ITEMS, "never seen"], (count, 6)).astype(object)
    length = (np.arange(count) % 7).astype("int32")
    history[np.arange(6) >= length[:, None]] = ""
    return {
        "user_id": np.array(
            [("ann", "čeněk", "nobody", "")[k % 4] for k in range(count)]
        ),
        "jobs": np.array([["cook", "tailor"], ["", ""]] * (count // 2)),
        "Age": np.where(np.arange(count) % 3, 30.0 + np.arange(count), np.nan),
        "taste": rng.normal(size=(count, 2)),
        "history": history,
        "history_length": length,
        "dwell": np.ones(count),
    }


def build_student(schema, cls=TwoTowerStudent):
    keras.utils.set_random_seed(11)
    student = cls(schema, {}, dim=6, embedding_dim=5, hidden=(7,), dropout=0.2)
    own = schema.for_student()
    rows = build_rows(2)
    student.encode_query(own.lookup_query(rows))
    table = build_items()
    raw = {
        name: np.array(table[name].to_pylist())
        for name in ("item_id", "class", "title")
    }
    student.encode_candidates(own.lookup_candidates(raw))
    student.built = True
    rng = np.random.default_rng(2)
    for variable in student.trainable_variables:
        variable.assign(rng.normal(0.0, 0.5, variable.shape))
    return student


def run_export(folder, student, **changes):
    arguments = {
        "schema": build_schema(),
        "items": build_items(),
        "name": "films",
        "rows": build_rows(),
    }
    settings = {"top_k": 10, "metadata": {"ndcg@10": 0.25}}
    for name in ("top_k", "metadata", "index", "warm_up_batches"):
        if name in changes:
            settings[name] = changes.pop(name)
    arguments["settings"] = ExportSettings(**settings)
    return export_student(student, folder=folder, **{**arguments, **changes})
