"""What a pipeline run needs to know, and the environment variables that say it.

TFX runs the pipeline file without arguments, so that the environment is the one way in.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from piano_tf.config import Config, Frozen
from piano_tf.data.days import days_in
from piano_tf.errors import ConfigError

PIPELINE_NAME = "piano"
_HOME = "PIANO_HOME"
_LOGS = "PIANO_LOGS"
_CONFIG = "PIANO_CONFIG"
_THRESHOLDS = "PIANO_THRESHOLDS"
_BEAM_ARGS = "PIANO_BEAM_ARGS"
_CACHE = "PIANO_CACHE"
_DAY = "PIANO_DAY"
_WINDOW = "PIANO_WINDOW"
_WARM_START = "PIANO_WARM_START"
_SCHEMA = "PIANO_SCHEMA"

_WINDOW_DAYS = 7


class Shift(Frozen):
    """How far two sets of lists may differ. Defaults leave room for the noise of small logs.

    Values of single columns, such as queries and popularities, are held by the comparators of the
    dataset's schema (`tfx_pipeline/schema.py`).

    Attributes:
      click_rate: By what factor the share of candidates that are clicked may change.
      conversion_odds: By what factor the odds that a click converts may change, beyond noise.
      history_length: By what factor the mean number of history entries may change.
      items: Total variation, 0 to 1, between the shares that items have of what is shown.
    """

    click_rate: float = pydantic.Field(default=2.0, ge=1.0)
    conversion_odds: float = pydantic.Field(default=1.5, ge=1.0)
    history_length: float = pydantic.Field(default=2.5, ge=1.0)
    items: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)


class DataLimits(Frozen):
    """What a log must keep, beyond its schema, for a model to be trained on it.

    Attributes:
      highest_click_rate: Of the candidates of any split; most of what is shown is not clicked.
      least_identity: How far rows of the same id must agree in what they say of it, from 0, as by
        chance, to 1 (`tfx_pipeline/gates/identity.py`).
      skew: Between the training and the validation split, and between that and the test split.
      drift: Between the training split that was accepted last and this run's.
    """

    highest_click_rate: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    least_identity: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    skew: Shift = Shift()
    drift: Shift = Shift()


class ServingLimits(Frozen):
    """What a served model must keep to be pushed.

    Attributes:
      latency_ms: Of the median of each golden request, the longest list's too, measured at the
        client, one request at a time.
      timed_requests: How many of each the median is of.
      longest_list: Candidates of the longest list that must be answered.
      startup_s: What the server may take to load the model, and any one request to be answered:
        the first of each shape is slow.
    """

    latency_ms: float = pydantic.Field(default=250.0, gt=0.0)
    timed_requests: int = pydantic.Field(default=50, ge=1)
    longest_list: int = pydantic.Field(default=100, ge=1)
    startup_s: float = pydantic.Field(default=300.0, gt=0.0)


class Thresholds(Frozen):
    """What data must keep to be trained on, and a model reach to be blessed and pushed.

    Attributes:
      data: Of the log.
      serving: Of the served model. All else is of its figures on the test split.
      click_auc, conversion_auc, list_click_auc: Lowest AUC.
      click_ndcg, conversion_ndcg: Lowest NDCG@10 of the served order.
      calibration: By what factor the mean prediction and the mean label of items, and of lists, may
        differ.
      largest_loss: How far NDCG@10 may fall below that of the last blessed model. Only what is
        shown beyond noise counts (`tfx_pipeline/gates/model.py`).
      largest_slice_loss: How far on any slice of the lists, likewise.
      largest_first_stage_loss: How far below that of the first stage's order, likewise.
      undecided: What becomes of a model of which noise hides whether it loses more than
        `largest_loss`: `refuse` keeps what is served, `bless` trusts the new one.
      level: Coverage of the intervals.
    """

    data: DataLimits = DataLimits()
    serving: ServingLimits = ServingLimits()
    click_auc: float = 0.55
    conversion_auc: float = 0.55
    list_click_auc: float = 0.5
    click_ndcg: float = 0.2
    conversion_ndcg: float = 0.2
    calibration: float = pydantic.Field(default=2.0, ge=1.0)
    largest_loss: float = pydantic.Field(default=0.01, ge=0.0)
    largest_slice_loss: float = pydantic.Field(default=0.03, ge=0.0)
    largest_first_stage_loss: float = pydantic.Field(default=0.0, ge=0.0)
    undecided: Literal["bless", "refuse"] = "refuse"
    level: float = pydantic.Field(default=0.95, gt=0.0, lt=1.0)


class Home(Frozen):
    """Where the pipeline keeps what it writes.

    Attributes:
      home: The folder of all of it.
    """

    home: Path

    @property
    def artifacts(self) -> Path:
        """Every stage's output."""
        return self.home / "artifacts"

    @property
    def metadata(self) -> Path:
        """ML Metadata's SQLite file."""
        return self.home / "metadata.sqlite"

    @property
    def pushed(self) -> Path:
        """The folder of blessed models, one integer version each, that a server watches."""
        return self.home / "pushed"

    @property
    def checkpoints(self) -> Path:
        """Those of a training that is not over."""
        return self.home / "checkpoints"

    @property
    def runs(self) -> Path:
        """A folder for each run that made a model, with its card."""
        return self.home / "runs"

    @property
    def schemas(self) -> Path:
        """The schemas that logs were held to."""
        return self.home / "schemas"

    @property
    def statistics_page(self) -> Path:
        """The statistics of the log that the data gate looked at last, as TFDV's page."""
        return self.home / "statistics.html"

    @property
    def run_log(self) -> Path:
        """The full log of the newest run."""
        return self.home / "run.log"


class PipelineConfig(Home):
    """A pipeline run.

    Attributes:
      logs: A log written by `piano logs`, or a folder of days written by `piano logs days`.
      day: Which of the days; None where `logs` is one log.
      window: How many days a model is trained on, this one included: of those before it, what
        passed the data gate.
      warm_start: Whether a day's training starts from the last blessed model, if it can. On one log
        it never does: nobody knows which lists of it an earlier model has seen.
      config: Encoding, model, loss and training.
      thresholds: What data must keep, and a model reach.
      beam_args: Options of the Beam runner.
      cache: Whether a stage whose inputs and code are unchanged is taken from an earlier run.
      own_schema: A team's file of what its log is held to, instead of what the dataset's name says
        (`tfx_pipeline/schema.py`).
    """

    logs: Path
    day: dt.date | None = None
    window: int = pydantic.Field(default=_WINDOW_DAYS, ge=1)
    warm_start: bool = True
    config: Config = Config()
    thresholds: Thresholds = Thresholds()
    # One process was the fastest setting tried on two cores.
    beam_args: tuple[str, ...] = (
        "--direct_running_mode=in_memory",
        "--direct_num_workers=1",
    )
    cache: bool = True
    own_schema: Path | None = None  # pydantic has a method of the name `schema`

    @property
    def log(self) -> Path:
        """The log of this run: all of `logs`, or its day."""
        return self.logs if self.day is None else self.logs / self.day.isoformat()

    @property
    def beam_options(self) -> list[str]:
        """`beam_args`, and for a runner on this machine the image that its workers do without.

        Where nothing says what a worker needs, TFX packs all of itself for it, anew in each stage
        that uses Beam, and leaves that in the temporary folder.
        """
        from apache_beam.options.pipeline_options import PipelineOptions

        given = PipelineOptions([*self.beam_args]).get_all_options(drop_default=True)
        here = str(given.get("runner", "direct")).lower() in ("direct", "directrunner")
        if not here or "sdk_container_image" in given:
            return [*self.beam_args]
        return [*self.beam_args, "--sdk_container_image=none"]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> PipelineConfig:
        """Reads `PIANO_LOGS`, `PIANO_HOME`, and, where set, the rest.

        `PIANO_CONFIG` and `PIANO_THRESHOLDS` are paths of JSON files, `PIANO_SCHEMA` that of a
        TensorFlow Metadata schema in text, `PIANO_BEAM_ARGS` options separated by spaces, quoted as
        in a shell, `PIANO_CACHE` and `PIANO_WARM_START` 1 or 0, `PIANO_WINDOW` a number of days,
        and `PIANO_DAY` one of the days of a folder of days, the newest unless set.

        Raises:
          ConfigError: A variable is missing or wrong.
        """
        for name in (_LOGS, _HOME):
            if not environment.get(name):
                raise ConfigError(f"environment variable {name}: not set; expected a folder")
        chosen = {
            key: read(name, environment[name])
            for name, (key, read) in _READERS.items()
            if environment.get(name)
        }
        chosen["day"] = _day_of(chosen["logs"], environment.get(_DAY))
        return cls(**chosen)


def _wrong(name: str, got: str, expected: str) -> ConfigError:
    return ConfigError(f"environment variable {name}: got {got!r}, expected {expected}")


def _options(name: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:  # a quotation without an end
        raise _wrong(name, text, "options separated by spaces, quoted as in a shell") from None


def _switch(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise _wrong(name, text, "1 or 0")
    return text == "1"


def _days(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise _wrong(name, text, "a number of days, at least 1")
    return int(text)


def _schema(_: str, text: str) -> Path:
    from tfx_pipeline.schema import read_schema

    read_schema(Path(text))
    return Path(text).absolute()


# Variable -> attribute of `PipelineConfig`, and what its text means.
_READERS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    _LOGS: ("logs", lambda _, text: Path(text).absolute()),
    _HOME: ("home", lambda _, text: Path(text).absolute()),
    _CONFIG: ("config", lambda _, text: Config.load(text)),
    _THRESHOLDS: ("thresholds", lambda _, text: Thresholds.load(text)),
    _BEAM_ARGS: ("beam_args", _options),
    _CACHE: ("cache", _switch),
    _WARM_START: ("warm_start", _switch),
    _WINDOW: ("window", _days),
    _SCHEMA: ("own_schema", _schema),
}


def _day_of(logs: Path, asked: str | None) -> dt.date | None:
    """The day that is asked for, the newest where none is; None where there are no days."""
    days = days_in(logs)
    if not asked:
        return days[-1] if days else None
    if not days:
        raise ConfigError(f"day {asked}: {logs} is no folder of days (`piano logs days` makes one)")
    for day in days:
        if asked == day.isoformat():
            return day
    there = f"one of the {len(days)} from {days[0]} to {days[-1]}" if days[1:] else f"{days[0]}"
    raise ConfigError(f"day {asked}: {logs} has no such day; expected {there}")


def environment(
    *,
    logs: Path,
    home: Path,
    config: Path | None = None,
    thresholds: Path | None = None,
    cache: bool = True,
    day: dt.date | str | None = None,
    window: int | None = None,
    warm_start: bool | None = None,
    schema: Path | None = None,
) -> dict[str, str]:
    """The variables that `PipelineConfig.from_environment` reads.

    Args:
      logs: A log written by `piano logs`.
      home: Folder of everything the pipeline writes.
      config: JSON file of a `piano_tf.Config`.
      thresholds: JSON file of `Thresholds`.
      cache: Whether unchanged stages are taken from an earlier run.
      day, window, warm_start: As in `PipelineConfig`; None says nothing. A day may be text that a
        person gave, which is checked when it is read.
      schema: File of a team's own schema.

    >>> names = environment(logs=Path("logs"), home=Path("run"))
    >>> PipelineConfig.from_environment(names).pushed == Path("run").absolute() / "pushed"
    True
    """
    paths = {_LOGS: logs, _HOME: home, _CONFIG: config, _THRESHOLDS: thresholds, _SCHEMA: schema}
    variables = {name: str(path.absolute()) for name, path in paths.items() if path is not None}
    if day is not None:
        variables[_DAY] = str(day)
    if window is not None:
        variables[_WINDOW] = str(window)
    if warm_start is not None:
        variables[_WARM_START] = str(int(warm_start))
    return {**variables, _CACHE: str(int(cache))}
