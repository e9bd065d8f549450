"""What a re-ranking is asked about and what comes back, in plain Python values.

Columns bear the names of the search-list contract throughout: a log row, a `SearchList`, the
model's inputs and every error message speak of the same `item_id` and `history_age`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

LABELS = ("click", "conversion")
_REQUIRED = ("query", "user_id", "item_id")


class RequestError(ValueError):
    """A search list that the model cannot re-rank; the message names the column at fault."""


@dataclasses.dataclass(frozen=True)
class SearchList:
    """The candidates of one search, with who searched and what they did before.

    N is the number of candidates and H that of history entries, the newest first; H may be 0.

    Attributes:
      query: What was typed.
      user_id: Who typed it.
      item_id: [N] the candidates in first-stage order, at least one.
      list_id: The search's own name, which does not influence the answer.
      timestamp: When it was typed, in Unix seconds.
      initial_score: [N] the first stage's scores, if the model takes them.
      history_query: [H] earlier queries of the user.
      history_item_id: [H] the items that the user acted on after each.
      history_action: [H] what the user did, `click` or `conversion`.
      history_age: [H] how long ago, in days.
      features: Whatever else the model takes, by full column name: `item_<name>` [N],
        `user_<name>` and `context_<name>` a single value, `history_item_<name>` [H].

    Raises:
      RequestError: `features` holds a column that has an attribute of its own.

    >>> cold = SearchList("so what", "ada", ["kind-of-blue", "bags-groove"])
    >>> cold.columns()["history_item_id"]
    ()
    """

    query: str
    user_id: str
    item_id: Sequence[str]
    list_id: str = ""
    timestamp: int = 0
    initial_score: Sequence[float] | None = None
    history_query: Sequence[str] = ()
    history_item_id: Sequence[str] = ()
    history_action: Sequence[str] = ()
    history_age: Sequence[float] = ()
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.features:
            if name in CONTRACT:
                raise RequestError(f"features holds {name!r}, which is an attribute of its own")

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> SearchList:
        """Takes one row of a log; its labels are left behind, and a column of None is no column.

        Args:
          row: Values by column name.

        Raises:
          RequestError: The row has no query, user_id or item_id.
        """
        columns = {
            name: value for name, value in row.items() if name not in LABELS and value is not None
        }
        for name in _REQUIRED:
            if name not in columns:
                raise RequestError(f"the row has no column {name!r}; it has {sorted(columns)}")
        own = {name: columns.pop(name) for name in CONTRACT if name in columns}
        return cls(**own, features=columns)

    def columns(self) -> dict[str, Any]:
        """Returns the values by column name, without those that are not given."""
        own = {name: getattr(self, name) for name in CONTRACT}
        return {name: value for name, value in own.items() if value is not None} | {**self.features}


def is_sequence(value: Any) -> bool:
    """Whether a value is one of many values: a sequence or an array, and not text."""
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


CONTRACT = tuple(field.name for field in dataclasses.fields(SearchList) if field.name != "features")


@dataclasses.dataclass(frozen=True)
class RerankedList:
    """A search list in its new order; N is the number of candidates.

    Attributes:
      item_id: [N] the candidates as they were asked about.
      order: [N] their indices, best first.
      score: [N] what they were ordered by, in the candidates' first order, as are the next two.
      click: [N] the probability of a click on each.
      conversion: [N] the probability of a click and a conversion.
      list_click: The probability of any click on the list.
      list_conversion: The probability of any click and conversion on it.
      model_version: The version of the model that answered.
    """

    item_id: tuple[str, ...]
    order: tuple[int, ...]
    score: tuple[float, ...]
    click: tuple[float, ...]
    conversion: tuple[float, ...]
    list_click: float
    list_conversion: float
    model_version: int

    @property
    def ranking(self) -> tuple[str, ...]:
        """The candidates, best first."""
        return tuple(self.item_id[index] for index in self.order)

    @property
    def reason(self) -> None:
        """Nothing went wrong; see `FirstStageList.reason`."""
        return None


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a list was not re-ranked.

    Attributes:
      code: The gRPC status by name, such as `DEADLINE_EXCEEDED` for an answer that was late: few
        names, fit to count by.
      message: What happened, for people.
    """

    code: str
    message: str


@dataclasses.dataclass(frozen=True)
class FirstStageList:
    """A search list as the first stage ordered it, because no model's answer came in time.

    Attributes:
      item_id: [N] the candidates as they were asked about.
      reason: Why they are not in another order.

    >>> kept = FirstStageList(("a", "b"), Reason("UNAVAILABLE", "no server"))
    >>> kept.ranking, kept.order
    (('a', 'b'), (0, 1))
    """

    item_id: tuple[str, ...]
    reason: Reason

    @property
    def order(self) -> tuple[int, ...]:
        """[N] the candidates' indices as they stand."""
        return tuple(range(len(self.item_id)))

    @property
    def ranking(self) -> tuple[str, ...]:
        """The candidates as they stand."""
        return self.item_id


# An order for the page in any case; `reason` is None if it is the model's.
Ranking: TypeAlias = RerankedList | FirstStageList
