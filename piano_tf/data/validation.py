"""Whether shown lists keep the contract of `piano_tf.features`; the first fault is one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf import features
from piano_tf.errors import LogError
from piano_tf.features import Axis, Column, FeatureSpec

_MILLISECONDS = 10**11  # as seconds the year 5138, as milliseconds 1973


def checked(
    batches: Iterable[pa.RecordBatch], spec: FeatureSpec, *, source: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Passes on batches that keep the contract, in the exact schema of `spec`.

    What concerns a single list is checked here; that no `list_id` comes twice needs the whole log,
    and is checked by `piano_tf.data.list_index`.

    Args:
      batches: Lists in columns; numbers may have another width than the contract's.
      spec: The columns to expect.
      source: File or folder to name in an error.

    Raises:
      LogError: At the first fault, naming column, row, value and what was expected.
    """
    first_row = 0
    for batch in batches:
        conformed = _conform(batch, spec, first_row, source)
        fault = _first_fault(conformed, spec)
        if fault is not None:
            column, row, message = fault
            raise LogError(message, column=column, row=first_row + row, source=source)
        yield conformed
        first_row += conformed.num_rows


def _conform(
    batch: pa.RecordBatch, spec: FeatureSpec, first_row: int, source: str | None
) -> pa.RecordBatch:
    """The batch with the columns of `spec`, in its order and types."""
    expected = {column.name: column for column in spec.columns()}
    for name in batch.schema.names:
        if name not in expected:
            raise LogError(
                f"unknown column; dataset {spec.dataset!r} declares {', '.join(expected)}",
                column=name,
                row=first_row,
                source=source,
            )
    arrays = []
    for name, column in expected.items():
        index = batch.schema.get_field_index(name)
        if index < 0:
            raise LogError(
                f"missing; dataset {spec.dataset!r} declares it as {column.arrow_type}",
                column=name,
                row=first_row,
                source=source,
            )
        array = batch.column(index)
        row = _first(pc.is_null(array))
        if row is not None:
            raise LogError(
                f"got null, expected {column.arrow_type}",
                column=name,
                row=first_row + row,
                source=source,
            )
        arrays.append(_cast(array, column, first_row, source))
    return pa.RecordBatch.from_arrays(arrays, schema=spec.arrow_schema)


def _cast(array: pa.Array, column: Column, first_row: int, source: str | None) -> pa.Array:
    """Numbers to the contract's width; a number where a string belongs is a fault."""
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    value_type = array.type.value_type if is_list else array.type
    is_string = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    is_number = pa.types.is_integer(value_type) or pa.types.is_floating(value_type)
    is_untyped = pa.types.is_null(value_type)  # a column of lists that are all empty
    fits = is_string if column.type == "string" else is_number
    if is_list == (column.axis is not Axis.LIST) and (fits or is_untyped):
        try:
            return _converted(array, column)
        except pa.ArrowInvalid:
            for row in range(len(array)):
                try:
                    _converted(array.take(pa.array([row])), column)
                except pa.ArrowInvalid as error:
                    fault = _misfit(array[row], column) or f"expected {column.arrow_type}: {error}"
                    raise LogError(
                        fault, column=column.name, row=first_row + row, source=source
                    ) from error
            raise
    raise LogError(
        f"got type {array.type}, expected {column.arrow_type}",
        column=column.name,
        row=first_row,
        source=source,
    )


def _misfit(row: pa.Scalar, column: Column) -> str | None:
    """Which number of a row should be whole and is not; None where the fault is another."""
    if column.type != "int64":
        return None
    values = row.as_py()
    for position, value in enumerate(values if isinstance(values, list) else [values]):
        if isinstance(value, float) and not value.is_integer():
            place = f" at position {position}" if isinstance(values, list) else ""
            return f"got {value}{place}, expected {_wanted(column)}"
    return None


def _wanted(column: Column) -> str:
    """What a value of a column should be, in words."""
    if column.name in features.LABELS:
        return "0 or 1"
    words = {"string": "a string", "float": "a finite number", "int64": "a whole number"}
    return words[column.type]


def _converted(array: pa.Array, column: Column) -> pa.Array:
    # Narrowing a float is meant; cutting the fraction off a label is not.
    converted = pc.cast(array, column.arrow_type, safe=column.type != "float")
    if column.type == "string":
        converted.validate(full=True)  # Arrow does not look whether strings are UTF-8 before
    return converted


def _first_fault(batch: pa.RecordBatch, spec: FeatureSpec) -> tuple[str, int, str] | None:
    """The first fault found as (column, row in the batch, message), or None."""
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    lengths = {
        column.name: pc.list_value_length(arrays[column.name]).to_numpy(zero_copy_only=False)
        for column in spec.columns()
        if column.axis is not Axis.LIST
    }
    for column in spec.columns():
        if column.axis is Axis.LIST:
            continue
        key = "item_id" if column.axis is Axis.ITEM else "history_item_id"
        row = _first(lengths[column.name] != lengths[key])
        if row is not None:
            got, expected = lengths[column.name][row], lengths[key][row]
            return column.name, row, f"got {got} values, expected {expected} as in {key!r}"
    row = _first(lengths["item_id"] == 0)
    if row is not None:
        return "item_id", row, "got an empty list, expected at least one candidate"

    for column in spec.columns():
        values = arrays[column.name]
        if column.axis is not Axis.LIST:
            values = values.flatten()
        fault = _value_fault(column, values)
        if fault is not None:
            at, wanted = fault
            row, place = _place(at, lengths.get(column.name))
            return column.name, row, f"got {values[at].as_py()!r}{place}, expected {wanted}"

    click, conversion = (
        arrays[label].flatten().to_numpy(zero_copy_only=False) for label in features.LABELS
    )
    index = _first(conversion > click)
    if index is not None:
        row, place = _place(index, lengths[features.CONVERSION])
        return features.CONVERSION, row, f"got 1{place} where 'click' is 0, expected <= click"
    return None


def _value_fault(column: Column, values: pa.Array) -> tuple[int, str] | None:
    """Index of the first value that the column may not hold, and what was expected of it."""
    checks: list[tuple[np.ndarray | pa.Array, str]] = [(pc.is_null(values), _wanted(column))]
    if column.type == "float":
        numbers = values.to_numpy(zero_copy_only=False)
        checks.append((~np.isfinite(numbers), _wanted(column)))
        if column.name == "history_age":
            checks.append((numbers < 0, "days before the request, >= 0"))
    if column.name == "timestamp":
        late = pc.greater_equal(values, _MILLISECONDS)
        checks.append((late, "Unix seconds; this looks like milliseconds"))
    if column.name in features.LABELS:
        checks.append((pc.invert(pc.is_in(values, pa.array([0, 1]))), _wanted(column)))
    if column.name == "history_action":
        known = pc.is_in(values, pa.array(features.ACTIONS))
        checks.append((pc.invert(known), " or ".join(repr(action) for action in features.ACTIONS)))
    if column.name in ("list_id", "item_id", "history_item_id"):
        checks.append((pc.equal(values, ""), "an identifier ('' pads a batch)"))
    for wrong, expected in checks:
        index = _first(wrong)
        if index is not None:
            return index, expected
    return None


def _first(wrong: np.ndarray | pa.Array) -> int | None:
    """Index of the first True, or None; a null counts as False."""
    if isinstance(wrong, pa.Array):
        wrong = pc.fill_null(wrong, False).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(wrong)
    return int(found[0]) if found.size else None


def _place(index: int, lengths: Sequence[int] | np.ndarray | None) -> tuple[int, str]:
    """Row of a flattened value, and its position within the row's list in words."""
    if lengths is None:
        return index, ""
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, index, side="right"))
    return row, f" at position {index - (ends[row] - lengths[row])}"
