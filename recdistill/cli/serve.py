"""`recdistill serve`: serves exported models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recdistill.cli.common import (
    LONGEST_S,
    MOST_THREADS,
    check_left_out,
    check_options,
    errors_as_paragraphs,
    without_startup_notes,
)
from recdistill.errors import ConfigError

if TYPE_CHECKING:
    from recdistill.serving.deploy.launch import Launch

MAX_MESSAGE_MIB = 16
"""Default size of the largest request of the embedded server, in MiB."""


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Serve exported models over TensorFlow Serving's protocol."
    app.command("serve", short_help=summary)(serve)


def serve(
    exports: Annotated[
        Path,
        typer.Argument(
            metavar="EXPORT_DIR",
            help="A model's folder, such as export/NAME, or a folder of several.",
        ),
    ],
    port: Annotated[int, typer.Option(help="gRPC port (0: any free port).")] = 8500,
    rest_port: Annotated[
        int, typer.Option(help="Port for REST and metrics (0: any free port).")
    ] = 8501,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on (default: 127.0.0.1). There is no "
            "authentication: every client that reaches it can send any request."
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="auto, tf-serving, docker or embedded. tf-serving listens on all "
            "addresses. auto: tf-serving if tensorflow_model_server is on the PATH and "
            "--address is 0.0.0.0, otherwise the embedded server."
        ),
    ] = "auto",
    image: Annotated[
        str | None, typer.Option(help="Docker image for --engine docker.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A models.config (default: serve every model in EXPORT_DIR).",
        ),
    ] = None,
    batching: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A batching.config (default: do not batch requests). With "
            "tensorflow_model_server, for trusted clients only.",
        ),
    ] = None,
    per_model_batching: Annotated[
        bool,
        typer.Option(
            "--per-model-batching",
            help="Use the batching_params.pbtxt in each version's folder.",
        ),
    ] = False,
    poll_seconds: Annotated[
        float,
        typer.Option(help="Interval between checks for new versions, in seconds."),
    ] = 1.0,
    grpc_threads: Annotated[
        int,
        typer.Option(
            help="Maximum number of concurrent gRPC requests (default: chosen from the "
            "batching parameters)."
        ),
    ] = 0,
    rest_threads: Annotated[
        int,
        typer.Option(
            help="Maximum number of concurrent REST requests (default: chosen from the "
            "batching parameters)."
        ),
    ] = 0,
    max_message_mib: Annotated[
        int | None,
        typer.Option(
            help="Largest request of the embedded server, in MiB "
            f"(default: {MAX_MESSAGE_MIB})."
        ),
    ] = None,
) -> None:
    """Serves exported models until it is stopped, and prints which server it uses.

    The embedded server implements the protocol of TensorFlow Serving and is meant for
    development and small installations. tensorflow_model_server listens on all
    addresses of the machine, so it starts only with --engine tf-serving or --address
    0.0.0.0.
    """
    with errors_as_paragraphs():
        check_options(
            {
                "--port": (port, 0, 65_535),
                "--rest-port": (rest_port, 0, 65_535),
                "--poll-seconds": (poll_seconds, 0.01, LONGEST_S),
                "--grpc-threads": (grpc_threads, 0, MOST_THREADS),
                "--rest-threads": (rest_threads, 0, MOST_THREADS),
                "--max-message-mib": (max_message_mib, 1, 2_047),
            }
        )
        from recdistill.serving.deploy.launch import Launch, on_free_ports
        from recdistill.serving.deploy.model_server_process import (
            IMAGE,
            run_model_server,
        )

        launch = Launch(
            exports,
            port,
            rest_port,
            address,
            models=models,
            batching=batching,
            per_model_batching=per_model_batching,
            poll_s=poll_seconds,
            grpc_threads=grpc_threads,
            rest_threads=rest_threads,
        )
        if models is not None and not exports.is_dir():
            raise ConfigError(
                "EXPORT_DIR must be an existing folder, also with `--models`. "
                f"Received: {exports}"
            )
        chosen = launch.engine(engine)
        if chosen != "docker":
            check_left_out(f"with `--engine {chosen}`", {"--image": image})
        if chosen == "embedded":
            _run_embedded(launch, (max_message_mib or MAX_MESSAGE_MIB) * 2**20)
            return
        own = {"--max-message-mib": max_message_mib}
        check_left_out(f"with `--engine {chosen}`", own)
        launch = on_free_ports(launch, chosen)
        _print_address(chosen, launch)
        raise typer.Exit(run_model_server(launch, chosen, image or IMAGE))


def _print_address(engine: str, launch: Launch) -> None:
    where = f"gRPC at {launch.host}:{launch.port}, REST at {launch.rest_port}"
    if engine == "docker":
        typer.echo(f"tensorflow_model_server in Docker: {where}")
        return
    typer.echo(
        f"tensorflow_model_server: gRPC at {launch.port}, REST at {launch.rest_port}, "
        "on all addresses of this machine (it has no flag to choose one)"
    )


def _run_embedded(launch: Launch, max_bytes: int) -> None:
    from recdistill.serving.deploy.launch import MODELS_POLL_S, configured

    # TensorFlow imports Keras if it is installed; the server does not need it.
    for name in ("keras", "tf_keras"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    with without_startup_notes():
        from recdistill.serving.deploy.batching_config import read_batching
        from recdistill.serving.server.local_server import run_until_signal
        from recdistill.serving.server.options import ServerOptions

    with configured(launch) as folder:
        given = launch.models
        options = ServerOptions(
            models=given or folder / "models.config",
            models_poll_s=MODELS_POLL_S if given else 0,
            address=launch.host,
            port=launch.port,
            rest_port=launch.rest_port,
            poll_s=launch.poll_s,
            batching=read_batching(launch.batching) if launch.batching else None,
            per_model_batching=launch.per_model_batching,
            labels_for_unavailable=True,
            grpc_threads=launch.grpc_threads,
            rest_threads=launch.rest_threads,
            max_message_bytes=max_bytes,
        )
        typer.echo("Embedded server, for development and small installations")
        run_until_signal(options)
