"""A page on what became of events, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from piano_tf.pages import picture, templates
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.plots import plots
from tfx_pipeline.events.reconciliation import (
    NEAR_UNTIL,
    NEVER_MET,
    NO_SNAPSHOT,
    UNREADABLE_FILES,
    UNTIL,
    Tally,
)

REPORT_FILE = "report.html"

_TEMPLATES = templates("tfx_pipeline.events")
_FEW = 0.001  # of all events; a log that grows for years has more on its last two days


def sentences(said: dict[str, Any]) -> Iterator[str]:
    """What became of events, for a terminal.

    Args:
      said: What `reconciliation.json` says.
    """
    yield f"observed until {said[UNTIL]}"
    for kind, found in said["events"].items():
        dead = found["dead letters"]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dead.items())
        letters = f", {sum(dead.values()):,} dead letters ({reasons})" if dead else ""
        yield f"{kind}: {found['read']:,} read, {found['used']:,} used{letters}"
    yield from _notes(said)
    if files := said[UNREADABLE_FILES]:
        yield f"set aside, with events of unknown number: {', '.join(files)}"


def write_report(said: dict[str, Any], tally: Tally, config: EventsConfig, folder: Path) -> None:
    """Writes the page.

    Args:
      said: What `reconciliation.json` says.
      tally: What all tasks counted.
      config: The mapping file.
      folder: Where.
    """
    counts = ", ".join(f"{split} {count:,}" for split, count in said["lists"].items())
    how = ", the newest event's time" if config.until is None else ""
    page = _TEMPLATES.get_template("report.html.jinja").render(
        title=f"Lists of {config.dataset}",
        facts=f"Lists: {counts}. Observed until {said[UNTIL]}{how}.",
        rows=list(_rows(said)),
        unreadable=said[UNREADABLE_FILES],
        notes=[f"{sentence}." for sentence in _notes(said)],
        pictures=[picture(plot) for plot in plots(tally)],
    )
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _notes(said: dict[str, Any]) -> Iterator[str]:
    """What somebody should know, if there is anything."""
    near = said[NEAR_UNTIL]
    if near and near["events"] <= max(1, _FEW * near["of"]):
        yield (
            f"only {near['events']:,} of {near['of']:,} events are of the UTC day of the newest or "
            "the day before: a clock that runs ahead may have set the end of observation, which "
            '"until" in the mapping gives'
        )
    for kind, found in said["events"].items():
        if found["read"] and not found["used"]:
            why = max(found["dead letters"], key=found["dead letters"].get)
            yield f"{kind}: none of {found['read']:,} events is used, most of them as {why!r}"
    if count := said[NEVER_MET]:
        yield f"users to forget whom no row names: {count:,}"
    words = {"item": "shown items have", "user": "lists have a user with"}
    for kind, count in said[NO_SNAPSHOT].items():
        if count:
            yield f"{count:,} {words[kind]} no snapshot at their time"


class _Row(NamedTuple):
    kind: str
    reason: str
    read: str
    used: str
    dead: str
    share: str


def _rows(said: dict[str, Any]) -> Iterator[_Row]:
    for kind, found in said["events"].items():
        dead, read = found["dead letters"], max(found["read"], 1)
        every = sum(dead.values())
        counts = (f"{found['read']:,}", f"{found['used']:,}", f"{every:,}")
        yield _Row(kind, "", *counts, f"{every / read:.2%}")
        for reason, count in dead.items():
            yield _Row(kind, reason, "", "", f"{count:,}", f"{count / read:.2%}")
