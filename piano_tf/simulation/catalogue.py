"""Artists, albums and tracks, and how often each is played on a day."""

from __future__ import annotations

import numpy as np

from piano_tf.simulation.config import CatalogueConfig
from piano_tf.simulation.draws import Floats, Ints, standardised
from piano_tf.simulation.words import LANGUAGES, Words, draw_languages

ORIGINAL = "original"
VERSIONS = (ORIGINAL, "live", "remix", "acoustic")


class Catalogue:
    """A artists, B albums and I tracks, numbered from 0. docs/world.md has the equations.

    Args:
      config: Sizes and shares.
      days: Days that the world lasts.
      words: Makes names.
      rng: Of what is drawn.

    Attributes:
      artist_names: [A] two words in the artist's language, the first of which others may have too.
      artist_genre, artist_language: [A].
      track_ids: [I] names that a log gives them.
      titles: [I] two words; another version has those of its song and the kind of version.
      artist, album, genre, mood, language: [I].
      song: [I] the track that it is a version of, or itself.
      version: [I] of `VERSIONS`.
      released: [I] day of release, negative before the log.
      appeal: [I] log-odds, to everybody.
    """

    def __init__(
        self, config: CatalogueConfig, days: int, words: Words, rng: np.random.Generator
    ) -> None:
        self.config = config
        artists, tracks = config.artists, config.tracks
        self.artist_genre = np.arange(artists) % config.genres
        self.artist_language = draw_languages(rng, artists, config.languages)
        languages = [LANGUAGES[number] for number in self.artist_language]
        shared = {name: [words.new(name) for _ in range(1 + artists // 8)] for name in LANGUAGES}
        self.artist_names = [f"{rng.choice(shared[one])} {words.new(one)}" for one in languages]

        self.track_ids = [f"track-{track}" for track in range(tracks)]
        self.artist = np.arange(tracks) % artists
        place = np.arange(tracks) // artists
        per_album = -(-tracks // (artists * config.albums_per_artist))
        self.album = self.artist * config.albums_per_artist + place // per_album
        albums = artists * config.albums_per_artist
        album_mood = rng.integers(0, config.moods, albums)
        stray = rng.random(tracks) < config.other_genre
        any_genre = rng.integers(0, config.genres, tracks)
        self.genre = np.where(stray, any_genre, self.artist_genre[self.artist])
        stray = rng.random(tracks) < config.other_mood
        any_mood = rng.integers(0, config.moods, tracks)
        self.mood = np.where(stray, any_mood, album_mood[self.album])
        self.language = self.artist_language[self.artist]

        self._name_songs(words, rng, place)
        self.appeal = rng.normal(0.0, config.appeal, tracks)
        new = rng.random(albums) < config.new_albums
        new[0] = False  # there is always something to find
        age = np.ceil(rng.exponential(config.back_catalogue_days, albums)).astype(np.int64)
        self.released = np.where(new, rng.integers(0, days, albums), -age)[self.album]
        rank = 1 + rng.permutation(tracks)
        self._renown = -config.popularity_exponent * np.log(rank)

    def _name_songs(self, words: Words, rng: np.random.Generator, place: Ints) -> None:
        config, tracks = self.config, self.config.tracks
        is_version = (rng.random(tracks) < config.versions) & (place > 0)
        earlier = np.floor(rng.random(tracks) * place).astype(np.int64)
        self.song = np.arange(tracks)
        self.version = np.where(is_version, rng.integers(1, len(VERSIONS), tracks), 0)
        self.titles: list[str] = []
        for track in range(tracks):
            if is_version[track]:
                original = self.artist[track] + config.artists * earlier[track]
                self.song[track] = self.song[original]  # the earliest has been named already
                name = VERSIONS[self.version[track]]
                self.titles.append(f"{self.titles[self.song[track]]} {name}")
            else:
                language = LANGUAGES[self.language[track]]
                self.titles.append(f"{words.new(language)} {words.new(language)}")
        # A version is its song's: of the same genre and mood, on an album of its own day.
        self.genre, self.mood = self.genre[self.song], self.mood[self.song]

    def popularity(self, day: int) -> Floats:
        """[I] natural logarithm of how often each track is played on a day; -inf before release.

        A track of renown rank k and age a days has

            -s log k + log((1 - exp(-(a + 1) / rise)) (evergreen + (1 - evergreen) exp(-a / fade))).
        """
        c = self.config
        age = np.maximum(day - self.released, 0)
        found = -np.expm1(-(age + 1) / c.rise_days)
        kept = c.evergreen + (1 - c.evergreen) * np.exp(-age / c.fade_days)
        return np.where(self.is_out(day), self._renown + np.log(found * kept), -np.inf)

    def is_out(self, day: int) -> np.ndarray:
        """[I] whether a track has been released."""
        return self.released <= day

    def standing(self, day: int) -> Floats:
        """[I] popularity, standardised over what is out; -inf before release."""
        return standardised(self.popularity(day), self.is_out(day))

    def likeness(self, one: Ints, other: Ints) -> Floats:
        """How alike two tracks are, from 0 to 1: the same song, album or artist; broadcasts."""
        return np.select(
            [
                self.song[one] == self.song[other],
                self.album[one] == self.album[other],
                self.artist[one] == self.artist[other],
            ],
            [1.0, self.config.like_album, self.config.like_artist],
            0.0,
        )
