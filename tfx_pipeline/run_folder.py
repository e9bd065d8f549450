"""The folder of a run that came to its end, and the mark of a withdrawal on what is in it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

from piano_tf.config import Frozen
from piano_tf.files import replacing
from tfx_pipeline.configs import Home

CARD_FILE = "model_card.html"
OUTCOME_FILE = "outcome.json"

BLESSED_SENTENCE = "Model gate: blessed."
WITHDRAWN_SENTENCE = "Model gate: blessed, and withdrawn since."


RunVerdict = Literal["pushed", "pushed before", "refused", "withdrawn"]


class Outcome(Frozen):
    """What came of a run, for a schedule: `outcome.json` beside the card.

    Attributes:
      run: Its name.
      day: That it was of; None of one log without days.
      verdict: `pushed` by this run; `pushed before`, the same model by an earlier one; `refused` by
        the model gate or the serving gate; `withdrawn`, pushed by an earlier run and taken back.
      version: That this run pushed.
      reasons: Why it was refused.
      newest: The highest version that is there after the run, which servers take.
      model: Its id in ML Metadata.
      card: The page that says everything.
      withdrawn: Whether the version that this run pushed was taken back since.
    """

    run: str
    day: dt.date | None = None
    verdict: RunVerdict
    version: str | None = None
    reasons: tuple[str, ...] = ()
    newest: str | None = None
    model: int
    card: Path
    withdrawn: bool = False

    def write(self, folder: Path) -> Path:
        """Writes it into the folder of its run; the file."""
        file = folder / OUTCOME_FILE
        with replacing(file) as partial:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return file


def folder_of(home: Home, run: str) -> Path:
    """The folder of a run.

    Args:
      home: Of the pipeline.
      run: Its name; those of TFX's own have colons, which not every file system takes.
    """
    return home.runs / run.replace(":", "-")


def pushed_sentence(version: str) -> str:
    """What a card says of a version that its run pushed."""
    return f"Pushed as version {version}."


def mark_withdrawn(folder: Path, version: str) -> None:
    """Has the files of a run, as far as there are any, say that its model was withdrawn.

    Once is enough, and again changes nothing.

    Args:
      folder: Of the run.
      version: That is taken back.

    Raises:
      OSError: A file cannot be written, and stays as it was.
    """
    outcome, card = folder / OUTCOME_FILE, folder / CARD_FILE
    if outcome.is_file():
        found = Outcome.load(outcome)
        if found.version == version and not found.withdrawn:
            found.model_copy(update={"withdrawn": True}).write(folder)
    if not card.is_file():
        return
    told = marked = card.read_text(encoding="utf-8")
    for before, after in (
        (BLESSED_SENTENCE, WITHDRAWN_SENTENCE),
        (pushed_sentence(version), f"Pushed as version {version}, and taken back since."),
    ):
        marked = marked.replace(f"<li>{before}</li>", f"<li>{after}</li>")
    if marked != told:
        with replacing(card) as partial:
            partial.write_text(marked, encoding="utf-8")
