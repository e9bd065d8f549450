"""A page on what became of events, as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.reconciliation import Tally

REPORT_FILE = "report.html"


def write_report(said: dict[str, Any], tally: Tally, config: EventsConfig, folder: Path) -> None:
    (folder / REPORT_FILE).write_text("")
