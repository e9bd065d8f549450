"""How often each distinct row comes, counted a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

COUNT = "count"
"""The column of counts."""
_AT_ONCE = 32


def count_rows(tables: Iterable[pa.Table]) -> pa.Table:
    """Each distinct row of tables, with how often it comes; memory grows with these alone.

    Args:
      tables: At least one, all of the same columns.

    >>> count_rows([pa.table({"query": ["soul"]})] * 3).to_pylist()
    [{'query': 'soul', 'count': 3}]
    """
    parts: list[pa.Table] = []
    for table in tables:
        ones = pa.array([1] * len(table), pa.int64())
        parts.append(table.append_column(COUNT, ones))
        if len(parts) == _AT_ONCE:
            parts = [_merged(parts)]
    return _merged(parts)


def _merged(parts: list[pa.Table]) -> pa.Table:
    names = [name for name in parts[0].column_names if name != COUNT]
    summed = pa.concat_tables(parts).group_by(names).aggregate([(COUNT, "sum")])
    # The order of columns is Arrow's, and what is merged must have that of what comes after it.
    in_order = summed.select([*names, f"{COUNT}_sum"])
    return in_order.rename_columns([*names, COUNT])
