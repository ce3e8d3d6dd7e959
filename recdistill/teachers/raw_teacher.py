"""External teachers: models that take raw features instead of looked-up ones.

Our own models take looked-up features. An external model takes the raw values, under
its own input names. A batch for such a teacher has the additional key `raw`: the raw
query inputs by name, which the exported student also takes. The teacher holds the raw
features of the candidates, one row for each item of the catalogue, and gathers them by
`candidate_index`.

A `RawModel` converts a dict of arrays to scores; each kind of model has one.
`ExternalTeacher` contains the part that all kinds share: it maps our features to the
model's inputs, converts types and shapes, calls the model in chunks so that memory
stays bounded, and checks that there is one finite score for each candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from recdistill.data.dataset import nearest
from recdistill.errors import TeacherError
from recdistill.features.encoders import FIRST, MISSING, UNKNOWN
from recdistill.features.unknown_values import UnknownValues
from recdistill.teachers.inputs import InputSpec, as_input

Arrays: TypeAlias = dict[str, np.ndarray]
Layout: TypeAlias = Literal["pairs", "lists"]

_FEW_SCORES = 100
"""Different scores of a call from which it is examined whether rounding merges them."""

MASK = "mask"
"""Name of the mask as a feature for models of whole lists."""


class RawModel(Protocol):
    """Interface of the model behind an external teacher. Subclassing is optional.

    Attributes:
        label: Name in error messages, such as "SavedModel teacher/1".
        inputs: Inputs by name; None if the model does not declare them.
        parameters: Number of learned parameters; None if unknown.
        size_bytes: Size of the model's files; None if unknown.
        vocabularies: The texts that the model knows, by input, where it declares them.
        needs_known: Whether an input without any known value is an error. A lookup
            table of a SavedModel may have another purpose than a vocabulary.
    """

    label: str
    inputs: Mapping[str, InputSpec] | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    vocabularies: Mapping[str, Collection[str]] = MappingProxyType({})
    needs_known: bool = True

    def predict(self, inputs: Arrays) -> Any:
        """Scores of one chunk, `(rows,)` or `(batch, list_size)`.

        Any exception becomes a `TeacherError` that names the teacher.
        """


@dataclass(frozen=True)
class _Slot:
    """An input of the model and the feature that is passed to it."""

    name: str
    feature: str
    spec: InputSpec | None


class ExternalTeacher:
    """Teacher interface for a model of raw features.

    Args:
        model: Converts arrays to scores.
        query: Names of the raw query inputs in the batches.
        candidates: Raw features of the catalogue by name, each `(items, …)`.
        inputs: Our feature by the model's input name. None if the names are the same;
            a model that does not declare its inputs then gets all features.
        layout: "pairs": a row is one query with one candidate, inputs are `(rows, …)`
            and scores `(rows,)` or `(rows, 1)`. "lists": query inputs are `(batch, …)`,
            candidate inputs `(batch, list_size, …)` and scores `(batch, list_size)`.
        batch_size: Maximum number of candidates per call of the model; with "lists", at
            least one whole list.
        output_column: Column with the scores if the model returns several numbers for
            each candidate, such as class probabilities; counted from 0.

    Raises:
        TeacherError: If the model's inputs do not match our features, or it reads no
            feature of the candidates.

    Attributes:
        features: Names of our features that the model reads.
        parameters: Number of parameters of the model; None if unknown.
        size_bytes: Size of the model's files; None if unknown.
        unknown: Values that the model does not know, by its inputs, in the catalogue
            and in all batches so far; for inputs whose vocabulary it declares.
        uncounted: Inputs of text whose vocabulary the model does not declare, so that
            it cannot be known which of their values the model knows.

    Examples:
        A model that gives short titles higher scores.

        >>> class Short:
        ...     label, inputs, parameters, size_bytes = "short", None, None, None
        ...     def predict(self, inputs):
        ...         return [-len(name) for name in inputs["film"]]
        >>> films = {"title": np.array(["Heat", "Alien", "M"], object)}
        >>> teacher = ExternalTeacher(Short(), [], films, inputs={"film": "title"})
        >>> mask = np.array([[True, True, True], [True, False, True]])
        >>> teacher({"raw": {}, "candidate_index": np.arange(3), "mask": mask})
        array([[-4., -5., -1.],
               [-4.,  0., -1.]], dtype=float32)
    """

    def __init__(
        self,
        model: RawModel,
        query: Sequence[str],
        candidates: Mapping[str, np.ndarray],
        *,
        inputs: Mapping[str, str] | None = None,
        layout: Layout = "pairs",
        batch_size: int = 4096,
        output_column: int | None = None,
    ) -> None:
        self.model, self.layout, self._batch_size = model, layout, batch_size
        self._output_column = output_column
        self.parameters, self.size_bytes = model.parameters, model.size_bytes
        known = [*query, *candidates, *([MASK] if layout == "lists" else [])]
        slots = _slots(model, inputs, known)
        self.features = frozenset(slot.feature for slot in slots) - {MASK}
        self.unknown = UnknownValues()
        self.uncounted: set[str] = set()
        self._query = [s for s in slots if s.feature not in candidates]
        if len(self._query) == len(slots):
            raise TeacherError(
                f"The teacher {model.label} must read a feature of the candidates, to "
                "score each of them. Received: inputs for query features only "
                f"({', '.join(s.name for s in slots) or 'none'}). A retrieval index "
                f"that returns its own best candidates is not a ranker: use the model "
                f"that "
                "scores pairs, or store scores in a table (kind 'scores')."
            )
        # The features of the catalogue are converted once, not in every call.
        self._candidates = {
            slot.name: as_input(
                candidates[slot.feature],
                self._of_one_item(slot.spec),
                f"candidate feature `{slot.feature}`",
                self._of(slot),
            )
            for slot in slots
            if slot.feature in candidates
        }
        self._scored = False

    def __call__(self, batch: Mapping[str, Any], training: bool = False) -> np.ndarray:
        """Scores of a batch.

        Args:
            batch: `raw`, `candidate_index` and `mask`, as in
                `recdistill.data.collation`.
            training: Not used: the model is not trained.

        Returns:
            `(batch, list_size)` float32; 0 under padding.

        Raises:
            TeacherError: If a value does not fit the model's input, the model fails, or
                it does not return one finite score for each candidate.
        """
        if "raw" not in batch:
            raise TeacherError(
                f"`batch` must have the raw query inputs under 'raw' for the teacher "
                f"{self.model.label}. Received: {sorted(batch)}"
            )
        mask = np.asarray(batch["mask"])
        index = np.broadcast_to(np.asarray(batch["candidate_index"]), mask.shape)
        query = {
            slot.name: as_input(
                np.asarray(
                    mask if slot.feature == MASK else batch["raw"][slot.feature]
                ),
                slot.spec,
                f"query feature `{slot.feature}`",
                self._of(slot),
            )
            for slot in self._query
        }
        score = self._pairs if self.layout == "pairs" else self._lists
        scores = self._finite(score(query, index, mask), mask)
        # A model may know its vocabularies only after it has been called.
        self._count_unknown(query if self._scored else query | self._candidates)
        self._scored = True
        return scores

    def _count_unknown(self, arrays: Arrays) -> None:
        vocabularies = getattr(self.model, "vocabularies", {})
        for name, values in arrays.items():
            if not values.size:
                continue
            ragged = values.dtype == object and isinstance(values.flat[0], np.ndarray)
            values = np.concatenate([*values]) if ragged else values
            if name not in vocabularies:
                if values.dtype.kind in "OU":
                    self.uncounted.add(name)
                continue
            # In a row of several numbers, 0 is padding.
            numbers = values.dtype.kind in "iu" and values.ndim > 1
            padding = "0" if numbers and values.shape[-1] > 1 else ""
            different, place = np.unique(_as_keys(values), return_inverse=True)
            index = [
                FIRST
                if text in vocabularies[name] and text
                else MISSING
                if text in ("", padding)
                else UNKNOWN
                for text in different.tolist()
            ]
            self.unknown.add(name, np.asarray(index, "int32")[place])

    def count_anew(self) -> None:
        """Forgets what was counted; the next call counts the catalogue again."""
        self.unknown, self.uncounted = UnknownValues(), set()
        self._scored = False

    def check_known(self) -> dict[str, float]:
        """Share of unknown values by input.

        Raises:
            TeacherError: If an input has had no value that the model knows, and the
                model needs one (`RawModel.needs_known`).
        """
        if not getattr(self.model, "needs_known", True):
            return self.unknown.shares()
        for name, values in self.unknown.everywhere().items():
            # In another process than the one that scored, they may not be known yet.
            words = sorted(self.model.vocabularies.get(name, ()))[:3]
            known = f", such as {', '.join(map(repr, words))}" if words else ""
            raise TeacherError(
                f"The input `{name}` of the teacher {self.model.label} must have "
                f"values that were in its training{known}. Received: "
                f"{values:,} values, all unknown. Compare their form with the data of "
                "the teacher's training: `1`, `1.0` and `01` are different categories."
            )
        return self.unknown.shares()

    def _pairs(self, query: Arrays, index: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Scores the real candidates of all lists, without padding."""
        row, column = np.nonzero(mask)
        item = index[row, column]
        scores = np.zeros(mask.shape, "float32")
        for start in range(0, len(row), self._batch_size):
            part = slice(start, start + self._batch_size)
            inputs = {name: value[row[part]] for name, value in query.items()}
            inputs |= {name: v[item[part]] for name, v in self._candidates.items()}
            answer = self._answer(inputs, row[part].shape)
            scores[row[part], column[part]] = answer
        return scores

    def _lists(self, query: Arrays, index: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scores = np.zeros(mask.shape, "float32")
        lists, list_size = mask.shape
        step = max(1, self._batch_size // max(1, list_size))
        for start in range(0, lists, step):
            part = slice(start, start + step)
            # A copy, which the model may change without changing the batch.
            inputs = {name: value[part].copy() for name, value in query.items()}
            inputs |= {name: v[index[part]] for name, v in self._candidates.items()}
            scores[part] = self._answer(inputs, index[part].shape)
        return np.where(mask, scores, np.float32(0.0))

    def _answer(self, inputs: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        try:
            answer = np.asarray(self.model.predict(inputs))
        except TeacherError:
            raise
        except (Exception, SystemExit) as error:
            raise TeacherError(
                f"The teacher {self.model.label} failed: {type(error).__name__}: "
                f"{error}"
            ) from error
        answer = self._column(answer, shape)
        if answer.dtype.name == "bfloat16":  # Of a kind that NumPy does not know.
            answer = answer.astype("float32")
        if answer.shape != shape or answer.dtype.kind not in "fiu":
            raise TeacherError(
                f"The teacher {self.model.label} must give one number for each "
                f"candidate, in layout '{self.layout}' an array of shape {shape} or "
                f"{(*shape, 1)}. Received: {answer.dtype} of shape {answer.shape}"
            )
        with np.errstate(over="ignore"):  # `_finite` reports infinite scores.
            scores = answer.astype("float32")
        lost = _lost(answer, scores)
        if lost:
            raise TeacherError(
                f"The teacher {self.model.label} must give scores that differ as "
                f"float32. Received: {lost[0]:,} different {answer.dtype} scores "
                f"between {answer.min():.15g} and {answer.max():.15g}, of which "
                f"float32 keeps {lost[1]:,}. Subtract a constant from all scores; of "
                "probabilities near 1, use the log-odds."
            )
        return scores

    def _column(self, answer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The column with the scores, if there are several numbers per candidate."""
        if answer.ndim != len(shape) + 1 or answer.shape[:-1] != shape:
            return answer
        columns, column = answer.shape[-1], self._output_column
        if column is None and columns == 1:
            column = 0
        if column is None or column >= columns:
            raise TeacherError(
                f"`teacher.output_column` must be the column of the teacher "
                f"{self.model.label} with the scores, from 0 to {columns - 1}: it "
                f"gives {columns} numbers for each candidate. Received: {column}"
            )
        return answer[..., column]

    def _finite(self, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        nan, infinite = int(np.isnan(scores).sum()), int(np.isinf(scores).sum())
        if nan or infinite:
            raise TeacherError(
                f"The teacher {self.model.label} must give finite scores. Received: "
                f"{nan:,} NaN and {infinite:,} infinite among {int(mask.sum()):,} "
                "scores. Missing values among its inputs are a common cause."
            )
        return scores

    def _of(self, slot: _Slot) -> str:
        return f"the input `{slot.name}` of the teacher {self.model.label}"

    def _of_one_item(self, spec: InputSpec | None) -> InputSpec | None:
        """A candidate's input without the list axis of the layout "lists"."""
        if spec is None or spec.shape is None or self.layout == "pairs":
            return spec
        if len(spec.shape) < 2:
            raise TeacherError(
                f"The teacher {self.model.label} must take candidates as (batch, "
                "list_size, …) in layout 'lists'. Received: an input of shape "
                f"{spec.shape}. Is its layout 'pairs'?"
            )
        return InputSpec(spec.dtype, (spec.shape[0], *spec.shape[2:]))


def _lost(answer: np.ndarray, scores: np.ndarray) -> tuple[int, int] | None:
    """Numbers of different scores before and after rounding, if it merges most."""
    if answer.dtype.itemsize < 4 or answer.dtype == scores.dtype:
        return None
    before = len(np.unique(answer[np.isfinite(answer)]))
    after = len(np.unique(scores[np.isfinite(scores)]))
    return (before, after) if before >= _FEW_SCORES and 2 * after < before else None


def _slots(
    model: RawModel, inputs: Mapping[str, str] | None, known: list[str]
) -> list[_Slot]:
    """Matches the model's inputs with our features."""
    declared = model.inputs
    if inputs is None:
        names = declared if declared is not None else [k for k in known if k != MASK]
        inputs = {name: name for name in names}
    if declared is not None and declared.keys() != inputs.keys():
        missing = sorted(declared.keys() - inputs.keys())
        unknown = sorted(inputs.keys() - declared.keys())
        raise TeacherError(
            f"`teacher.inputs` must name each input of the teacher {model.label}: "
            f"{', '.join(sorted(declared))}. Received: {', '.join(sorted(inputs))} "
            f"(missing: {', '.join(missing) or 'none'}; "
            f"not an input of it: {', '.join(unknown) or 'none'})"
        )
    for name, feature in inputs.items():
        if feature not in known:
            raise TeacherError(
                f"The input `{name}` of the teacher {model.label} must be one of our "
                f"features: {', '.join(known)}. Received: {feature!r}."
                f"{nearest(feature, known)} Map it with `teacher.inputs`."
            )
    return [
        _Slot(name, feature, None if declared is None else declared[name])
        for name, feature in inputs.items()
    ]


def _as_keys(values: np.ndarray) -> np.ndarray:
    """Values as the texts that a table of keys has; "" for a missing number.

    A fraction is cut, as by the cast of a float input in front of an `IntegerLookup`.
    """
    if values.dtype.kind != "f":
        return values.astype(str)
    finite = np.isfinite(values)
    whole = np.where(finite, np.trunc(values), 0).astype("int64").astype(str)
    return np.where(finite, whole, "")
