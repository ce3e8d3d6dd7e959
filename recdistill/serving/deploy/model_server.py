"""Flags and metrics of `tensorflow_model_server`, and the command that starts it.

The server ignores unknown flags silently, so a misspelt flag has no effect. Commands
are therefore built here, from known flags only.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from recdistill.serving.deploy.batching_config import Batching

FLAGS = frozenset(
    """
    allow_version_labels_for_unavailable_models batching_parameters_file enable_batching
    enable_grpc_healthcheck_service enable_model_warmup
    enable_per_model_batching_parameters enable_profiler
    enable_serialization_as_tensor_content enable_signature_method_name_check
    file_system_poll_wait_seconds flush_filesystem_caches grpc_channel_arguments
    grpc_max_threads grpc_socket_path load_retry_interval_micros max_num_load_retries
    mixed_precision model_base_path model_config_file
    model_config_file_poll_wait_seconds model_name monitoring_config_file
    num_load_threads num_request_iterations_for_warmup num_tflite_interpreters_per_pool
    num_tflite_pools num_unload_threads per_process_gpu_memory_fraction
    platform_config_file port prefer_tflite_model
    remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support
    rest_api_num_threads rest_api_port rest_api_timeout_in_ms saved_model_tags
    skip_initialize_tpu ssl_config_file tensorflow_inter_op_parallelism
    tensorflow_intra_op_parallelism tensorflow_session_config_file
    tensorflow_session_parallelism thread_pool_factory_config_file use_alts_credentials
    version xla_cpu_compilation_enabled xla_gpu_compilation_enabled
    """.split()
)
"""All flags declared in the server's `main.cc`."""

MODELS_FILE = "models.config"
BATCHING_FILE = "batching.config"
MONITORING_FILE = "monitoring.config"
"""Names of the server's configuration files."""

PORTS = {"port": 8500, "rest_api_port": 8501}
"""Ports for gRPC, and for REST and metrics, in containers and generated commands."""

COUNTERS: Mapping[str, tuple[str, ...]] = {
    ":tensorflow:serving:request_count": ("model_name", "status"),
    ":tensorflow:serving:batching_session:wrapped_run_count": (),
    ":tensorflow:cc:saved_model:load_attempt_count": ("model_path", "status"),
    ":tensorflow:cc:saved_model:load_latency": ("model_path",),
}
"""Counters of the metrics page with their labels; `load_latency` is in microseconds."""

HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    ":tensorflow:serving:request_latency": ("model_name", "API", "entrypoint"),
    ":tensorflow:serving:runtime_latency": ("model_name", "API", "runtime"),
    ":tensorflow:serving:model_warmup_latency": ("model_path", "status"),
    ":tensorflow:serving:batching_session:queuing_latency": ("thread_pool_name",),
}
"""Histograms in microseconds; each has `…_bucket`, `…_sum` and `…_count` series."""


def metric_names() -> frozenset[str]:
    """Names of the series on the metrics page that a dashboard may query."""
    suffixes = ("_bucket", "_sum", "_count")
    return frozenset(COUNTERS) | {h + suffix for h in HISTOGRAMS for suffix in suffixes}


def server_flags(flags: Mapping[str, str | int | bool]) -> list[str]:
    """Command-line arguments of the server.

    Args:
        flags: Values by flag name, without dashes.

    Raises:
        ValueError: If the server does not have a flag.

    Examples:
        >>> server_flags({"port": 8500, "enable_batching": True})
        ['--port=8500', '--enable_batching=true']
    """
    arguments = []
    for name, value in flags.items():
        if name not in FLAGS:
            raise ValueError(
                "`flags` must be flags of tensorflow_model_server, which silently "
                f"ignores others. Received: {name!r}"
            )
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments.append(f"--{name}={text}")
    return arguments


UNBATCHED_THREADS = 256
"""Number of request threads of a server that does not batch."""

_MOST = 1000
"""Limit of the number of request threads: each takes memory even when it is idle."""

_RESERVE = 64


def request_threads(capacity: int) -> int:
    """Number of threads that a server needs for the requests of each protocol.

    Each running or waiting request holds a thread. The server's default for gRPC, four
    times the cores, is far below the number of requests that the batcher can hold: the
    server refuses the others with RESOURCE_EXHAUSTED, which no metric shows, and full
    batches never form. The reserve lets the batcher itself refuse requests when its
    queue is full, which the metrics show.

    Args:
        capacity: Number of rows that run or wait in the batcher.

    Examples:
        >>> request_threads(16 * (2 + 16)), request_threads(100_000)
        (352, 1000)
    """
    return min(capacity + _RESERVE, _MOST)


def server_arguments(
    config: str, batching: Batching, *, trusted_clients: bool = False
) -> list[str]:
    """Arguments of a server whose configuration files are in one folder.

    The server reloads `models.config` every ten seconds, so that labels move without a
    restart. It accepts labels of versions that are still loading, so that labels also
    work right after a restart.

    Args:
        config: Path of the folder inside the server's file system, with
            `models.config`, `batching.config` and `monitoring.config`.
        batching: Content of `batching.config`. Each batch is computed on one thread.
        trusted_clients: Whether all clients are trusted. Only then requests are
            batched; see `batching_config.TRUSTED_CLIENTS_ONLY`.
    """
    threads = UNBATCHED_THREADS
    batched: dict[str, str | int | bool] = {}
    if trusted_clients:
        threads = request_threads(batching.capacity)
        batched["enable_batching"] = True
        batched["batching_parameters_file"] = f"{config}/{BATCHING_FILE}"
    flags: dict[str, str | int | bool] = {
        **PORTS,
        "model_config_file": f"{config}/{MODELS_FILE}",
        "model_config_file_poll_wait_seconds": 10,
        "allow_version_labels_for_unavailable_models": True,
        "monitoring_config_file": f"{config}/{MONITORING_FILE}",
        "grpc_max_threads": threads,
        "rest_api_num_threads": threads,
        # With 0, versions load in the thread that polls for them, and one slow load
        # delays all other models.
        "num_load_threads": 1,
        **batched,
        "tensorflow_intra_op_parallelism": 1,
        "tensorflow_inter_op_parallelism": batching.num_batch_threads,
    }
    return server_flags(flags)


def as_shell(arguments: Sequence[str]) -> str:
    """Shell command that starts the server, one argument per line.

    Examples:
        >>> print(as_shell(["--port=8500"]))
        tensorflow_model_server \\
          --port=8500
    """
    words = ["tensorflow_model_server", *map(shlex.quote, arguments)]
    return " \\\n  ".join(words)
