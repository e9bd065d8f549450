"""What shapes a simulated world, its log and its experiment. docs/world.md has the equations."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pydantic

from piano_tf.config import Frozen

_SECONDS = 86_400


class CatalogueConfig(Frozen):
    """Tracks, and how often they are played.

    Attributes:
      tracks, artists: How many; artists are of one genre and one language.
      albums_per_artist: An album has an artist, a mood and the day of its release.
      genres, moods: How many.
      versions: Share of tracks that are another version of an earlier track of their artist.
      other_genre: Share of tracks of any genre, not by design that of their artist.
      other_mood: Share of tracks of any mood, not by design that of their album.
      popularity_exponent: The track of rank k is played in proportion to k^-this.
      new_albums: Share of albums that are released while the world lasts, at a steady rate.
      back_catalogue_days: Mean age of the other albums at the start of the log.
      rise_days, fade_days: A new track is found within days, and then forgotten slowly.
      evergreen: The share of its plays that a track never loses.
      appeal: Standard deviation of the appeal that a track has for everybody, in log-odds.
      languages: Shares of English, Chinese, Japanese and Russian, among artists and listeners.
      like_album, like_artist: How alike two tracks of the same album, or only artist, are; those of
        the same song are alike by 1.
    """

    tracks: int = pydantic.Field(default=3_000, ge=1)
    artists: int = pydantic.Field(default=300, ge=1)
    albums_per_artist: int = pydantic.Field(default=3, ge=1)
    genres: int = pydantic.Field(default=16, ge=2)
    moods: int = pydantic.Field(default=6, ge=1)
    versions: float = pydantic.Field(default=0.15, ge=0.0, le=1.0)
    other_genre: float = pydantic.Field(default=0.15, ge=0.0, le=1.0)
    other_mood: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    popularity_exponent: float = pydantic.Field(default=0.8, ge=0.0)
    new_albums: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    back_catalogue_days: float = pydantic.Field(default=1_500.0, gt=0.0)
    rise_days: float = pydantic.Field(default=5.0, gt=0.0)
    fade_days: float = pydantic.Field(default=300.0, gt=0.0)
    evergreen: float = pydantic.Field(default=0.3, gt=0.0, le=1.0)
    appeal: float = pydantic.Field(default=0.5, ge=0.0)
    languages: tuple[float, float, float, float] = (0.55, 0.2, 0.15, 0.1)
    like_album: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    like_artist: float = pydantic.Field(default=0.25, ge=0.0, le=1.0)

    @pydantic.field_validator("languages")
    @classmethod
    def _are_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise ValueError(f"got {list(shares)}, expected shares that sum to 1")
        return shares


class ListenersConfig(Frozen):
    """Who searches, and what they like.

    Attributes:
      count: Listeners.
      activity_exponent: The listener of activity rank k searches in proportion to k^-this.
      tastes: Pairs of a genre and a mood that a listener likes, each with a weight.
      favourites: Artists that a listener likes best, of these genres.
      spread: Standard deviation of the weights' logarithms on the first day.
      memory: What is left of a weight's logarithm on the next day.
      drift: Standard deviation of the daily step of a weight's logarithm.
      change: Probability on each day that a taste's genre is drawn anew; likewise its mood, and
        each favourite.
      genre_alone: What of a taste is met by its genre in another mood.
    """

    count: int = pydantic.Field(default=500, ge=1)
    activity_exponent: float = pydantic.Field(default=0.5, ge=0.0)
    tastes: int = pydantic.Field(default=4, ge=1)
    favourites: int = pydantic.Field(default=8, ge=1)
    spread: float = pydantic.Field(default=0.7, ge=0.0)
    memory: float = pydantic.Field(default=0.995, ge=0.0, le=1.0)
    drift: float = pydantic.Field(default=0.03, ge=0.0)
    change: float = pydantic.Field(default=0.001, ge=0.0, le=1.0)
    genre_alone: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)


class QueriesConfig(Frozen):
    """What they type.

    Attributes:
      navigational, ambiguous: Shares of these kinds among the queries; the rest is exploratory.
      of_tracks: Share of navigational queries that name a track rather than an artist.
      of_moods: Share of exploratory queries that name a mood, half of them with a genre.
      words_per_genre, words_per_mood: Synonyms; the last word of a genre is in another script.
      ambiguous_words: Words that mean several genres.
      meanings: Genres that an ambiguous word means, each to some listeners.
      words_per_listener: Ambiguous words that a listener uses.
      meaning_change: Probability on each day that a word's meaning to a listener becomes another.
      typos: Share of queries with a slip of the finger.
      other_version, same_artist: Relevance of another version of a track that was named, and of
        another track by its artist.
      genre_of_two: Relevance of the genre where a mood was named too; the rest is the mood's.
    """

    navigational: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    ambiguous: float = pydantic.Field(default=0.35, ge=0.0, le=1.0)
    of_tracks: float = pydantic.Field(default=0.4, ge=0.0, le=1.0)
    of_moods: float = pydantic.Field(default=0.4, ge=0.0, le=1.0)
    words_per_genre: int = pydantic.Field(default=4, ge=1)
    words_per_mood: int = pydantic.Field(default=2, ge=1)
    ambiguous_words: int = pydantic.Field(default=24, ge=1)
    meanings: int = pydantic.Field(default=3, ge=2)
    words_per_listener: int = pydantic.Field(default=4, ge=1)
    meaning_change: float = pydantic.Field(default=0.001, ge=0.0, le=1.0)
    typos: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    other_version: float = pydantic.Field(default=0.7, ge=0.0, le=1.0)
    same_artist: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    genre_of_two: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)


class FirstStageConfig(Frozen):
    """What finds the candidates; it never sees the listener.

    Attributes:
      shortest_list, longest_list: Candidates of a list, drawn evenly between the two.
      pool: Best matches of a query among which the jitter of the day picks a list's candidates.
      genre_words: Of a genre's synonyms, how many a track is described by.
      alike: The least similarity at which a word that no track has is taken for another, misspelt.
      match: What a full match of words adds to the standardised popularity.
      jitter: Standard deviation of what a score owes to the day.
      randomised: Share of lists that are shown in random order, so that examination can be told
        from relevance; `context_slice` says which they are.
    """

    shortest_list: int = pydantic.Field(default=10, ge=1)
    longest_list: int = pydantic.Field(default=30, ge=1)
    pool: int = pydantic.Field(default=60, ge=1)
    genre_words: int = pydantic.Field(default=2, ge=1)
    alike: float = pydantic.Field(default=0.4, ge=0.0, le=1.0)
    match: float = pydantic.Field(default=10.0, ge=0.0)
    jitter: float = pydantic.Field(default=0.5, ge=0.0)
    randomised: float = pydantic.Field(default=0.03, ge=0.0, le=1.0)


class BehaviourConfig(Frozen):
    """How listeners act on a list.

    Attributes:
      click_bias: Log-odds to click an examined candidate that has nothing of the below.
      click_intent: Added, times the relevance to what the listener means by the query.
      click_taste: Added, times the listener's affinity to the track.
      click_favourite: Added if its artist is a favourite.
      click_language: Added if it is in the listener's language.
      click_popularity: Added per standard deviation of popularity.
      conversion_bias, conversion_intent, conversion_taste, conversion_favourite: The same for a
        conversion of a clicked candidate.
      examination_decay: eta; by rank alone, rank r is examined with probability r^-eta.
      stop_after_click, stop_after_conversion: Probability to be content, and look no further.
      abandonment: Probability to give up at a candidate that has nothing of what was meant.
      click_tiring, conversion_tiring: Taken off, times the likeness to candidates further up.
      forgetting: What is left, from rank to rank, of what tires.
      contrast: Added, times how much a candidate stands out from its neighbours, from -1 to 1.
    """

    click_bias: float = -4.0
    click_intent: float = 2.5
    click_taste: float = 0.5
    click_favourite: float = 0.5
    click_language: float = 0.5
    click_popularity: float = 0.3
    conversion_bias: float = -3.0
    conversion_intent: float = 0.5
    conversion_taste: float = 4.0
    conversion_favourite: float = 1.5
    examination_decay: float = pydantic.Field(default=0.35, ge=0.0)
    stop_after_click: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    stop_after_conversion: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    abandonment: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    click_tiring: float = pydantic.Field(default=1.0, ge=0.0)
    conversion_tiring: float = pydantic.Field(default=1.0, ge=0.0)
    forgetting: float = pydantic.Field(default=0.8, ge=0.0, le=1.0)
    contrast: float = pydantic.Field(default=0.5, ge=0.0)


class SimulationConfig(Frozen):
    """A music-search world, the log that its listeners leave, and time for an experiment after it.

    Attributes:
      lists: Lists in the log.
      days: Days over which they are spread evenly, from `start` on; at most one list a second.
      days_after: Days that the world goes on after the log, with as many lists a day.
      start: Unix seconds at which the log starts; 2024-01-01 00:00 UTC unless said otherwise.
      history: Entries kept of a listener's past.
      seed: Of everything drawn at random.
    """

    lists: int = pydantic.Field(default=20_000, ge=1)
    days: int = pydantic.Field(default=90, ge=1)
    days_after: int = pydantic.Field(default=28, ge=0)
    start: int = pydantic.Field(default=1_704_067_200, ge=0)
    history: int = pydantic.Field(default=50, ge=1)
    catalogue: CatalogueConfig = CatalogueConfig()
    listeners: ListenersConfig = ListenersConfig()
    queries: QueriesConfig = QueriesConfig()
    first_stage: FirstStageConfig = FirstStageConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    seed: int = pydantic.Field(default=0, ge=0)

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> SimulationConfig:
        for smaller, larger in (
            ("first_stage.shortest_list", "first_stage.longest_list"),
            ("first_stage.longest_list", "first_stage.pool"),
            ("first_stage.pool", "catalogue.tracks"),
            ("listeners.tastes", "catalogue.genres"),
            ("queries.meanings", "catalogue.genres"),
            ("queries.words_per_listener", "queries.ambiguous_words"),
            ("catalogue.genres", "catalogue.artists"),
            ("catalogue.artists", "catalogue.tracks"),
        ):
            low, high = self._at(smaller.split(".")), self._at(larger.split("."))
            if low > high:
                raise ValueError(f"{smaller} {low} is more than {larger} {high}")
        if self.queries.navigational + self.queries.ambiguous > 1:
            raise ValueError(
                f"queries.navigational {self.queries.navigational} and queries.ambiguous "
                f"{self.queries.ambiguous} are shares of the queries, and sum to more than 1"
            )
        if self.lists > _SECONDS * self.days:
            raise ValueError(f"lists {self.lists} are more than one a second of {self.days} days")
        return self

    def _at(self, path: Iterable[str]) -> int:
        found: object = self
        for name in path:
            found = getattr(found, name)
        assert isinstance(found, int)
        return found
