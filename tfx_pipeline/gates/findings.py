"""What a gate found against what it was shown, and how a person reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

_HEADS = ("column", "where", "rule", "value")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One broken rule.

    Attributes:
      column: The column at fault.
      where: The split, or the two sides that were compared.
      rule: What was expected.
      value: What was found.
    """

    column: str
    where: str
    rule: str
    value: str

    def __str__(self) -> str:
        return f"column {self.column!r} in {self.where}: got {self.value}, expected {self.rule}"


def spelt(value: float) -> str:
    """A number of a log: a whole one to the last digit, another as float32 tells it from its like.

    >>> spelt(1104537600.0), spelt(-0.0), spelt(35.68121)
    ('1104537600', '0', '35.68121')
    """
    return f"{value + 0.0:.0f}" if float(value).is_integer() else str(np.float32(value))


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """The lines of a table of findings, its head first.

    >>> for line in table([Finding("click", "train", "at most 0.5", "0.93")]):
    ...     print(line)
    column  where  rule         value
    click   train  at most 0.5  0.93
    """
    rows = [_HEADS, *(dataclasses.astuple(finding) for finding in findings)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
