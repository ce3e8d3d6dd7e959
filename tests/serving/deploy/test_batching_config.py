"""batching_config: the file, and the choice from made-up times."""

import pytest

from recdistill.errors import ConfigError
from recdistill.serving.client.messages import BatchingParameters
from recdistill.serving.deploy.batching_config import (
    Batching,
    CallTime,
    choose_batching,
    padding,
    read_batching,
)

PAD = (True, "because")


def line(fixed, row, sizes, spread=2.0):
    """Times of `fixed` ms plus `row` ms per row; the p99 is `spread` times that."""
    return {n: CallTime(fixed + row * n, spread * (fixed + row * n)) for n in sizes}


def test_fields_have_the_numbers_of_the_server_s_message():
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto
    fields = BatchingParameters.DESCRIPTOR.fields
    assert {field.name: field.number for field in fields} == {
        "max_batch_size": 1,
        "batch_timeout_micros": 2,
        "max_enqueued_batches": 3,
        "num_batch_threads": 4,
        "thread_pool_name": 5,
        "allowed_batch_sizes": 6,
        "pad_variable_length_inputs": 7,
    }


def test_a_file_with_notes_is_read_back(tmp_path):
    path = tmp_path / "batching.config"
    written = Batching(16, 0, 7, 2, (1, 8, 16), True)
    written.write(path, ["why: because"])
    assert path.read_text().startswith("# why: because\nmax_batch_size { value: 16 }\n")
    assert read_batching(path) == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size=0"),
        ({"num_batch_threads": 0}, "num_batch_threads=0"),
        ({"max_enqueued_batches": 0}, "max_enqueued_batches=0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros=-1"),
        ({"allowed_batch_sizes": (1, 4)}, r"end with `max_batch_size`, 8.*\(1, 4\)"),
        ({"allowed_batch_sizes": (4, 2, 8)}, r"must ascend.*\(4, 2, 8\)"),
        ({"allowed_batch_sizes": (0, 8)}, r"must ascend.*\(0, 8\)"),
    ],
)
def test_values_that_the_server_rejects_are_refused(changes, message):
    good = {
        "max_batch_size": 8,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 4,
        "num_batch_threads": 2,
    }
    with pytest.raises(ConfigError, match=message):
        Batching(**{**good, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_sise { value: 8 }", "text format"),
        ("max_batch_size { value: 8 }", "must set batch_timeout_micros"),
        ("max_batch_size: 8", "text format"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, text, message):
    path = tmp_path / "batching.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_batching(path)


def test_all_parameters_follow_from_the_times():
    # 1 ms and 0.1 a row, p99 twice that: two p99 of 8 rows are 4 * 1.8 = 7.2 ms, of 16
    # rows 4 * 2.6 = 10.4, over the budget of 10.
    times = line(1.0, 0.1, (1, 2, 4, 8, 16, 32))
    chosen = choose_batching(times, budget_ms=10.0, threads=3, pad=PAD)
    got = chosen.batching
    assert got.max_batch_size == 8
    # The fixed cost is 1 ms, the budget leaves 10 - 7.2 = 2.8.
    assert got.batch_timeout_micros == 1000
    # 3 threads * (10 - 1 - 3.6) / 3.6 = 4.5 batches.
    assert got.max_enqueued_batches == 4
    assert got.num_batch_threads == 3
    assert got.allowed_batch_sizes == ()
    assert got.pad_variable_length_inputs is True
    assert chosen.holds_budget


def test_the_timeout_is_limited_by_the_budget():
    times = line(1.0, 0.1, (1, 2, 4, 8, 16))
    chosen = choose_batching(times, budget_ms=7.5, threads=1, pad=PAD)
    # 7.5 - 7.2 = 0.3 ms, less than the fixed cost.
    assert chosen.batching.batch_timeout_micros == 300


def test_a_size_with_hardly_more_rows_a_second_is_not_chosen():
    # Nothing is shared: 8 rows take eight times as long as one.
    times = line(0.0, 1.0, (1, 2, 4, 8))
    chosen = choose_batching(times, budget_ms=1000.0, threads=1, pad=PAD)
    assert chosen.batching.max_batch_size == 1
    assert chosen.batching.batch_timeout_micros == 0
    assert "rows per second" in chosen.why["max_batch_size"]


def test_warm_up_requests_fit_even_if_the_budget_is_exceeded():
    times = line(1.0, 0.1, (1, 2, 4, 8, 16))
    chosen = choose_batching(times, budget_ms=5.0, threads=1, pad=PAD, warm_up_rows=8)
    assert chosen.batching.max_batch_size == 8
    assert not chosen.holds_budget
    assert "warm-up" in chosen.why["max_batch_size"]


def test_every_parameter_has_a_reason():
    chosen = choose_batching(line(1, 1, (1, 2)), budget_ms=100, threads=1, pad=PAD)
    assert set(chosen.why) == set(vars(chosen.batching))
    assert all(chosen.why.values())


def test_a_budget_below_the_time_of_a_single_row_is_refused():
    with pytest.raises(ConfigError, match=r"2\.20 ms\. .*budget_ms=2"):
        choose_batching(line(1.0, 0.1, (1,)), budget_ms=2, threads=1, pad=PAD)


def test_warm_up_requests_larger_than_all_measured_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"warm-up request, 8.*\[1, 2\]"):
        choose_batching(
            line(1, 1, (1, 2)), budget_ms=99, threads=1, pad=PAD, warm_up_rows=8
        )


def inputs(**shapes):
    return {"rank": {"inputs": {name: {"shape": s} for name, s in shapes.items()}}}


@pytest.mark.parametrize(
    ("signatures", "pads", "word"),
    [
        (inputs(user_id=[None], taste=[None, 8]), False, "no input"),
        (inputs(exclude_ids=[None, None]), True, "exclude_ids"),
        (inputs(history=[None, None], history_length=[None]), True, "history"),
        (inputs(genres=[None, None], user_id=[None]), True, "genres"),
    ],
)
def test_padding_is_chosen_if_any_input_has_a_variable_width(signatures, pads, word):
    got, why = padding(signatures)
    assert got is pads
    assert word in why
