"""TensorBoard event files of a run.

They are written with TensorFlow's own operations, so TensorBoard is needed to look at
them only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.tracking.run_values import (
    report_figures,
    report_of,
    training_points,
)

COMPLETE = "complete"
"""File that marks the folder of an artefact whose values are all written."""


class TensorBoardLog:
    """Writes a folder for each artefact, with one run of TensorBoard for each series.

    Points of a training curve are written while training. A step that was stopped
    writes its folder anew.

    Args:
        folder: Folder of all runs of TensorBoard.
        page: The report page, which the text "report" links to.
    """

    def __init__(self, folder: Path, page: Path) -> None:
        self._folder, self._page = folder, page
        self._live: Path | None = None
        self._writers: dict[str, Any] = {}

    def begin(self, artefact: str) -> None:
        """Starts the folder of an artefact that is going to be produced."""
        self._start(self._folder / artefact)

    def observe(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """Writes values at a training step."""
        if self._live is None:
            return
        if series not in self._writers:
            folder = str(self._live / series)
            self._writers[series] = tf.summary.create_file_writer(folder)
        with self._writers[series].as_default():
            for name, value in values.items():
                tf.summary.write(
                    name, tf.constant(value, tf.float32), step, _metadata("scalars")
                )
        self._writers[series].flush()

    def record(self, step: str, artefact: Artefact) -> None:
        """Completes the folder of a finished artefact, unless it is complete."""
        folder = self._folder / artefact.path.name
        if (folder / COMPLETE).exists():
            return
        report = report_of(artefact)
        points = [] if self._live == folder else [*training_points(artefact.record)]
        if self._live != folder:
            self._start(folder)
        for series, at, values in points:
            self.observe(series, at, values)
        if report is not None:
            self.observe("report", 0, report_figures(report))
            link = f"[{self._page.name}]({self._page.resolve().as_uri()})"
            with self._writers["report"].as_default():
                tf.summary.write("report", tf.constant([link]), 0, _metadata("text"))
        written = bool(self._writers)
        self._close()
        if written:
            (folder / COMPLETE).touch()

    def _start(self, folder: Path) -> None:
        self._close()
        shutil.rmtree(folder, ignore_errors=True)
        self._live = folder

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers, self._live = {}, None


def _metadata(plugin: str) -> Any:
    """Tells TensorBoard which of its pages shows a value."""
    kind = "SCALAR" if plugin == "scalars" else "TENSOR"
    data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    return tf.compat.v1.SummaryMetadata(
        plugin_data=data, data_class=f"DATA_CLASS_{kind}"
    )
