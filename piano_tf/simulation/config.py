"""What shapes a simulated world and its log."""

from __future__ import annotations

import pydantic

from piano_tf.config import Frozen


class BehaviourConfig(Frozen):
    """How listeners act on what they are shown; `piano_tf.simulation.world` has the equations.

    Attributes:
      examination_decay: eta; the candidate at rank r is examined with probability r^-eta.
      attraction_bias: Log-odds to click an examined candidate that has nothing of the below.
      attraction_intent: Added if the candidate is what the listener means by the query.
      attraction_artist: Added if its artist is a favourite of the listener.
      attraction_popularity: Added per standard deviation of the candidate's popularity.
      attraction_appeal: Standard deviation of the appeal that a track has for everybody.
      conversion_bias: Log-odds to convert a clicked candidate that has nothing of the below.
      conversion_intent: Added if the candidate is what the listener means by the query.
      conversion_artist: Added if its artist is a favourite of the listener.
      conversion_taste: Added, times the weight of its genre in the listener's taste.
    """

    examination_decay: float = pydantic.Field(default=0.4, ge=0.0)
    attraction_bias: float = -4.5
    attraction_intent: float = 3.5
    attraction_artist: float = 1.5
    attraction_popularity: float = 0.2
    attraction_appeal: float = pydantic.Field(default=0.5, ge=0.0)
    conversion_bias: float = -2.5
    conversion_intent: float = 0.5
    conversion_artist: float = 1.0
    conversion_taste: float = 3.0


class SimulationConfig(Frozen):
    """A music-search world, its listeners and the log that they leave.

    Attributes:
      lists: Lists shown in all.
      days: Days over which they are spread evenly, from `start` on; at most one list a second.
      start: Unix seconds at which the log starts; 2024-01-01 00:00 UTC unless said otherwise.
      users: Listeners.
      items: Tracks in the catalogue.
      artists: Artists, each of one genre; a track is now and then of another genre than its artist.
      genres: Genres.
      words_per_genre: Words that name a genre and no other, the last of them in another script.
      ambiguous_words: Words that mean several genres.
      meanings: Genres that an ambiguous word means, each to some listeners.
      meaning_from_taste: Share of (listener, word) pairs where the word means what the listener
        likes best of its genres; elsewhere any, which only the listener's past under it can tell.
      words_per_user: Ambiguous words that a listener uses.
      tastes: Genres that a listener likes.
      favourites: Artists that a listener likes best, of these genres.
      navigational, ambiguous: Shares of these kinds among the queries; the rest is exploratory.
      shortest_list, longest_list: Candidates of a list, drawn evenly between the two.
      pool: Best matches of a query among which the jitter of the day picks a list's candidates.
      jitter: Standard deviation of what a first-stage score owes to the day.
      history: Entries kept of a listener's past.
      popularity_exponent: The track of popularity rank k is played in proportion to k^-this.
      activity_exponent: The listener of activity rank k searches in proportion to k^-this.
      behaviour: How listeners act on a list.
      seed: Of everything drawn at random.
    """

    lists: int = pydantic.Field(default=20_000, ge=1)
    days: int = pydantic.Field(default=90, ge=1)
    start: int = pydantic.Field(default=1_704_067_200, ge=0)
    users: int = pydantic.Field(default=500, ge=1)
    items: int = pydantic.Field(default=3_000, ge=1)
    artists: int = pydantic.Field(default=300, ge=1)
    genres: int = pydantic.Field(default=16, ge=2)
    words_per_genre: int = pydantic.Field(default=4, ge=1)
    ambiguous_words: int = pydantic.Field(default=24, ge=1)
    meanings: int = pydantic.Field(default=3, ge=2)
    meaning_from_taste: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    words_per_user: int = pydantic.Field(default=4, ge=1)
    tastes: int = pydantic.Field(default=4, ge=1)
    favourites: int = pydantic.Field(default=8, ge=1)
    navigational: float = pydantic.Field(default=0.25, ge=0.0, le=1.0)
    ambiguous: float = pydantic.Field(default=0.45, ge=0.0, le=1.0)
    shortest_list: int = pydantic.Field(default=10, ge=1)
    longest_list: int = pydantic.Field(default=30, ge=1)
    pool: int = pydantic.Field(default=60, ge=1)
    jitter: float = pydantic.Field(default=0.5, ge=0.0)
    history: int = pydantic.Field(default=50, ge=1)
    popularity_exponent: float = pydantic.Field(default=0.8, ge=0.0)
    activity_exponent: float = pydantic.Field(default=0.5, ge=0.0)
    behaviour: BehaviourConfig = BehaviourConfig()
    seed: int = pydantic.Field(default=0, ge=0)

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> SimulationConfig:
        for smaller, larger in (
            ("shortest_list", "longest_list"),
            ("longest_list", "pool"),
            ("pool", "items"),
            ("tastes", "genres"),
            ("meanings", "genres"),
            ("words_per_user", "ambiguous_words"),
            ("genres", "artists"),
            ("artists", "items"),
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ValueError(f"{smaller} {low} is more than {larger} {high}")
        if self.navigational + self.ambiguous > 1:
            raise ValueError(
                f"navigational {self.navigational} and ambiguous {self.ambiguous} are shares of "
                "the queries, and sum to more than 1"
            )
        if self.lists > 86_400 * self.days:
            raise ValueError(f"lists {self.lists} are more than one a second of {self.days} days")
        return self
