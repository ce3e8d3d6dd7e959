"""A pipeline that runs in seconds, and data sets in memory."""

from pathlib import Path

import pyarrow as pa

from recdistill.data import Columns, Dataset
from recdistill.pipeline.config import Config, load_config

CONFIG = """
name = "tiny"
seed = 3
[dataset]
reader = "synthetic"
synthetic = { queries = 240, items = 60, interactions = 4_000, seed = 2 }
[query]
user_id = { kind = "id" }
history = { kind = "history", length = 8 }
segment = { kind = "category" }
budget = { kind = "number" }
[candidate]
item_id = { kind = "id" }
category = { kind = "category" }
tags = { kind = "categories" }
vector = { kind = "vector", size = 8 }
quality = { kind = "number", teacher_only = true }
affinity = { kind = "affinity", l2 = 20.0 }
[lists]
contexts = 600
retriever_top = 8
popular = 4
tail = 12
student_top = 6
[teacher]
kind = "ensemble"
[[teacher.members]]
kind = "reference"
dim = 8
attention_length = 8
epochs = 1
batch_size = 64
[[teacher.members]]
kind = "linear"
l2 = 20.0
[student]
shared_items = true
dim = 4
embedding_dim = 4
hidden = [8]
steps = 20
batch_size = 32
learning_rates = [0.01]
[distill]
scores = "z_score"
teacher_temperature = 1.0
gate = "warn"
[evaluate]
metrics = ["ndcg@10", "mrr"]
valid_lists = 300
bootstrap = 50
latency_candidates = []
[export]
top_k = 5
parity_rows = 16
"""

LINEAR = "teacher={kind='linear', l2=20.0}"
"""Override for a teacher that is fitted at once."""

REFERENCE = (
    "teacher={kind='reference', dim=8, attention_length=8, epochs=1, batch_size=64}"
)
"""Override for a teacher that is trained."""

TIMED = "evaluate.latency_candidates=[20]"
"""Override that measures the latency of teacher and student."""

FILE_LISTS = 256
"""Lists in a file of teacher scores, so that there are several."""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    """The pipeline file in `folder`."""
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def places(folder: Path) -> tuple[str, str]:
    """Overrides that keep all artefacts and exports inside `folder`."""
    return f"workdir={folder / 'runs'}", f"export.path={folder / 'export'}"


def load(folder: Path, *overrides: str) -> Config:
    """The tiny pipeline with all it makes inside `folder`."""
    return load_config(write_config(folder), [*places(folder), *overrides])


HISTORY = {"history": {"kind": "history", "length": 3}}


def config(query=None, candidate=None, **sections) -> Config:
    """A configuration for data sets held in memory."""
    document = {
        "name": "memory",
        "dataset": {"reader": "synthetic"},
        "query": query or HISTORY,
        "candidate": candidate or {"item_id": {"kind": "id"}},
        "teacher": {"kind": "linear"},
    }
    return Config.model_validate(document | sections)


def dataset(
    interactions, items=None, queries=None, *, batch_rows=1_000, **roles
) -> Dataset:
    """A data set of rows `(user, item, time)` or of a table with more columns."""
    if not isinstance(interactions, pa.Table):
        user, item, time = zip(*interactions, strict=True) if interactions else [()] * 3
        interactions = pa.table(
            {
                "user_id": pa.array(user, pa.string()),
                "item_id": pa.array(item, pa.string()),
                "timestamp": pa.array(time, pa.int64()),
            }
        )
    return Dataset(
        name="memory",
        columns=Columns(**roles),
        items=items,
        queries=queries,
        fingerprint="0" * 64,
        source={},
        stream=lambda: iter(interactions.to_batches(max_chunksize=batch_rows)),
    )


def quiet(*state):
    """Ignores progress."""


def no_parity_check(*_):
    """Stands in for the parity check of an export, which runs a fresh process."""
    from recdistill.export.parity import Parity

    return Parity(
        queries=1,
        requests=1,
        tolerance=1e-5,
        max_difference=0.0,
        swapped=0,
        recall=1.0,
    )
