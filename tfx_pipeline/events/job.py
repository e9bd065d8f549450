"""The Beam job from files of events to a log of lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from piano_tf.data.splits import SplitRule
from tfx_pipeline.events.config import EventsConfig

Progress = Callable[[str, int, int], None]


def run(
    input_dir: Path,
    config: EventsConfig,
    output: Path,
    rule: SplitRule,
    *,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Builds a log from files of events; on any fault nothing is left at `output`.

    Args:
      input_dir: Folder of the tables that `config` names.
      config: The mapping file.
      output: Folder to make.
      rule: Where to cut; shares are cut at midnight.
      beam_args: Options of the Beam runner.
      overwrite: Whether an existing log at `output` may be replaced.
      progress: Called with a stage, how many of its parts are done and how many there are.

    Returns:
      What `reconciliation.json` says.

    Raises:
      ConfigError: The salt or the list of users to forget cannot be read.
      PianoError: A file cannot be used, `output` exists, or a split would be empty.
    """
    raise NotImplementedError
