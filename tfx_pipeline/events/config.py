"""The mapping file: where a team's event tables are, what their columns are called, and the rules.

>>> config = EventsConfig.from_json('{"dataset": "shop", "search": {"columns": {"time": "ts"}}}')
>>> config.search.columns.time, config.search.columns.query, config.search.files
('ts', 'query', 'search/*')
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Literal

import pydantic

from piano_tf.config import Frozen
from piano_tf.errors import ConfigError
from piano_tf.features import FeatureSpec, FeatureType

MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS

_Seconds = Annotated[float, pydantic.Field(ge=0.0, le=10 * 365 * 86_400.0)]


def _pattern(files: str) -> str:
    """Whether a pattern is one of files in the input folder."""
    path = PurePath(files)
    wrong = any(part == ".." or ("**" in part and part != "**") for part in path.parts)
    if wrong or path.is_absolute() or not path.parts:
        raise ValueError(f"{files!r}: expected a pattern of files in the input folder")
    return files


_Pattern = Annotated[str, pydantic.AfterValidator(_pattern)]


class FeatureColumn(Frozen):
    """A feature of an item, a user or a request.

    Attributes:
      column: What the team calls it; null where it has the feature's name.
      type: `string` or `float`.
    """

    column: str | None = None
    type: FeatureType = "string"


_Features = dict[str, FeatureColumn]


class SearchColumns(Frozen):
    """What the columns of searches are called; the last two may be missing.

    Attributes:
      request_id, user_id, time, query: One value a search.
      item_id: The shown items in order.
      initial_score: The first stage's scores, one an item.
      arrived_at: When the event was there to be read, where that is not when it happened.
    """

    request_id: str = "request_id"
    user_id: str = "user_id"
    time: str = "time"
    query: str = "query"
    item_id: str = "item_id"
    initial_score: str | None = None
    arrived_at: str | None = None


class ClickColumns(Frozen):
    """What the columns of clicks are called.

    Attributes:
      item_id, time: One value a click.
      request_id, user_id: Either or both must be there; a click without a request is attributed
        by its user, item and time.
      arrived_at: As in `SearchColumns`.
    """

    request_id: str | None = None
    user_id: str | None = None
    item_id: str = "item_id"
    time: str = "time"
    arrived_at: str | None = None

    @pydantic.model_validator(mode="after")
    def _has_an_owner(self) -> ClickColumns:
        if self.request_id is None and self.user_id is None:
            raise ValueError("expected a column for request_id, for user_id or for both")
        return self


class ConversionColumns(ClickColumns):
    """What the columns of conversions are called.

    Attributes:
      kind: What was done, such as `full_play` or `purchase`.
    """

    kind: str | None = None


class ItemColumns(Frozen):
    """What the columns of item snapshots are called.

    Attributes:
      item_id: Whose features these are.
      valid_from: From when on they hold.
    """

    item_id: str = "item_id"
    valid_from: str = "valid_from"


class UserColumns(Frozen):
    """What the columns of user snapshots are called, as in `ItemColumns`."""

    user_id: str = "user_id"
    valid_from: str = "valid_from"


class SearchTable(Frozen):
    """Searches.

    Attributes:
      files: Pattern of the files within the input folder: Parquet, JSON lines or CSV.
      columns: What their columns are called.
      context: Feature of the request -> its column.
    """

    files: _Pattern = "search/*"
    columns: SearchColumns = SearchColumns()
    context: _Features = pydantic.Field(default_factory=dict)


class ClickTable(Frozen):
    """Clicks; attributes as in `SearchTable`."""

    files: _Pattern = "click/*"
    columns: ClickColumns = ClickColumns(request_id="request_id")


class ConversionTable(Frozen):
    """Conversions; attributes as in `SearchTable`."""

    files: _Pattern = "conversion/*"
    columns: ConversionColumns = ConversionColumns(request_id="request_id")


class ItemTable(Frozen):
    """Item snapshots.

    Attributes:
      files: As in `SearchTable`.
      columns: What their columns are called.
      features: Feature of the item -> its column.
    """

    files: _Pattern = "item/*"
    columns: ItemColumns = ItemColumns()
    features: _Features = pydantic.Field(default_factory=dict)


class UserTable(Frozen):
    """User snapshots; attributes as in `ItemTable`."""

    files: _Pattern = "user/*"
    columns: UserColumns = UserColumns()
    features: _Features = pydantic.Field(default_factory=dict)


class Attribution(Frozen):
    """For how long after a request an act on its list counts as the request's.

    Attributes:
      click_window: Seconds for clicks.
      conversion_windows: Kind of conversion -> seconds.
      default_conversion_window: Seconds for other kinds, and for conversions without one. Null
        makes them dead letters where `conversion_windows` names kinds, and is `click_window` where
        it does not.
    """

    click_window: _Seconds = 86_400.0
    conversion_windows: dict[str, _Seconds] = pydantic.Field(default_factory=dict)
    default_conversion_window: _Seconds | None = None

    @property
    def click_us(self) -> int:
        """The window of clicks in microseconds."""
        return _microseconds(self.click_window)

    @property
    def conversions_us(self) -> dict[str, int]:
        """Kind of conversion -> its window in microseconds."""
        return {kind: _microseconds(window) for kind, window in self.conversion_windows.items()}

    @property
    def other_conversions_us(self) -> int | None:
        """The window of all other conversions; None where these are of an unknown kind."""
        if self.default_conversion_window is not None:
            return _microseconds(self.default_conversion_window)
        return None if self.conversion_windows else self.click_us

    @property
    def longest_us(self) -> int:
        """The longest of all windows: a list is settled so long after its request."""
        other = self.other_conversions_us
        windows = [self.click_us, *self.conversions_us.values()]
        return max(windows if other is None else [*windows, other])


class Limits(Frozen):
    """What is too much to be a person.

    Attributes:
      events_per_user_day: Events of one user on one UTC day that are used; those after are not.
    """

    events_per_user_day: int | None = pydantic.Field(default=None, ge=1)


class Privacy(Frozen):
    """What is kept of whom.

    Attributes:
      salt_env: Environment variable that holds the secret with which user ids are hashed; null
        leaves them as they are.
      retention_days: Events older than this at the end of observation are not used; null keeps all.
      forget: File of user ids, one a line, of whom nothing is kept; a path from the input folder.
    """

    salt_env: str | None = None
    retention_days: float | None = pydantic.Field(default=None, gt=0.0)
    forget: str | None = None

    @property
    def keeps_payloads(self) -> bool:
        """Whether what could not be read may be kept: nobody knows whose it is, or how old."""
        return self.salt_env is None and self.retention_days is None and self.forget is None

    @property
    def retention_us(self) -> int | None:
        """The retention in microseconds."""
        return None if self.retention_days is None else round(self.retention_days * DAY)

    def salt(self) -> bytes | None:
        """The secret, from the environment.

        Raises:
          ConfigError: The variable is not set, or empty.
        """
        if self.salt_env is None:
            return None
        found = os.environ.get(self.salt_env, "")
        if not found:
            raise ConfigError(
                f"privacy.salt_env: the environment variable {self.salt_env!r} is not set; "
                "expected the secret with which user ids are hashed"
            )
        return found.encode()

    def forgotten(self, input_dir: Path | None) -> frozenset[str]:
        """The users to forget.

        Args:
          input_dir: From where a relative path goes; None takes the working directory.

        Raises:
          ConfigError: The file cannot be read.
        """
        if self.forget is None:
            return frozenset()
        path = Path(input_dir or "") / self.forget
        try:
            # Not `splitlines`: an id may have what Unicode takes for the end of a line.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"privacy.forget: {path} cannot be read ({error})") from error
        return frozenset(line.strip() for line in lines if line.strip())


class EventsConfig(Frozen):
    """Everything that shapes lists built from events, beside the events.

    Attributes:
      dataset: Name of the dataset, for people.
      time_unit: Of times that are numbers; Arrow timestamps and ISO 8601 are read as they are.
      list_separator: Between the values of a list in CSV, where it is not a JSON array.
      search, click, conversion: The events; null for clicks or conversions that there are none of.
      item, user: Snapshots of features; null for none.
      history_item: Item features that history entries carry.
      attribution: Which acts count as a request's.
      history_length: Entries of a history, from the newest.
      until: End of observation, in Unix seconds or ISO 8601 (UTC); null is the newest event's time.
      limits: What is too much to be a person.
      privacy: What is kept of whom.
      unreadable_files: Whether a file that is damaged stops the job, or is set aside and reported.
      shards: Into how many parts requests and users are divided; null chooses by the input's size.
    """

    dataset: str
    time_unit: Literal["s", "ms", "us"] = "s"
    list_separator: str = pydantic.Field(default="|", min_length=1)
    search: SearchTable = SearchTable()
    click: ClickTable | None = ClickTable()
    conversion: ConversionTable | None = ConversionTable()
    item: ItemTable | None = None
    user: UserTable | None = None
    history_item: tuple[str, ...] = ()
    attribution: Attribution = Attribution()
    history_length: int = pydantic.Field(default=50, ge=1)
    until: dt.datetime | float | None = None
    limits: Limits = Limits()
    privacy: Privacy = Privacy()
    unreadable_files: Literal["refuse", "set_aside"] = "refuse"
    shards: int | None = pydantic.Field(default=None, ge=1, le=1024)

    @pydantic.model_validator(mode="after")
    def _check(self) -> EventsConfig:
        known = self.item.features if self.item else {}
        for name in self.history_item:
            if name not in known:
                raise ValueError(
                    f"history_item {name!r}: expected one of the item features ({', '.join(known)})"
                )
        self.spec  # noqa: B018 - says what is wrong with a feature's name
        return self

    @property
    def spec(self) -> FeatureSpec:
        """The feature spec of the lists."""
        item = _types(self.item.features if self.item else {})
        return FeatureSpec(
            dataset=self.dataset,
            initial_score=self.search.columns.initial_score is not None,
            item=item,
            user=_types(self.user.features if self.user else {}),
            context=_types(self.search.context),
            history_item=_types(self.item.features if self.item else {}, self.history_item),
        )

    @property
    def until_us(self) -> int | None:
        """The end of observation in Unix microseconds, where it is given."""
        if self.until is None:
            return None
        if isinstance(self.until, dt.datetime):
            given = self.until
            aware = given if given.tzinfo else given.replace(tzinfo=dt.timezone.utc)
            return (aware - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(
                microseconds=1
            )
        return _microseconds(self.until)


def _types(
    features: _Features, names: Iterable[str] | None = None
) -> tuple[tuple[str, FeatureType], ...]:
    chosen = features if names is None else names
    return tuple((name, features[name].type) for name in chosen)


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)
