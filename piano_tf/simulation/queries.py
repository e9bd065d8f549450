"""What can be searched for, who searches for what, and what is meant by it."""

from __future__ import annotations

import enum
import itertools

import numpy as np

from piano_tf.simulation.catalogue import Catalogue
from piano_tf.simulation.config import QueriesConfig
from piano_tf.simulation.draws import Floats, Ints, by_weight
from piano_tf.simulation.listeners import Listeners
from piano_tf.simulation.words import SCRIPTS, Words


class Kind(enum.IntEnum):
    """How a query says what is meant."""

    ARTIST = 0
    TRACK = 1
    GENRE = 2
    MOOD = 3
    GENRE_AND_MOOD = 4
    AMBIGUOUS = 5


FAMILIES = {
    "navigational": (Kind.ARTIST, Kind.TRACK),
    "exploratory": (Kind.GENRE, Kind.MOOD, Kind.GENRE_AND_MOOD),
    "ambiguous": (Kind.AMBIGUOUS,),
}
"""What people call them -> which they are."""


class Queries:
    """Q queries, numbered from 0, and as many misspelt: the slip of query q has number Q + q.

    Args:
      config: Shares and sizes.
      catalogue: What they name.
      listeners: Who asks.
      words: Makes them.
      rng: Of what is drawn.

    Attributes:
      texts: [2 Q], no two of the first Q alike.
      kind: [Q], of `Kind`.
      target: [Q] artist, track, genre, mood or ambiguous word that is named.
      mood: [Q] the mood of `GENRE_AND_MOOD`, else 0.
      genre_words: [genres][W] and [moods][V] synonyms, the first of which is the name.
      mood_words: As they.
      ambiguous_words: Of what listeners mean different things by.
    """

    def __init__(
        self,
        config: QueriesConfig,
        catalogue: Catalogue,
        listeners: Listeners,
        words: Words,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self._catalogue, self._listeners = catalogue, listeners
        genres, moods = range(catalogue.config.genres), range(catalogue.config.moods)
        scripts = list(SCRIPTS)[1:]
        self.genre_words = [
            [words.new() for _ in range(config.words_per_genre - 1)]
            + [words.new(scripts[genre % len(scripts)])]
            for genre in genres
        ]
        self.mood_words = [[words.new() for _ in range(config.words_per_mood)] for _ in moods]
        self.ambiguous_words = [words.new() for _ in range(config.ambiguous_words)]

        phrases = [
            [*of_genre, *map(" ".join, itertools.pairwise(of_genre))]
            for of_genre in self.genre_words
        ]
        self._phrases = len(phrases[0])
        pairs = [
            (genre, mood, f"{feeling} {self.genre_words[genre][0]}")
            for genre in genres
            for mood in moods
            for feeling in self.mood_words[mood]
        ]
        # (kind, what is named, the mood beside it, the text)
        found = [
            *((Kind.ARTIST, n, 0, name) for n, name in enumerate(catalogue.artist_names)),
            *((Kind.TRACK, n, 0, title) for n, title in _first_of_each(catalogue.titles)),
            *((Kind.GENRE, n, 0, text) for n, texts in enumerate(phrases) for text in texts),
            *((Kind.MOOD, n, 0, text) for n, texts in enumerate(self.mood_words) for text in texts),
            *((Kind.GENRE_AND_MOOD, *pair) for pair in pairs),
            *((Kind.AMBIGUOUS, n, 0, word) for n, word in enumerate(self.ambiguous_words)),
        ]
        self.kind, self.target, self.mood = (
            np.array([row[column] for row in found], np.int64) for column in range(3)
        )
        texts = [text for *_, text in found]
        self.texts = [*texts, *map(words.misspelt, texts)]
        self._first = {kind: int(np.argmax(self.kind == kind)) for kind in Kind}
        self._of_title = {text: number for number, (*_, text) in enumerate(found)}
        self._of_track = np.array([self._of_title[title] for title in catalogue.titles])

    def __len__(self) -> int:
        return len(self.kind)

    def spelt_right(self, query: Ints) -> Ints:
        """The query that was meant to be typed."""
        return query % len(self)

    def draw(self, rng: np.random.Generator, day: int, listener: Ints) -> Ints:
        """What listeners search for.

        Args:
          rng: Where the randomness comes from.
          day: On which.
          listener: [B].

        Returns:
          [B] queries below 2 Q.
        """
        c, people, size = self.config, self._listeners, len(listener)
        artist = people.favourites[
            day, listener, rng.integers(0, people.favourites.shape[-1], size)
        ]
        taste = by_weight(rng, people.taste_weight[day, listener])
        genre = people.taste_genre[day, listener, taste]
        mood = people.taste_mood[day, listener, taste]
        phrase, feeling = (
            rng.integers(0, self._phrases, size),
            rng.integers(0, c.words_per_mood, size),
        )
        word = people.words[listener, rng.integers(0, c.words_per_listener, size)]
        moods = self._catalogue.config.moods
        first = self._first
        asked = {
            Kind.ARTIST: first[Kind.ARTIST] + artist,
            Kind.TRACK: self._of_track[self._draw_track(rng, day, artist)],
            Kind.GENRE: first[Kind.GENRE] + genre * self._phrases + phrase,
            Kind.MOOD: first[Kind.MOOD] + mood * c.words_per_mood + feeling,
            Kind.GENRE_AND_MOOD: first[Kind.GENRE_AND_MOOD]
            + (genre * moods + mood) * c.words_per_mood
            + feeling,
            Kind.AMBIGUOUS: first[Kind.AMBIGUOUS] + word,
        }
        kind = self._draw_kind(rng, size)
        query = np.select([kind == one for one in asked], list(asked.values()))
        return query + len(self) * (rng.random(size) < c.typos)

    def _draw_kind(self, rng: np.random.Generator, size: int) -> Ints:
        c = self.config
        exploratory = max(0.0, 1 - c.navigational - c.ambiguous)
        shares = {
            Kind.ARTIST: c.navigational * (1 - c.of_tracks),
            Kind.TRACK: c.navigational * c.of_tracks,
            Kind.GENRE: exploratory * (1 - c.of_moods),
            Kind.MOOD: exploratory * c.of_moods / 2,
            Kind.GENRE_AND_MOOD: exploratory * c.of_moods / 2,
            Kind.AMBIGUOUS: c.ambiguous,
        }
        return by_weight(rng, np.tile([shares[kind] for kind in Kind], (size, 1)))

    def _draw_track(self, rng: np.random.Generator, day: int, artist: Ints) -> Ints:
        """A track of each artist: one that is out, by how often it is played."""
        artists, tracks = self._catalogue.config.artists, self._catalogue.config.tracks
        place = np.arange(-(-tracks // artists))
        track = artist[:, np.newaxis] + artists * place
        plays = np.exp(self._catalogue.popularity(day))
        weight = np.where(track < tracks, plays[np.minimum(track, tracks - 1)], 0)
        # Of an artist who has nothing out yet, the first that will be.
        weight[:, 0] += 1e-12
        return track[np.arange(len(artist)), by_weight(rng, weight)]

    def relevance(self, day: int, listener: Ints, query: Ints, track: Ints) -> Floats:
        """rel: how much of what the listener means by a query a track is, 0 to 1; broadcasts."""
        c, catalogue = self.config, self._catalogue
        query = self.spelt_right(query)
        kind, target, wanted = self.kind[query], self.target[query], self.mood[query]
        ambiguous = kind == Kind.AMBIGUOUS
        meant = self._listeners.meant(day, listener, np.where(ambiguous, target, 0))
        named = np.where(kind == Kind.TRACK, target, 0)
        right_genre = catalogue.genre[track] == np.where(ambiguous, meant, target)
        right_mood = catalogue.mood[track] == np.where(kind == Kind.MOOD, target, wanted)
        return np.select(
            [
                kind == Kind.ARTIST,
                (kind == Kind.TRACK) & (track == named),
                (kind == Kind.TRACK) & (catalogue.song[track] == catalogue.song[named]),
                kind == Kind.TRACK,
                (kind == Kind.GENRE) | ambiguous,
                kind == Kind.MOOD,
            ],
            [
                catalogue.artist[track] == target,
                1.0,
                c.other_version,
                c.same_artist * (catalogue.artist[track] == catalogue.artist[named]),
                right_genre,
                right_mood,
            ],
            c.genre_of_two * right_genre + (1 - c.genre_of_two) * right_mood,
        )

    def intent(self, day: int | Ints, listener: Ints, query: Ints) -> Ints:
        """What is meant by a query, as a number: an artist, a genre or a mood; broadcasts.

        Of a track it is the artist, of genre and mood together the genre, and of an ambiguous word
        the genre that it means to the listener on that day. Equal numbers are equal intents.
        """
        catalogue = self._catalogue
        query = self.spelt_right(query)
        kind, target = self.kind[query], self.target[query]
        meant = self._listeners.meant(day, listener, np.where(kind == Kind.AMBIGUOUS, target, 0))
        artist = catalogue.artist[np.where(kind == Kind.TRACK, target, 0)]
        genres = catalogue.config.artists
        moods = genres + catalogue.config.genres
        return np.select(
            [kind == Kind.ARTIST, kind == Kind.TRACK, kind == Kind.MOOD, kind == Kind.AMBIGUOUS],
            [target, artist, moods + target, genres + meant],
            genres + target,
        )


def _first_of_each(titles: list[str]) -> list[tuple[int, str]]:
    """Titles with the track that had them first: two live versions of a song have one title."""
    found: dict[str, int] = {}
    for track, title in enumerate(titles):
        found.setdefault(title, track)
    return [(track, title) for title, track in found.items()]
