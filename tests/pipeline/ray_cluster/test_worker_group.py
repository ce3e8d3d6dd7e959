"""Worker groups: sums and rows of all processes, and lost peers."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recdistill.pipeline.ray_cluster.worker_group import (
    LostWorkerError,
    WorkerGroup,
    listening_socket,
)


@pytest.fixture
def groups():
    """Three members of one group in this process, and a pool to call them at once."""
    sockets = [listening_socket("127.0.0.1") for _ in range(3)]
    addresses = [each.getsockname() for each in sockets]
    token = os.urandom(32)
    with ThreadPoolExecutor(3) as pool:
        members = list(
            pool.map(
                lambda rank: WorkerGroup(rank, sockets[rank], addresses, token),
                range(3),
            )
        )
        yield members, pool
        for member in members:
            member.close()


def test_a_sum_is_the_same_in_all_processes_for_any_length(groups):
    members, pool = groups
    for length in (1, 2, 7, 300_000):
        own = [np.arange(length, dtype="float32") * (rank + 1) for rank in range(3)]
        results = list(pool.map(WorkerGroup.sum, members, own))
        for result in results:
            np.testing.assert_array_equal(result, 6 * own[0])
            assert result.tobytes() == results[0].tobytes()


def test_gathered_rows_are_in_the_order_of_rank(groups):
    members, pool = groups
    own = [np.full((rank, 2), rank, "int64") for rank in range(3)]
    for found in pool.map(WorkerGroup.gather, members, own):
        assert np.concatenate(found).tolist() == [[1, 1], [2, 2], [2, 2]]


def test_a_lost_process_is_an_error_of_the_others(groups):
    members, pool = groups
    members[1].close()
    with pytest.raises(LostWorkerError, match="lost"):
        list(pool.map(lambda m: m.sum(np.ones(3)), [members[0], members[2]]))
    assert members[2].broken
