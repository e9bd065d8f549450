"""Listeners: their tastes and favourites on every day, and what ambiguous words mean to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from piano_tf.simulation.catalogue import Catalogue
from piano_tf.simulation.config import ListenersConfig, QueriesConfig
from piano_tf.simulation.draws import Bools, Floats, Ints, by_weight, distinct
from piano_tf.simulation.words import draw_languages

COUNTRIES = ("BR", "CN", "DE", "IN", "JP", "NG", "UA", "US")


class Listeners:
    """U listeners over D days, numbered from 0. docs/world.md has the equations.

    Args:
      config: What they like.
      queries: What their words mean.
      catalogue: Where they find it.
      days: D.
      rng: Of what is drawn.

    Attributes:
      ids, country: [U] names; the country is without any effect.
      language: [U] place in `piano_tf.simulation.words.LANGUAGES`.
      activity: [U] share of all searches that are the listener's; sums to 1.
      taste_genre, taste_mood: [D, U, K].
      taste_weight: [D, U, K], positive, sums to 1 over K.
      favourites: [D, U, F] artists; one may be there more than once.
      senses: [W, M] genres that an ambiguous word can mean.
      sense: [D, U, W] which of them it means to the listener.
      words: [U, V] ambiguous words that the listener uses.
    """

    def __init__(
        self,
        config: ListenersConfig,
        queries: QueriesConfig,
        catalogue: Catalogue,
        days: int,
        rng: np.random.Generator,
    ) -> None:
        count, genres = config.count, catalogue.config.genres
        self.config = config
        self._catalogue = catalogue
        self.ids = [f"listener-{number}" for number in range(count)]
        self.country = [COUNTRIES[number] for number in rng.integers(0, len(COUNTRIES), count)]
        self.language = draw_languages(rng, count, catalogue.config.languages)
        share = (1.0 + rng.permutation(count)) ** -config.activity_exponent
        self.activity = share / share.sum()

        liked = distinct(rng, count, genres, config.tastes)
        self.taste_genre = _changing(
            liked, days, config.change, rng, lambda rows: rng.integers(0, genres, rows)
        )
        moods = rng.integers(0, catalogue.config.moods, liked.shape)
        self.taste_mood = _changing(
            moods,
            days,
            config.change,
            rng,
            lambda rows: rng.integers(0, catalogue.config.moods, rows),
        )
        self.taste_weight = self._weights(days, rng)
        self.favourites = self._favourites(days, rng)

        words = queries.ambiguous_words
        self.senses = distinct(rng, words, genres, queries.meanings)
        self.sense = _changing(
            rng.integers(0, queries.meanings, (count, words)),
            days,
            queries.meaning_change,
            rng,
            lambda rows: rng.integers(0, queries.meanings, rows),
        )
        self.words = distinct(rng, count, words, queries.words_per_listener)

    def _weights(self, days: int, rng: np.random.Generator) -> Floats:
        shape = (self.config.count, self.config.tastes)
        log_weight = rng.normal(0.0, self.config.spread, shape)
        found = np.empty((days, *shape))
        for day in range(days):
            if day:
                step = rng.normal(0.0, self.config.drift, shape)
                log_weight = self.config.memory * log_weight + step
            weight = np.exp(log_weight)
            found[day] = weight / weight.sum(axis=-1, keepdims=True)
        return found

    def _favourites(self, days: int, rng: np.random.Generator) -> Ints:
        """Artists of the genres that the listener likes on the day they become favourites."""
        count, favourites = self.config.count, self.config.favourites
        genres = self._catalogue.config.genres
        artists_of = np.bincount(self._catalogue.artist_genre, minlength=genres)

        def draw(day: int, rows: Ints) -> Ints:
            taste = by_weight(rng, self.taste_weight[day, rows])
            genre = self.taste_genre[day, rows, taste]
            return genre + genres * rng.integers(0, artists_of[genre])

        everybody = np.repeat(np.arange(count), favourites)
        found = np.empty((days, count, favourites), np.int32)
        found[0] = draw(0, everybody).reshape(count, favourites)
        for day in range(1, days):
            found[day] = found[day - 1]
            changes = rng.random((count, favourites)) < self.config.change
            found[day][changes] = draw(day, np.nonzero(changes)[0])
        return found

    def affinity(self, day: int, listener: Ints, track: Ints) -> Floats:
        """theta: how much of a listener's taste a track is, from 0 to 1; broadcasts.

        The sum of the weights of the tastes whose genre is the track's, each times `genre_alone`
        where its mood is another.
        """
        genre = self.taste_genre[day, listener] == self._catalogue.genre[track][..., None]
        mood = self.taste_mood[day, listener] == self._catalogue.mood[track][..., None]
        met = np.where(mood, 1.0, self.config.genre_alone)
        return (self.taste_weight[day, listener] * genre * met).sum(axis=-1)

    def is_favourite(self, day: int, listener: Ints, track: Ints) -> Bools:
        """Whether the track's artist is one of the listener's favourites; broadcasts."""
        artist = self._catalogue.artist[track][..., None]
        return (self.favourites[day, listener] == artist).any(axis=-1)

    def meant(self, day: int | Ints, listener: Ints, word: Ints) -> Ints:
        """The genre that a listener means by an ambiguous word."""
        return self.senses[word, self.sense[day, listener, word]]


def _changing(
    start: Ints, days: int, change: float, rng: np.random.Generator, draw: Callable[[int], Ints]
) -> np.ndarray:
    """[D, ...] values that each stay as they are from day to day, or are drawn anew."""
    found = np.empty((days, *start.shape), np.int16)
    found[0] = start
    for day in range(1, days):
        found[day] = found[day - 1]
        changes = rng.random(start.shape) < change
        found[day][changes] = draw(int(changes.sum()))
    return found
