"""`recdistill serve`: the command line of the servers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recdistill.serving.deploy.launch import Launch

__all__ = ["add_serve"]

Guard = Callable[[], AbstractContextManager[None]]


Exports = Annotated[
    Path,
    typer.Argument(
        metavar="EXPORT_DIR",
        help="A model's folder, such as export/NAME, or one of several.",
    ),
]
Port = Annotated[int, typer.Option(help="For gRPC; 0 takes a free one.")]
RestPort = Annotated[
    int, typer.Option(help="For REST and metrics; 0 takes a free one.")
]
Address = Annotated[
    str, typer.Option(help="Where to listen. Whoever reaches it may send any request.")
]
EngineName = Annotated[
    str,
    typer.Option(
        help="auto, tf-serving, docker or embedded. auto: the real server if it is on "
        "the PATH, else the embedded one."
    ),
]
Image = Annotated[str | None, typer.Option(help="The image, for --engine docker.")]
ModelsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A models.config to use instead of all of EXPORT_DIR."
    ),
]
BatchingFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A batching.config: requests are batched."),
]
PerModel = Annotated[
    bool,
    typer.Option(
        "--per-model-batching", help="Let a version's batching_params.pbtxt decide."
    ),
]
PollSeconds = Annotated[float, typer.Option(help="How often to look for new versions.")]
Threads = Annotated[int, typer.Option(help="Of the embedded server; 0 chooses.")]
MaxMessage = Annotated[
    int, typer.Option(help="Largest request to the embedded server, in MiB.")
]


def add_serve(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    """Adds the command.

    Args:
        app: Where to.
        errors_as_text: Turns errors that the user can mend into a paragraph.
        quietly: Keeps what TensorFlow writes on import off the terminal.
    """

    @app.command(
        "serve", short_help="Serve exports with TensorFlow Serving's protocol."
    )
    def serve(
        exports: Exports,
        port: Port = 8500,
        rest_port: RestPort = 8501,
        address: Address = "127.0.0.1",
        engine: EngineName = "auto",
        image: Image = None,
        models: ModelsFile = None,
        batching: BatchingFile = None,
        per_model_batching: PerModel = False,
        poll_seconds: PollSeconds = 1.0,
        grpc_threads: Threads = 0,
        rest_threads: Threads = 0,
        max_message_mib: MaxMessage = 64,
    ) -> None:
        """Serves exports until it is told to stop, and says by which server.

        The real tensorflow_model_server runs where it is on the PATH. The embedded
        one answers in the same way and is for development and small installations.
        """
        with errors_as_text():
            from recdistill.serving.deploy.launch import IMAGE, Launch, run_model_server

            launch = Launch(
                exports,
                port,
                rest_port,
                address,
                models=models,
                batching=batching,
                per_model_batching=per_model_batching,
                poll_s=poll_seconds,
            )
            chosen = launch.engine(engine)
            if chosen == "embedded":
                limits = (grpc_threads, rest_threads, max_message_mib * 2**20)
                _run_embedded(launch, limits, quietly)
                return
            _say(chosen, launch)
            raise typer.Exit(run_model_server(launch, chosen, image or IMAGE))


def _say(engine: str, launch: Launch) -> None:
    where = f"gRPC at {launch.address}:{launch.port}, REST at {launch.rest_port}"
    if engine == "docker":
        typer.echo(f"tensorflow_model_server in Docker: {where}")
        return
    typer.echo(
        f"tensorflow_model_server: gRPC at {launch.port}, REST at {launch.rest_port}, "
        "on all addresses of this machine: it has no flag for one"
    )


def _run_embedded(launch: Launch, limits: tuple[int, int, int], quietly: Guard) -> None:
    from recdistill.serving.deploy.launch import MODELS_POLL_S, configured

    # TensorFlow imports Keras if it is there; a server has no use for it.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras")))  # type: ignore[arg-type]
    with quietly():
        from recdistill.serving.deploy.batching_config import read_batching
        from recdistill.serving.server.local_server import run_until_signal
        from recdistill.serving.server.options import ServerOptions

    with configured(launch) as folder:
        given = launch.models
        options = ServerOptions(
            models=given or folder / "models.config",
            models_poll_s=MODELS_POLL_S if given else 0,
            address=launch.address,
            port=launch.port,
            rest_port=launch.rest_port,
            poll_s=launch.poll_s,
            batching=read_batching(launch.batching) if launch.batching else None,
            per_model_batching=launch.per_model_batching,
            labels_for_unavailable=True,
            grpc_threads=limits[0],
            rest_threads=limits[1],
            max_message_bytes=limits[2],
        )
        typer.echo("The embedded server, for development and small installations")
        run_until_signal(options)
