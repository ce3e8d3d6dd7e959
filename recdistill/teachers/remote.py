"""A model behind a TensorFlow Serving endpoint, over REST or gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from recdistill.errors import RecdistillError, TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.saved_model import output_name

__all__ = ["RemoteModel", "ServingClient"]


class _Tensor(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | None, ...] | None: ...


class _Signature(Protocol):
    @property
    def inputs(self) -> Mapping[str, _Tensor]: ...
    @property
    def outputs(self) -> Mapping[str, _Tensor]: ...


class _Answer(Protocol):
    @property
    def outputs(self) -> Mapping[str, np.ndarray]: ...


class ServingClient(Protocol):
    """The part of `recdistill.serving.Client` that a remote model uses.

    A failed call raises a `RecdistillError`.
    """

    def signatures(self) -> Mapping[str, _Signature]:
        """Inputs and outputs of the model's signatures, by name."""

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> _Answer:
        """Calls a signature with arrays by input name."""


class RemoteModel:
    """One signature of a model served by TensorFlow Serving.

    Deadline and retries belong to the client.

    Args:
        client: A `recdistill.serving.Client` for the model.
        label: Name of the model in error messages.
        signature: Name of the signature.
        output: Name of the output with the scores. May be None if the signature has
            one output.

    Raises:
        TeacherError: If the server does not answer, or the model does not have this
            signature or output.
    """

    parameters: int | None = None
    size_bytes: int | None = None

    def __init__(
        self,
        client: ServingClient,
        label: str,
        signature: str = "serving_default",
        output: str | None = None,
    ) -> None:
        self.label, self._client, self._signature = label, client, signature
        try:
            signatures = client.signatures()
        except RecdistillError as error:
            raise self._failed(error) from error
        if signature not in signatures:
            raise TeacherError(
                f"`teacher.signature` must be one of the signatures of the teacher "
                f"{label}: {', '.join(sorted(signatures))}. Received: {signature!r}"
            )
        found = signatures[signature]
        self.inputs: Mapping[str, InputSpec] | None = {
            name: InputSpec(tensor.dtype, tensor.shape)
            for name, tensor in found.inputs.items()
        }
        self._output = output_name(found.outputs, output, label)

    def predict(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Scores of one chunk, `(rows,)` or `(batch, list_size)`.

        Raises:
            TeacherError: If the server does not answer with scores.
        """
        try:
            outputs = self._client.predict(self._signature, inputs).outputs
        except RecdistillError as error:
            raise self._failed(error) from error
        if self._output not in outputs:
            raise self._failed(
                f"the answer has the outputs {sorted(outputs)}, not {self._output!r}"
            )
        return outputs[self._output]

    def _failed(self, reason: object) -> TeacherError:
        return TeacherError(f"The teacher {self.label} failed: {reason}")
