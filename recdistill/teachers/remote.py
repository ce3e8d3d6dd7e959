"""A model behind a TensorFlow Serving endpoint, over REST or gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from recdistill.errors import RecdistillError, TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.raw_teacher import RawModel
from recdistill.teachers.saved_model import output_name, signature_of

__all__ = ["RemoteModel"]


class ServingClient(Protocol):
    """The part of `recdistill.serving.Client` that a remote model uses.

    A failed call raises a `RecdistillError`.
    """

    def signatures(self) -> Mapping[str, Any]:
        """Signatures by name, each with `inputs` and `outputs` by name.

        An input has a `dtype` and a `shape`, as an `InputSpec` has.
        """

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Any:
        """Calls a signature; the answer has arrays by output name in `outputs`."""


class RemoteModel(RawModel):
    """One signature of a model served by TensorFlow Serving.

    The deadline and the number of retries are settings of the client.

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
        contract = signature_of(signatures, signature, label)
        self.inputs = {
            name: InputSpec(tensor.dtype, tensor.shape)
            for name, tensor in contract.inputs.items()
        }
        self._output = output_name(contract.outputs, output, label)

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
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
