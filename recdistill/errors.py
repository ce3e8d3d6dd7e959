"""Errors that a user can fix. Each message says what is wrong and what to change.

The command line prints the message as one paragraph and stops with `exit_code`. Every
class also derives from the built-in exception that describes it best, so that callers
may catch that one.
"""

from typing import ClassVar

__all__ = [
    "ArtefactError",
    "BackendError",
    "BudgetError",
    "BusyError",
    "ConfigError",
    "DataError",
    "EngineError",
    "ExportError",
    "FetchError",
    "GateError",
    "GuardError",
    "LaunchError",
    "LoadTestError",
    "NotAnExportError",
    "RecdistillError",
    "ReindexError",
    "ReleaseError",
    "ReportError",
    "ScoreError",
    "ServeError",
    "TeacherError",
    "TimingError",
    "TrainingError",
]


class RecdistillError(Exception):
    """Base class of all errors that a user can fix.

    Attributes:
        exit_code: Exit code of the command line: 2 for bad input, 3 for a teacher that
            is not worth distilling, a student that falls below the baseline on a
            slice or one that misses its budget, 4 for an export that is not safe to
            serve.
    """

    exit_code: ClassVar[int] = 2


class BackendError(RecdistillError, ImportError):
    """A Keras backend other than TensorFlow."""


class ConfigError(RecdistillError, ValueError):
    """A configuration that cannot be used. The message names the key and the reason."""


class DataError(RecdistillError, ValueError):
    """Bad input data. The message names the file, the column and the row."""


class ArtefactError(RecdistillError, ValueError):
    """A damaged file of a run or of an export.

    The message names the file, and the step or command that writes it again.
    """


class EngineError(RecdistillError, RuntimeError):
    """A cluster that cannot be reached, or that cannot do the work."""


class StorageError(RecdistillError, OSError):
    """Object storage that cannot be read or written."""


class FetchError(DataError):
    """A data set that could not be downloaded."""


class TeacherError(RecdistillError, ValueError):
    """A teacher that cannot be used as configured."""


class ScoreError(RecdistillError, ValueError):
    """Teacher scores that cannot be stored, or stored scores that cannot be read."""


class GateError(RecdistillError, RuntimeError):
    """A teacher that is not good enough to distil. The message has the figures."""

    exit_code = 3


class GuardError(RecdistillError, RuntimeError):
    """A student that falls below the baseline on a slice of the test lists."""

    exit_code = 3


class BudgetError(RecdistillError, RuntimeError):
    """A student that is too slow or too large. The message has the measured values."""

    exit_code = 3


class ExportError(RecdistillError, RuntimeError):
    """An export that does not answer as the live student does."""

    exit_code = 4


class NotAnExportError(RecdistillError, ValueError):
    """A folder that does not hold an export, or holds one without a manifest."""


class ReindexError(RecdistillError, ValueError):
    """A version whose items cannot be replaced, or items that do not fit the model."""


class TimingError(RecdistillError, RuntimeError):
    """A model whose latency could not be measured."""


class TrainingError(RecdistillError, ValueError):
    """A training run that diverged."""


class BusyError(RecdistillError, RuntimeError):
    """A folder that another recdistill process is using."""


class LaunchError(RecdistillError, ValueError):
    """A folder or a setting with which no server can be started."""


class ServeError(RecdistillError, RuntimeError):
    """An embedded server that cannot start."""


class ReleaseError(RecdistillError, ValueError):
    """A release that cannot be made."""


class ReportError(RecdistillError, ValueError):
    """A report file that cannot be read."""


class LoadTestError(RecdistillError, ValueError):
    """A load test that cannot run."""
