"""Inputs and outputs of a signature, and conversion of queries to a batch of inputs.

Queries are checked here, before they are sent, so that error messages name the query
and the feature instead of a tensor inside the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from recdistill.export.layout import LENGTH, RESERVED, lists_without_length
from recdistill.serving.client.serving_errors import QueryError

__all__ = ["Query", "SignatureContract", "TensorContract", "batch_of", "ids_of"]

Query = Mapping[str, object]
"""Raw features by name: text, a number, or a list of either; None if unknown."""


@dataclass(frozen=True)
class TensorContract:
    """Data type and shape of an input or output.

    Attributes:
        dtype: NumPy's name of the data type, or "string".
        shape: Size of each axis, None for any size; None if the rank is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def is_list(self) -> bool:
        """Whether each query has a list of any length, such as a history."""
        return (
            len(self.shape or ()) == 2
            and self.shape is not None
            and (self.shape[1] is None)
        )


@dataclass(frozen=True)
class SignatureContract:
    """Inputs and outputs of a signature by name."""

    inputs: Mapping[str, TensorContract]
    outputs: Mapping[str, TensorContract]

    @property
    def histories(self) -> Mapping[str, str]:
        """Name of the `_length` input of each history, by the name of the history."""
        return {
            name.removesuffix(LENGTH): name
            for name in self.inputs
            if name.endswith(LENGTH)
            and name.removesuffix(LENGTH) in self.inputs
            and self.inputs[name.removesuffix(LENGTH)].is_list
        }

    @property
    def shapes(self) -> Mapping[str, tuple[int | None, ...] | None]:
        """Shape of each input by name."""
        return {name: tensor.shape for name, tensor in self.inputs.items()}

    @property
    def features(self) -> list[str]:
        """Features that a query must have."""
        lengths = set(self.histories.values())
        return [n for n in self.inputs if n not in lengths and n not in RESERVED]


def batch_of(
    contract: SignatureContract, queries: Sequence[Query]
) -> dict[str, np.ndarray]:
    """Feature inputs of a batch of queries.

    Lists are padded with empty entries ("", or 0 for numbers) to the longest list of
    the batch and to at least one entry, because a server cannot batch a request of
    width 0 with others. The true length of a history is sent as `<history>_length`.
    Other lists begin with an empty entry; see `layout.lists_without_length`.

    Args:
        contract: Contract of the signature.
        queries: At least one. Each has all features; None is an unknown text or number.
            A history may have its own `<history>_length`; ids beyond it are ignored.

    Returns:
        Arrays `(queries, …)` by input name, of the types of the signature.

    Raises:
        QueryError: If `queries` is empty, a feature is missing or unknown, or a value
            has the wrong type or shape. The message names feature and query.

    Examples:
        >>> ids, count = ("string", (None, None)), ("int32", (None,))
        >>> inputs = {"seen": ids, "seen_length": count, "tags": ids}
        >>> contract = SignatureContract(
        ...     {name: TensorContract(*each) for name, each in inputs.items()}, {}
        ... )
        >>> queries = [{"seen": ["a", "b"], "tags": ["new"]}, {"seen": [], "tags": []}]
        >>> batch = batch_of(contract, queries)
        >>> batch["seen"].tolist(), batch["seen_length"].tolist()
        ([['a', 'b'], ['', '']], [2, 0])
        >>> batch["tags"].tolist()
        [['', 'new'], ['', '']]
    """
    several = isinstance(queries, Sequence) and not isinstance(queries, str | bytes)
    if not several or not queries:
        kind = "none" if several else f"one {type(queries).__name__}"
        raise QueryError(
            "`queries` must have at least one query, a mapping of features by name, in "
            f"a list. Received: {kind}"
        )
    histories, shapes = contract.histories, contract.shapes
    led = lists_without_length(shapes)
    _check_names(contract.features, set(histories.values()), queries)
    inputs: dict[str, np.ndarray] = {}
    for name in contract.features:
        values: list[object] = [query[name] for query in queries]
        if name in histories:
            length = histories[name]
            ids = [_cut(name, length, row, query) for row, query in enumerate(queries)]
            counts = np.array([len(each) for each in ids])
            inputs[length] = counts.astype(contract.inputs[length].dtype)
            values = list(ids)
        inputs[name] = _column(name, contract.inputs[name], values, name in led)
    return inputs


def ids_of(
    argument: str,
    lists: Sequence[Sequence[str] | None],
    rows: int,
    *,
    led: bool = True,
) -> np.ndarray:
    """Converts lists of ids to one input `(rows, n)`, n ≥ 1, padded with "".

    Args:
        argument: Name of the argument for error messages.
        lists: One list per query; None is an empty one.
        rows: Number of queries.
        led: Whether the lists begin with an empty entry, as all except candidates do.

    Raises:
        QueryError: If the number of lists differs from `rows`, or an id is not text.

    Examples:
        >>> ids_of("exclude", [["a"], []], rows=2).tolist()
        [['', 'a'], ['', '']]
    """
    several = isinstance(lists, Sequence | np.ndarray) and not isinstance(lists, str)
    if not several or len(lists) != rows:
        raise QueryError(
            f"`{argument}` must have one list for each of the {rows} queries. "
            f"Received: {len(lists) if several else lists!r}"
        )
    return _padded([_texts(argument, row, v) for row, v in enumerate(lists)], "", led)


def _check_names(
    features: Sequence[str], lengths: set[str], queries: Sequence[Query]
) -> None:
    wanted = set(features)
    for row, query in enumerate(queries):
        if not isinstance(query, Mapping):
            raise QueryError(
                "`queries` must hold mappings of features by name. Received: "
                f"{type(query).__name__} as query {row}"
            )
        if query.keys() == wanted:
            continue
        missing = sorted(wanted - query.keys())
        if missing:
            raise QueryError(
                f"`queries` must have the feature {missing[0]!r}, None if its value is "
                f"unknown. Received: {sorted(query)} in query {row}"
            )
        extra = sorted(query.keys() - wanted - lengths)
        if extra:
            raise QueryError(
                f"`queries` must have only the features {sorted(wanted)}. "
                f"Received: {extra[0]!r} in query {row}"
            )


def _cut(name: str, length: str, row: int, query: Query) -> Sequence[object]:
    """The entries of a history, up to its length."""
    ids = _list(name, row, query[name])
    count = query.get(length)
    if count is None:
        return ids
    if not isinstance(count, Integral) or not 0 <= int(count) <= len(ids):
        raise QueryError(
            f"`{length}` must be from 0 to {len(ids)}, the number of entries in "
            f"{name!r}. Received: {count!r} in query {row}"
        )
    return ids[: int(count)]


def _column(
    name: str, tensor: TensorContract, values: Sequence[object], led: bool
) -> np.ndarray:
    """The values of a feature as an input of the signature."""
    axes = None if tensor.shape is None else tensor.shape[1:]
    if axes is None or len(axes) > 1:
        raise QueryError(
            f"`{name}` must be an input with one or two axes. "
            f"Received: shape {tensor.shape}"
        )
    text = tensor.dtype == "string"
    convert: Callable[[str, int, object], object] = _text if text else _number
    if not axes:
        plain = [convert(name, row, value) for row, value in enumerate(values)]
        return np.array(plain, object) if text else _as_numbers(name, tensor, plain)
    rows = [
        [convert(name, row, each) for each in _list(name, row, value)]
        for row, value in enumerate(values)
    ]
    if tensor.is_list:
        padded = _padded(rows, "" if text else 0, led)
        return padded if text else _as_numbers(name, tensor, padded.tolist())
    width = axes[0]
    for row, each in enumerate(rows):
        if values[row] is None and width and (text or tensor.dtype.startswith("float")):
            each += [convert(name, row, None)] * width
        if len(each) != width:
            raise QueryError(
                f"`{name}` must have {width} values. "
                f"Received: {len(each)} in query {row}"
            )
    return np.array(rows, object) if text else _as_numbers(name, tensor, rows)


def _as_numbers(name: str, tensor: TensorContract, values: object) -> np.ndarray:
    dtype = tensor.dtype
    if dtype.startswith("float"):
        try:
            with np.errstate(over="ignore"):  # Too large for float32 becomes infinity.
                return np.array(values, "float64").astype(dtype)
        except OverflowError:
            raise QueryError(
                f"`{name}` must have numbers in the range of float64. Received: an "
                "integer above it"
            ) from None
    exact = np.array(values, object)
    whole = [isinstance(value, int) for value in exact.ravel()]
    limits = np.iinfo("uint8" if dtype == "bool" else dtype)
    if not all(whole) or not limits.min <= exact.min() <= exact.max() <= limits.max:
        raise QueryError(
            f"`{name}` must have whole numbers in the range of {dtype}. "
            f"Received: {exact.tolist()}"
        )
    return exact.astype(dtype)


def _padded(lists: Sequence[Sequence[object]], empty: object, led: bool) -> np.ndarray:
    width = max(1, *(led + len(each) for each in lists))
    padded = np.full((len(lists), width), empty, object)
    for row, each in enumerate(lists):
        padded[row, led : led + len(each)] = each
    return padded


def _text(name: str, row: int, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise QueryError(
            f"`{name}` must be text. Received: {value!r} in query {row}. "
            f"If this is an id, send {str(value)!r}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"`{name}` must be valid Unicode text. Received: {value!r} in query {row}"
        ) from error
    return str(value)  # Converts `numpy.str_`.


def _texts(name: str, row: int, value: object) -> list[str]:
    return [_text(name, row, each) for each in _list(name, row, value)]


def _number(name: str, row: int, value: object) -> float | int:
    if value is None:
        return math.nan
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise QueryError(f"`{name}` must be a number. Received: {value!r} in query {row}")


def _list(name: str, row: int, value: object) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 else [value]
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise QueryError(f"`{name}` must be a list. Received: {value!r} in query {row}")
    return value
