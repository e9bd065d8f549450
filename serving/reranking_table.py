"""A re-ranked list for people: before and after, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serving.client.search_list import RerankedList, SearchList


def reranking_table(
    asked: SearchList, answer: RerankedList, labels: Mapping[str, Sequence[int]] | None = None
) -> RenderableType:
    """Shows the first-stage order beside the served one, with the probabilities of both kinds.

    Args:
      asked: The list as it was asked about.
      answer: What came back.
      labels: Label name -> [N] 0 or 1, where what happened is known.

    Returns:
      Something to print with rich.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("before", no_wrap=True)
    table.add_column("after", no_wrap=True)
    for name in ("was", "p(click)", "p(conversion)"):
        table.add_column(name, justify="right")
    happened = labels or {}
    if happened:
        table.add_column("in the log")
    for place, index in enumerate(answer.order):
        cells = [
            str(place + 1),
            asked.item_id[place],
            asked.item_id[index],
            str(index + 1),
            f"{answer.click[index]:.4f}",
            f"{answer.conversion[index]:.4f}",
        ]
        if happened:
            cells.append(" ".join(name for name, values in happened.items() if values[index]))
        table.add_row(*cells, style="" if place == index else "bold")
    past = ", ".join(dict.fromkeys(asked.history_query[:20])) or "none"
    return Group(
        Text(f"query: {asked.query}    user: {asked.user_id}    list: {asked.list_id}"),
        Text(f"past queries, newest first: {past}"),
        table,
        Text("p(click) and p(conversion) are those of the candidate in 'after'"),
        Text(
            f"the list: p(any click) {answer.list_click:.4f}, "
            f"p(any conversion) {answer.list_conversion:.4f}    model version: "
            f"{answer.model_version}"
        ),
    )
