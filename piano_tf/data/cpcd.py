"""Search lists of the Conversational Playlist Curation Dataset: real searches, real music.

Source: A. T. Chaganty et al., Beyond Single Items, SIGIR 2023 (arXiv 2303.06791),
https://github.com/google-research-datasets/cpcd; CC BY 4.0. Files `*dialogs*.jsonl` are read as
published, one conversation a line. In each turn a *user* says what a playlist should hold, a
*wizard* types searches, shows the user some of the tracks found, and the user likes or dislikes
what was shown. There is one list for each search of a turn that found something.

What the data says:

* list_id: `conversation-turn-search`, turn and search counted from 0.
* user_id: the conversation. Who took part in several cannot be known, so no user outlasts a
  conversation, and all that is personal was said and done in its earlier turns.
* query: what the wizard typed, for the user.
* item_artist, item_release, item_cluster: the artist named first; the release; the publisher's
  cluster of tracks with about the same title and artists. history_item_*: the same.

What is our own design:

* click: the track was shown to the user in this turn, which is recorded of liked and disliked
  tracks alone; conversion: it was liked. A click without conversion is thus a dislike. Which of a
  turn's searches a track was taken from is not recorded: every one that found it has the labels. A
  track that none of them found (about every fourth) labels no list.
* history: every track shown in earlier turns, the newest turn first, those of one turn by id;
  `conversion` if liked, else `click`. Its query is the first search of its turn that found it, ""
  if none did.
* Order: the publisher's is not the search engine's but that of track ids, and it tells the labels:
  where a shown track stands for a duplicate, it has kept the place of the duplicate's id. So
  candidates are ordered by BM25 of the query's words against those of title, release and artists,
  equal scores by track id; a track found twice stands once. initial_score is that score. The
  collection is every track of the files, for a catalogue is there before anyone searches; no
  label enters it.
* timestamp: no time is published but the order of turns. A turn is made to last an hour, and a
  conversation to begin at the first midnight after the one before it, from 1970 on; history_age
  thus counts turns, of which a day has 24.
* Folds: of the conversations with a search, in order of id, every `folds`-th is in the same fold.
  Those of the fold asked for come last, those of the next fold (cyclically) before them and all
  others first, so that a cut by date makes them test, validation and train, and none is cut.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydantic

from piano_tf.data.bm25 import BM25
from piano_tf.data.source import Source
from piano_tf.data.splits import ByDate
from piano_tf.errors import LogError, PianoError
from piano_tf.features import CLICK, CONVERSION, FeatureSpec

SPEC = FeatureSpec(
    dataset="cpcd",
    initial_score=True,
    item=(("artist", "string"), ("release", "string"), ("cluster", "string")),
    history_item=(("artist", "string"), ("release", "string"), ("cluster", "string")),
)

_FILES = "*dialogs*.jsonl"
_FIRST_DAY = dt.date(1970, 1, 1)
_TURNS_PER_DAY = 24
_CONVERSATIONS_PER_BATCH = 100
_WORD = re.compile(r"\w+")


class _Track(pydantic.BaseModel):
    track_titles: str
    track_release_titles: str
    track_artists: list[str]
    track_cluster_ids: str


class _Turn(pydantic.BaseModel):
    search_queries: list[str]
    search_results: list[list[str]]
    liked_results: list[str]
    disliked_results: list[str]

    def shown(self) -> dict[str, str]:
        """Track shown to the user -> what the user did, by track id."""
        liked = set(self.liked_results)
        shown = sorted(liked.union(self.disliked_results))
        return {track: CONVERSION if track in liked else CLICK for track in shown}

    def query_of(self, track: str) -> str:
        """The first search that found the track, "" if none did."""
        searches = zip(self.search_queries, self.search_results, strict=True)
        return next((query for query, found in searches if track in found), "")


class _Conversation(pydantic.BaseModel):
    id: str
    turns: list[_Turn]
    tracks: dict[str, _Track]

    def lists(self) -> int:
        return sum(bool(found) for turn in self.turns for found in turn.search_results)


def read(input_dir: Path, *, folds: int = 5, fold: int = 0) -> Source:
    """Reads the published conversations; one that several files hold counts once.

    All of them are held in memory, some 0.2 MB each.

    Args:
      input_dir: Folder that holds `*dialogs*.jsonl`, in whichever of the published parts.
      folds: Number of folds, at least 3.
      fold: The fold of the test lists, in [0, folds); the next one has those of validation.

    Returns:
      Lists of schema `SPEC.arrow_schema`, those of at most 100 conversations a batch in order of
      the invented time, with the rule that cuts them by fold.

    Raises:
      LogError: A file is missing, or a line does not hold what the publisher describes.
      PianoError: There is no such fold, there are fewer conversations with a search than folds, or
        bm25s is not installed.
    """
    if not (folds >= 3 and 0 <= fold < folds):
        raise PianoError(
            f"got fold {fold} of {folds} folds, expected at least 3 folds and one of 0 to folds - 1"
        )
    conversations = _read_conversations(Path(input_dir))
    searching = [conversations[id] for id in sorted(conversations) if conversations[id].lists()]
    if len(searching) < folds:
        raise PianoError(
            f"{input_dir}: got {len(searching)} conversations with a search, expected at least "
            f"{folds}, one a fold"
        )
    test, validation = searching[fold::folds], searching[(fold + 1) % folds :: folds]
    held_out = {conversation.id for conversation in (*validation, *test)}
    train = [conversation for conversation in searching if conversation.id not in held_out]

    days, day = [], 0
    for conversation in (*train, *validation, *test):
        days.append(day)
        day += -(-len(conversation.turns) // _TURNS_PER_DAY)
    first_days = (days[len(train)], days[len(train) + len(validation)])
    rule = ByDate(*(_FIRST_DAY + dt.timedelta(days=first) for first in first_days))
    return Source(
        spec=SPEC,
        batches=_batches(_Catalogue.of(conversations.values()), [*train, *validation, *test], days),
        total=sum(conversation.lists() for conversation in searching),
        rule=rule,
    )


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    """Every track of the files, and BM25 over their words."""

    tracks: dict[str, _Track]
    places: dict[str, int]
    bm25: BM25

    @classmethod
    def of(cls, conversations: Iterable[_Conversation]) -> _Catalogue:
        tracks = {id: track for c in conversations for id, track in c.tracks.items()}
        documents = [
            _words(track.track_titles, track.track_release_titles, *track.track_artists)
            for track in tracks.values()
        ]
        return cls(tracks, {id: place for place, id in enumerate(tracks)}, BM25(documents))

    def ranked(self, query: str, found: Sequence[str]) -> list[tuple[str, float]]:
        """The tracks found, each once, and their scores, best first."""
        scores = self.bm25.scores(_words(query))
        ranked = [(id, float(scores[self.places[id]])) for id in set(found)]
        return sorted(ranked, key=lambda pair: (-pair[1], pair[0]))

    def features(self, ids: Sequence[str], prefix: str) -> dict[str, list[str]]:
        """The item features of some tracks, under the names of their columns."""
        tracks = [self.tracks[id] for id in ids]
        return {
            f"{prefix}_artist": [next(iter(track.track_artists), "") for track in tracks],
            f"{prefix}_release": [track.track_release_titles for track in tracks],
            f"{prefix}_cluster": [track.track_cluster_ids for track in tracks],
        }


def _words(*texts: str) -> list[str]:
    return [word for text in texts for word in _WORD.findall(text.lower())]


def _batches(
    catalogue: _Catalogue, conversations: Sequence[_Conversation], days: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(conversations), _CONVERSATIONS_PER_BATCH):
        part = slice(first, first + _CONVERSATIONS_PER_BATCH)
        rows = [
            row
            for conversation, day in zip(conversations[part], days[part], strict=True)
            for row in _lists(catalogue, conversation, day)
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=SPEC.arrow_schema)


def _lists(
    catalogue: _Catalogue, conversation: _Conversation, day: int
) -> Iterator[dict[str, Any]]:
    past: list[tuple[int, str, str, str]] = []  # turn, query, track, action; newest turn first
    for number, turn in enumerate(conversation.turns):
        shown = turn.shown()
        history = {
            "history_query": [query for _, query, _, _ in past],
            "history_item_id": [track for _, _, track, _ in past],
            "history_action": [action for _, _, _, action in past],
            "history_age": [(number - earlier) / _TURNS_PER_DAY for earlier, _, _, _ in past],
            **catalogue.features([track for _, _, track, _ in past], "history_item"),
        }
        searches = zip(turn.search_queries, turn.search_results, strict=True)
        for search, (query, found) in enumerate(searches):
            if not found:
                continue
            ranked = catalogue.ranked(query, found)
            ids = [id for id, _ in ranked]
            yield {
                "list_id": f"{conversation.id}-{number}-{search}",
                "user_id": conversation.id,
                "query": query,
                "timestamp": day * 86_400 + number * 86_400 // _TURNS_PER_DAY,
                "item_id": ids,
                "initial_score": [score for _, score in ranked],
                **catalogue.features(ids, "item"),
                **history,
                CLICK: [int(id in shown) for id in ids],
                CONVERSION: [int(shown.get(id) == CONVERSION) for id in ids],
            }
        past = [
            *((number, turn.query_of(track), track, action) for track, action in shown.items()),
            *past,
        ]


def _read_conversations(input_dir: Path) -> dict[str, _Conversation]:
    paths = sorted(input_dir.glob(_FILES))
    if not paths:
        raise LogError(f"expected {_FILES}, as published in CPCD", source=str(input_dir))
    found: dict[str, _Conversation] = {}
    for path in paths:
        with path.open("rb") as lines:
            for row, line in enumerate(lines):
                conversation = _read_conversation(line, row, path)
                if found.setdefault(conversation.id, conversation) != conversation:
                    raise LogError(
                        f"got {conversation.id!r} once more with other content, expected each "
                        "conversation once",
                        column="id",
                        row=row,
                        source=str(path),
                    )
    return found


def _read_conversation(line: bytes, row: int, path: Path) -> _Conversation:
    def fault(column: str | None, message: str) -> LogError:
        return LogError(message, column=column, row=row, source=str(path))

    try:
        conversation = _Conversation.model_validate_json(line)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        column = ".".join(str(part) for part in first["loc"])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise fault(column or None, f"got {reprlib.repr(first['input'])}; {message}") from error
    for number, turn in enumerate(conversation.turns):
        if len(turn.search_results) != len(turn.search_queries):
            raise fault(
                f"turns.{number}.search_results",
                f"got {len(turn.search_results)} lists, expected {len(turn.search_queries)} as in "
                "'search_queries'",
            )
        for name, ids in (
            *((f"search_results.{n}", found) for n, found in enumerate(turn.search_results)),
            ("liked_results", turn.liked_results),
            ("disliked_results", turn.disliked_results),
        ):
            for id in ids:
                if id not in conversation.tracks:
                    raise fault(f"turns.{number}.{name}", f"got {id!r}, expected an id of 'tracks'")
    return conversation
