"""memory: sizes are compared with what the machine has before anything is allocated."""

import pytest

from recdistill.errors import ConfigError
from recdistill.features.encoders import build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import CategorySpec, HistorySpec, IdSpec, TextSpec
from recdistill.models.linear_fitting import choose_form
from recdistill.pipeline import memory
from recdistill.pipeline.config import StudentConfig
from recdistill.pipeline.config.dataset_section import SyntheticConfig
from recdistill.pipeline.config.teacher_section import RankerConfig
from recdistill.pipeline.preparation.dataset_loading import load_dataset
from tests import small_pipelines

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 GiB."""
    monkeypatch.setattr(memory, "available", lambda: 8 * GIB)


def schema(buckets=4):
    items = build_encoder("item_id", IdSpec(), {"vocabulary": ["a", "b"]})
    query = [
        build_encoder("segment", CategorySpec(), {"vocabulary": ["x"]}),
        build_encoder("words", TextSpec(buckets=buckets), {}),
        build_encoder("history", HistorySpec(length=5), {}, items),
    ]
    return Schema(query, [items], {}, "item_id")


def test_the_memory_that_is_available_is_known_here():
    assert memory.available() > 2**20


def test_a_limit_of_the_container_counts(tmp_path, monkeypatch):
    def lines(path):
        return {"memory.max": ["5000"], "memory.current": ["2000"]}.get(path.name, [])

    def with_cache(path):
        cached = ["anon 200", "inactive_file 1500", "active_file 300"]
        return cached if path.name == "memory.stat" else lines(path)

    monkeypatch.setattr(memory, "_lines", lines)
    assert memory.available() == 3_000
    monkeypatch.setattr(memory, "_lines", with_cache)
    assert memory.available() == 4_500


def test_the_error_says_what_is_needed_what_there_is_and_what_to_change(machine):
    memory.require(8 * GIB, "A thing", "Lower it.")
    with pytest.raises(ConfigError) as error:
        memory.require(12 * GIB, "A thing", "Lower it.")
    assert str(error.value) == (
        "A thing would need at least 12.0 GiB of memory, and only 8.0 GiB is "
        "available. Lower it."
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 2**30},
        {"embedding_dim": 2**30},
        {"hidden": (2**30,)},
        {"hidden": (2**16, 2**16)},
    ],
)
def test_a_student_that_is_too_large_is_refused(machine, sizes):
    memory.require_for_student(StudentConfig(), schema())
    with pytest.raises(ConfigError, match=r"Training the student would need"):
        memory.require_for_student(StudentConfig(**sizes), schema())


def test_a_text_feature_with_too_many_buckets_is_refused(machine):
    # 2**28 rows of 32 floats, four times: 128 GiB.
    large = schema()
    large.query[1].size = 2**28
    with pytest.raises(ConfigError, match=r"at least 128.0 GiB .* `buckets` of a text"):
        memory.require_for_student(StudentConfig(), large)


def test_a_ranker_a_matrix_a_batch_and_a_history_that_are_too_large_are_refused(
    machine,
):
    memory.require_for_attention(RankerConfig(), schema())
    with pytest.raises(ConfigError, match=r"Lower its `dim`"):
        memory.require_for_attention(RankerConfig(dim=2**28, heads=2), schema())
    memory.require_for_linear_model(choose_form(9, 20_000, 6 * GIB), 20_000)
    wanted = choose_form(9, 100_000, GIB, "item_inverse")
    with pytest.raises(
        ConfigError,
        match=r"item model of 100,000 items in the form item_inverse would need at "
        r"least 149.0 GiB .* Lower its `memory_gib`",
    ):
        memory.require_for_linear_model(wanted, 100_000)
    memory.require_for_batches(256, 10_000, "student.batch_size")
    with pytest.raises(ConfigError, match=r"Lower `student.batch_size`"):
        memory.require_for_batches(100_000, 1_000_000, "student.batch_size")
    memory.require_for_query_features(1_000, schema().query)
    with pytest.raises(ConfigError, match=r"Lower `query.history.length`"):
        memory.require_for_query_features(10**9, schema().query[2:])


def test_generated_data_that_is_too_large_is_refused_before_it_is_generated(machine):
    size = SyntheticConfig(queries=10**9, items=10**9, interactions=10)
    config = small_pipelines.config().dataset.model_copy(update={"synthetic": size})
    with pytest.raises(ConfigError, match=r"1,000,000,000 items .* Lower `dataset.syn"):
        load_dataset(config, small_pipelines.quiet)
