"""Hits of Elasticsearch or OpenSearch, re-ranked on their way to the page.

A worked example. The functions know the JSON that both engines answer a search with and nothing of
their clients, whose answers are such JSON already:

    client = RerankClient(address, first_stage_on_request_error=True)
    found = elasticsearch.search(index="tracks", query=..., size=100).body   # Elasticsearch
    found = opensearch.search(index="tracks", body={"query": ..., "size": 100})   # OpenSearch
    page, reason = rerank_hits(client, found, asked, fields, timeout_s=0.05)

Ask the engine for as many hits as are to be re-ranked, from the first on, whatever page is shown,
and cut the page afterwards: an order is one of the whole list. For the next page of the same search
keep the order, and do not ask again: by then the listener may have clicked, and hits would move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from serving.client import Ranking, Reason, SearchList

Json = Mapping[str, Any]
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Field:
    """Where a column of candidates is found.

    Attributes:
      path: In a hit's `_source`, with dots between levels, as the engine writes them.
      missing: What a hit without it has: text or a number, as the column has. It stands for what
        is no finite number of float32, or no Unicode text, too: one odd document must not cost the
        page.
    """

    path: str
    missing: str | float


@dataclasses.dataclass(frozen=True)
class Asked:
    """The search that the hits are of, and who searched; the engine's answer says neither.

    Attributes:
      query: What was typed.
      user_id: Who typed it.
      timestamp: When, in Unix seconds.
      history: Columns `history_<name>` of what they did before, newest first.
      features: Columns `user_<name>` and `context_<name>` that the model takes.
    """

    query: str
    user_id: str
    timestamp: int = 0
    history: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Ranks(Protocol):
    """What is needed of a `serving.client.RerankClient`."""

    def rank(self, search_list: SearchList, timeout_s: float | None = None) -> Ranking: ...


def search_list_of(
    found: Json, asked: Asked, fields: Mapping[str, Field], *, scores: bool = True
) -> SearchList:
    """Makes a search list of the hits.

    Args:
      found: The engine's answer to a search.
      asked: Which search that was.
      fields: Column `item_<name>` -> where it is found.
      scores: Whether the model takes the first stage's scores. A search that is sorted by a field
        has none, and 0 stands for them and for what is no finite number of float32.
    """
    hits = found["hits"]["hits"]
    items = {
        column: [_value(hit.get("_source", {}), field) for hit in hits]
        for column, field in fields.items()
    }
    row = {
        "query": asked.query,
        "user_id": asked.user_id,
        "timestamp": asked.timestamp,
        "item_id": [hit["_id"] for hit in hits],
        "initial_score": [_number(hit.get("_score"), 0.0) for hit in hits] if scores else None,
        **asked.history,
        **asked.features,
        **items,
    }
    return SearchList.from_columns(row)


def reordered(found: Json, answer: Ranking) -> dict[str, Any]:
    """The engine's answer with its hits in another order; nothing else of it changes.

    Args:
      found: The engine's answer.
      answer: The order of its hits.
    """
    hits = found["hits"]["hits"]
    return {**found, "hits": {**found["hits"], "hits": [hits[index] for index in answer.order]}}


def rerank_hits(
    client: Ranks,
    found: Json,
    asked: Asked,
    fields: Mapping[str, Field],
    *,
    scores: bool = True,
    timeout_s: float | None = None,
) -> tuple[dict[str, Any], Reason | None]:
    """Puts hits in the model's order, or leaves them as they are.

    Args:
      client: Of the server; made with `first_stage_on_request_error=True`, without which a list
        that does not fit the model, such as every list once it has one more input, is an error and
        no page.
      found: The engine's answer, also one without hits.
      asked: Which search that was.
      fields: As in `search_list_of`.
      scores: Likewise.
      timeout_s: Seconds that the page has left for it; the client's own by default.

    Returns:
      The answer in its new order, and why it is in the old one, if it is.
    """
    if not found["hits"]["hits"]:
        return {**found}, None
    answer = client.rank(search_list_of(found, asked, fields, scores=scores), timeout_s)
    return reordered(found, answer), answer.reason


def _value(source: Json, field: Field) -> Any:
    """A single value: the first of several, and a number or text as the column has."""
    value: Any = source
    for name in field.path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return field.missing
    if isinstance(field.missing, str):
        return _text(value, field.missing)
    return _number(value, field.missing)


def _text(value: Any, missing: str) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return missing
    return text


def _number(value: Any, missing: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return missing
    # NaN fails any comparison.
    return number if abs(number) <= _LARGEST else missing
