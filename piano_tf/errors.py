"""What a person did wrong, in one sentence.

Commands print a `PianoError` as it stands and exit with status 1; any other exception is a defect
of ours and keeps its traceback.
"""


class PianoError(Exception):
    """An error whose message alone tells a person what to mend."""


class ConfigError(PianoError):
    """A configuration file or setting that cannot be used."""


class LogError(PianoError):
    """A search log that breaks the contract of `piano_tf.features`.

    Args:
      message: What was found and what was expected.
      column: Name of the column at fault, where there is one.
      row: Zero-based number of the row at fault, counted from the start of what was read.
      source: The file or folder that was read.

    >>> print(LogError("got 2, expected 0 or 1", column="click", row=7))
    column 'click', row 7: got 2, expected 0 or 1
    """

    def __init__(
        self,
        message: str,
        *,
        column: str | None = None,
        row: int | None = None,
        source: str | None = None,
    ) -> None:
        place = []
        if source is not None:
            place.append(source)
        if column is not None:
            place.append(f"column {column!r}")
        if row is not None:
            place.append(f"row {row}")
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.message = message
        self.column = column
        self.row = row
        self.source = source
