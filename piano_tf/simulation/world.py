r"""A small music-search world whose truth is known. All of it is our own design.

**Catalogue.** Every artist has a genre and a name of two words, of which others share the first. A
track has an artist, mostly the artist's genre, and a popularity: the track of popularity rank k is
played in proportion to k^-s. Its searchable words are the artist's name, two words of its genre and
every ambiguous word that can mean its genre.

**Listeners.** Listener u has a taste theta_u over genres, zero but for a few and summing to 1, and
favourite artists of those genres. To u the ambiguous word w means one genre m(u, w) of the several
that it can mean: for a share of the pairs the one that u likes best, for the others any. So neither
query nor taste tells m(u, w) for certain; what u did under w before does.

**Queries.** Navigational: the name of a favourite artist. Exploratory: one or two words of a genre
drawn by theta_u. Ambiguous: one of u's ambiguous words.

**First stage.** It knows the query q, the track i and the day, never the listener:

    score(q, i) = 10 * (share of q's words that are words of i) + z_i + noise

with z_i the standardised logarithm of i's popularity, and normal noise for what changes from day
to day. A list is the best of a query's pool, in falling order of the score.

**Behaviour.** With sigma the logistic function and r the rank from 1; rel = 1 where i is what u
means by q (of that artist, or of that genre), fav = 1 where i's artist is a favourite of u, else 0:

    P(examine | r)              = r^-eta                                           examination
    P(click | examine, u, q, i) = sigma(b_c + w_c rel + f_c fav + p_c z_i + a_i)   attraction
    P(convert | click, u, q, i) = sigma(b_v + w_v rel + f_v fav + t_v theta_u[genre of i])

with a_i normal, the track's appeal to everybody. A click is an examination and an attraction, drawn
independently: the position-based model (N. Craswell, O. Zoeter, M. Taylor, B. Ramsey, An
Experimental Comparison of Click Position-Bias Models, WSDM 2008). A click tells mostly what the
query means, a conversion mostly long-term taste.

A listener's country affects nothing: what a model gains from it on data of this world is noise.
"""

from __future__ import annotations

import collections
import enum
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piano_tf.simulation.config import SimulationConfig

_MATCH_WEIGHT = (
    10.0  # A full match stands above half a match unless the popularities are far apart.
)
_OTHER_GENRE = 0.15  # Share of tracks of any genre, not by design that of their artist.
_WORDS_OF_A_TRACK = 2
_COUNTRIES = ("BR", "CN", "DE", "IN", "JP", "NG", "UA", "US")

_LATIN = tuple(consonant + vowel for consonant in "bdfgklmnrstvz" for vowel in "aeiou")
_OTHER_SCRIPTS = (
    tuple("カキクサシスタトナニマミラリルレロ"),
    tuple("民谣摇滚电子古典爵士金属蓝调说唱"),
    ("ба", "ви", "го", "да", "жу", "ла", "ми", "но", "ре", "са", "ту", "фо"),  # noqa: RUF001
)

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


class Kind(enum.IntEnum):
    """How a query says what is meant."""

    NAVIGATIONAL = 0
    EXPLORATORY = 1
    AMBIGUOUS = 2


class World:
    """Catalogue, listeners and queries; with them the truth, which no log shows.

    U listeners, I tracks, A artists, G genres and Q queries are numbered from 0; the methods take
    these numbers as integer arrays of shapes that broadcast. All randomness is `config.seed`'s.

    Attributes:
      config: What the world was made from.
      user_ids, item_ids: [U] and [I] names that a log gives them.
      artist_names, genre_names: [A] and [G].
      query_texts: [Q], no two alike.
      query_kind: [Q], of `Kind`.
      item_artist, item_genre: [I].
      item_popularity: [I] natural logarithm of how often a track is played; the top track has 0.
      user_country: [U] names, without any effect.
      activity: [U] share of all searches that are the listener's; sums to 1.
      taste: [U, G] theta, non-negative, rows sum to 1.
      favourites: [U, config.favourites] artists, some perhaps twice.
      meaning: [U, config.ambiguous_words] genre that the word means to the listener.
      pool_item: [Q, config.pool] tracks that the first stage finds, best first.
      pool_score: [Q, config.pool] their scores before noise.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        self._make_words(rng)
        self._make_catalogue(rng)
        self._make_listeners(rng)
        self._make_queries()
        self._retrieve(rng)

    def _make_words(self, rng: np.random.Generator) -> None:
        config = self.config
        taken: set[str] = set()
        self._genre_words = [
            [_new_word(rng, _LATIN, taken) for _ in range(config.words_per_genre - 1)]
            + [_new_word(rng, _OTHER_SCRIPTS[genre % len(_OTHER_SCRIPTS)], taken)]
            for genre in range(config.genres)
        ]
        self.genre_names = [words[0] for words in self._genre_words]
        self._ambiguous_words = [
            _new_word(rng, _LATIN, taken) for _ in range(config.ambiguous_words)
        ]
        self._word_genres = _distinct(rng, config.ambiguous_words, config.genres, config.meanings)
        # Every artist has a word of its own, after one that others may have too.
        shared = [_new_word(rng, _LATIN, taken) for _ in range(1 + config.artists // 4)]
        self.artist_names = [
            f"{rng.choice(shared)} {_new_word(rng, _LATIN, taken)}" for _ in range(config.artists)
        ]

    def _make_catalogue(self, rng: np.random.Generator) -> None:
        config = self.config
        self.item_ids = [f"track-{item}" for item in range(config.items)]
        self.item_artist = np.arange(config.items) % config.artists
        strays = rng.random(config.items) < _OTHER_GENRE
        self.item_genre = np.where(
            strays,
            rng.integers(0, config.genres, config.items),
            self._genre_of_artist(self.item_artist),
        )
        rank = 1 + rng.permutation(config.items)
        self.item_popularity = -config.popularity_exponent * np.log(rank)
        spread = self.item_popularity.std()
        centred = self.item_popularity - self.item_popularity.mean()
        self._z = centred / spread if spread else centred
        self._appeal = rng.normal(0.0, config.behaviour.attraction_appeal, config.items)

    def _genre_of_artist(self, artist: _Ints) -> _Ints:
        return artist % self.config.genres

    def _make_listeners(self, rng: np.random.Generator) -> None:
        config = self.config
        users = config.users
        self.user_ids = [f"listener-{user}" for user in range(users)]
        self.user_country = [_COUNTRIES[i] for i in rng.integers(0, len(_COUNTRIES), users)]
        share = (1.0 + rng.permutation(users)) ** -config.activity_exponent
        self.activity = share / share.sum()

        self.taste = np.zeros((users, config.genres))
        liked = _distinct(rng, users, config.genres, config.tastes)
        np.put_along_axis(self.taste, liked, rng.dirichlet(np.ones(config.tastes), users), axis=1)
        genre = self.draw_genre(rng, np.repeat(np.arange(users)[:, None], config.favourites, 1))
        artists_of = np.bincount(
            self._genre_of_artist(np.arange(config.artists)), minlength=config.genres
        )
        self.favourites = genre + config.genres * rng.integers(0, artists_of[genre])

        words = np.arange(config.ambiguous_words)
        likes = self.taste[:, self._word_genres]
        # The noise decides between meanings that the listener does not like at all.
        likes = likes + 1e-9 * rng.random(likes.shape)
        drawn = rng.integers(0, config.meanings, likes.shape[:2])
        by_taste = rng.random(drawn.shape) < config.meaning_from_taste
        self.meaning = self._word_genres[words, np.where(by_taste, likes.argmax(-1), drawn)]
        self._user_words = _distinct(rng, users, len(words), config.words_per_user)

    def _make_queries(self) -> None:
        config = self.config
        phrases = [
            [[word] for word in words] + [list(pair) for pair in itertools.pairwise(words)]
            for words in self._genre_words
        ]
        self._phrases_per_genre = len(phrases[0])
        self._query_words = [
            *(name.split() for name in self.artist_names),
            *(phrase for of_genre in phrases for phrase in of_genre),
            *([word] for word in self._ambiguous_words),
        ]
        self.query_texts = [" ".join(words) for words in self._query_words]
        count = (
            config.artists,
            config.genres * self._phrases_per_genre,
            config.ambiguous_words,
        )
        self.query_kind = np.repeat(list(Kind), count)
        # What a query names: an artist, a genre or an ambiguous word.
        self._query_target = np.concatenate(
            [
                np.arange(config.artists),
                np.repeat(np.arange(config.genres), self._phrases_per_genre),
                np.arange(config.ambiguous_words),
            ]
        )

    def _retrieve(self, rng: np.random.Generator) -> None:
        config = self.config
        words_of_track = min(_WORDS_OF_A_TRACK, config.words_per_genre)
        described = _distinct(rng, config.items, config.words_per_genre, words_of_track)
        ambiguous: list[list[str]] = [[] for _ in range(config.genres)]
        for word, genres in zip(self._ambiguous_words, self._word_genres.tolist(), strict=True):
            for genre in genres:
                ambiguous[genre].append(word)
        tracks_with = collections.defaultdict(list)
        for item, numbers in enumerate(described.tolist()):
            genre = self.item_genre[item]
            for word in (
                *self.artist_names[self.item_artist[item]].split(),
                *(self._genre_words[genre][number] for number in numbers),
                *ambiguous[genre],
            ):
                tracks_with[word].append(item)

        shape = (len(self.query_texts), config.pool)
        self.pool_item = np.empty(shape, np.int64)
        self.pool_score = np.empty(shape)
        for query, words in enumerate(self._query_words):
            score = self._z.copy()
            for word in words:
                score[np.array(tracks_with[word], np.int64)] += _MATCH_WEIGHT / len(words)
            self.pool_item[query] = np.argsort(-score, kind="stable")[: config.pool]
            self.pool_score[query] = score[self.pool_item[query]]

    def draw_genre(self, rng: np.random.Generator, user: _Ints) -> _Ints:
        """One genre for each user, by the user's taste. Of the shape of `user`."""
        reached = np.cumsum(self.taste, axis=1)[user] <= rng.random((*user.shape, 1))
        # Rounding may leave a cumulated taste a little under 1.
        return np.minimum(reached.sum(axis=-1), self.config.genres - 1)

    def draw_query(self, rng: np.random.Generator, user: _Ints) -> _Ints:
        """What listeners search for next.

        Args:
          rng: Where the randomness comes from.
          user: [B] listeners.

        Returns:
          [B] queries.
        """
        config = self.config
        genres = config.genres * self._phrases_per_genre
        artist = self.favourites[user, rng.integers(0, config.favourites, len(user))]
        phrase = rng.integers(0, self._phrases_per_genre, len(user))
        explored = self.draw_genre(rng, user) * self._phrases_per_genre + phrase
        word = self._user_words[user, rng.integers(0, config.words_per_user, len(user))]
        kind = rng.random(len(user))
        return np.where(
            kind < config.navigational,
            artist,
            np.where(
                kind < config.navigational + config.ambiguous,
                config.artists + genres + word,
                config.artists + explored,
            ),
        )

    def intended(self, user: _Ints, query: _Ints, item: _Ints) -> _Bools:
        """rel: whether the track is of the artist or genre that the listener means by the query."""
        kind, target = self.query_kind[query], self._query_target[query]
        ambiguous = kind == Kind.AMBIGUOUS
        meant = np.where(ambiguous, self.meaning[user, np.where(ambiguous, target, 0)], target)
        artist = self.item_artist[item] == target
        return np.where(kind == Kind.NAVIGATIONAL, artist, self.item_genre[item] == meant)

    def examination(self, rank: _Ints) -> _Floats:
        """P(examine | r) of candidates at rank `rank`, counted from 1."""
        return np.asarray(rank, np.float64) ** -self.config.behaviour.examination_decay

    def attraction(self, user: _Ints, query: _Ints, item: _Ints) -> _Floats:
        """P(click | examine), whatever the rank."""
        behaviour = self.config.behaviour
        return _logistic(
            behaviour.attraction_bias
            + behaviour.attraction_intent * self.intended(user, query, item)
            + behaviour.attraction_artist * self._is_favourite(user, item)
            + behaviour.attraction_popularity * self._z[item]
            + self._appeal[item]
        )

    def conversion(self, user: _Ints, query: _Ints, item: _Ints) -> _Floats:
        """P(convert | click), whatever the rank."""
        behaviour = self.config.behaviour
        return _logistic(
            behaviour.conversion_bias
            + behaviour.conversion_intent * self.intended(user, query, item)
            + behaviour.conversion_artist * self._is_favourite(user, item)
            + behaviour.conversion_taste * self.taste[user, self.item_genre[item]]
        )

    def _is_favourite(self, user: _Ints, item: _Ints) -> _Bools:
        return (self.favourites[user] == self.item_artist[item][..., None]).any(axis=-1)


def _new_word(rng: np.random.Generator, syllables: Sequence[str], taken: set[str]) -> str:
    """A word of two syllables, longer if it was taken."""
    word = "".join(rng.choice(syllables, 2))
    while word in taken:
        word += str(rng.choice(syllables))
    taken.add(word)
    return word


def _distinct(rng: np.random.Generator, rows: int, among: int, count: int) -> _Ints:
    """[rows, count] numbers below `among`, in each row no two alike."""
    return rng.random((rows, among)).argsort(axis=1)[:, :count]


def _logistic(log_odds: _Floats) -> _Floats:
    return 1.0 / (1.0 + np.exp(-log_odds))
