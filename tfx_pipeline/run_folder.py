"""The folder of a run that made a model, and the mark of a withdrawal on what is in it."""

from __future__ import annotations

from pathlib import Path

from piano_tf.files import replacing
from tfx_pipeline.configs import Home

CARD_FILE = "model_card.html"

BLESSED_SENTENCE = "Model gate: blessed."
WITHDRAWN_SENTENCE = "Model gate: blessed, and withdrawn since."


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
    """Has the card of a run say that its model was withdrawn, if there is a card; once is enough.

    Args:
      folder: Of the run.
      version: That is taken back.

    Raises:
      OSError: It cannot be written, and stays as it was.
    """
    card = folder / CARD_FILE
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
