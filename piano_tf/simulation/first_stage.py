"""What finds the candidates of a query by words and popularity; it never sees the listener."""

from __future__ import annotations

import collections

import numpy as np
from scipy import sparse

from piano_tf.simulation.catalogue import Catalogue
from piano_tf.simulation.config import FirstStageConfig
from piano_tf.simulation.draws import Bools, Floats, Ints, distinct
from piano_tf.simulation.listeners import Listeners
from piano_tf.simulation.queries import Queries

_DECIMALS = 5  # of scores, so that another machine's last bit makes no other order
_BLOCK = 500  # queries at once


class FirstStage:
    """Lexical match and popularity.

        score(q, i, day) = match * lex(q, i) + z_i(day) + jitter * noise

    with z_i the standardised popularity and lex the mean over q's words of how well i's words match
    each: 1 where one is equal, else, for a word that no track has, the similarity of the closest
    word there is (Dice over letter pairs, if at least 0.4). i's words are those of title and
    artist, two of its genre's, one of its mood's, and every ambiguous word that can mean its genre.

    Args:
      config: Sizes, weights and shares.
      catalogue, listeners, queries: The world. Of listeners, only what words can mean.
      rng: Of what is drawn.
    """

    def __init__(
        self,
        config: FirstStageConfig,
        catalogue: Catalogue,
        listeners: Listeners,
        queries: Queries,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self._catalogue = catalogue
        described = _described(config.genre_words, catalogue, listeners, queries, rng)
        words = sorted({word for of_track in described for word in of_track})
        number = {word: place for place, word in enumerate(words)}
        rows = np.repeat(np.arange(len(described)), [len(of_track) for of_track in described])
        columns = [number[word] for of_track in described for word in of_track]
        shape = (len(described), len(words))
        has = sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=shape)
        self._lexical = (_asked(queries.texts, words, config.alike) @ has.T).tocsr()  # [2 Q, I]

    def lexical(self, query: Ints) -> Floats:
        """[B, I] lex of queries."""
        return self._lexical[query].toarray()

    def candidates(
        self, rng: np.random.Generator, day: int, query: Ints
    ) -> tuple[Ints, Floats, Bools]:
        """The list of each query on a day.

        Args:
          rng: Of the jitter, the lengths and the random orders.
          day: On which.
          query: [B].

        Returns:
          track: [B, N] in the order of the first stage, N of `longest_list`.
          score: [B, N], falling.
          mask: [B, N] True = real.
        """
        c = self.config
        asked, row = np.unique(query, return_inverse=True)
        pool, score = self._pools(day, asked)
        score = score[row] + c.jitter * rng.standard_normal((len(query), c.pool))
        score = np.round(score, _DECIMALS)
        order = np.argsort(-score, axis=1, kind="stable")[:, : c.longest_list]
        length = rng.integers(c.shortest_list, c.longest_list + 1, len(query))
        track = np.take_along_axis(pool[row], order, axis=1)
        score = np.take_along_axis(score, order, axis=1)
        # Fewer, where fewer have been released.
        mask = (np.arange(c.longest_list) < length[:, np.newaxis]) & np.isfinite(score)
        return np.where(mask, track, 0), np.where(mask, score, 0), mask

    def _pools(self, day: int, query: Ints) -> tuple[Ints, Floats]:
        """[Q, pool] best matches and their scores before jitter, best first."""
        c, standing = self.config, self._catalogue.standing(day)
        tracks = np.empty((len(query), c.pool), np.int64)
        scores = np.empty((len(query), c.pool))
        for first in range(0, len(query), _BLOCK):
            some = slice(first, first + _BLOCK)
            score = np.round(c.match * self.lexical(query[some]) + standing, _DECIMALS)
            best = _largest(score, c.pool)
            of_best = np.take_along_axis(score, best, axis=1)
            order = np.argsort(-of_best, axis=1, kind="stable")
            tracks[some] = np.take_along_axis(best, order, axis=1)
            scores[some] = np.take_along_axis(of_best, order, axis=1)
        return tracks, scores


def _largest(score: Floats, count: int) -> Ints:
    """[Q, count] places of the largest of each row, rising; of equal ones the first."""
    least = np.partition(score, -count, axis=1)[:, -count, np.newaxis]
    more, equal = score > least, score == least
    left = count - more.sum(axis=1, keepdims=True)
    chosen = more | (equal & (np.cumsum(equal, axis=1) <= left))
    return np.nonzero(chosen)[1].reshape(len(score), count)


def _described(
    genre_words: int,
    catalogue: Catalogue,
    listeners: Listeners,
    queries: Queries,
    rng: np.random.Generator,
) -> list[list[str]]:
    """The words of every track, each once."""
    tracks, per_genre = catalogue.config.tracks, queries.config.words_per_genre
    of_genre = distinct(rng, tracks, per_genre, min(genre_words, per_genre))
    of_mood = rng.integers(0, queries.config.words_per_mood, tracks)
    ambiguous = collections.defaultdict(list)
    for word, genres in zip(queries.ambiguous_words, listeners.senses.tolist(), strict=True):
        for genre in genres:
            ambiguous[genre].append(word)
    found = []
    for track in range(tracks):
        genre = int(catalogue.genre[track])
        words = (
            *catalogue.titles[track].split(),
            *catalogue.artist_names[catalogue.artist[track]].split(),
            *(queries.genre_words[genre][number] for number in of_genre[track]),
            queries.mood_words[catalogue.mood[track]][of_mood[track]],
            *ambiguous[genre],
        )
        found.append(list(dict.fromkeys(words)))
    return found


def _asked(texts: list[str], words: list[str], least: float) -> sparse.csr_matrix:
    """[queries, words] how much of a query each word is: rows sum to 1 where all are known."""
    number = {word: place for place, word in enumerate(words)}
    typed = [text.split() for text in texts]
    unknown = sorted({word for of_query in typed for word in of_query if word not in number})
    closest = dict(zip(unknown, _closest(unknown, words, least), strict=True))
    rows, columns, values = [], [], []
    for row, of_query in enumerate(typed):
        for word in of_query:
            place, alike = (number[word], 1.0) if word in number else closest[word]
            if alike:
                rows.append(row)
                columns.append(place)
                values.append(alike / len(of_query))
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), len(words)))


def _closest(unknown: list[str], words: list[str], least: float) -> list[tuple[int, float]]:
    """Place of the word most like each unknown one, and the similarity: 0 below `least`."""
    pairs: dict[str, int] = {}
    one, other = (_letter_pairs(some, pairs) for some in (unknown, words))
    width = len(pairs)
    one.resize(len(unknown), width)
    other.resize(len(words), width)
    found: list[tuple[int, float]] = []
    of_word = np.asarray(other.sum(axis=1)).ravel()
    for first in range(0, len(unknown), _BLOCK):
        some = one[first : first + _BLOCK]
        both = (some @ other.T).toarray()
        dice = 2 * both / (np.asarray(some.sum(axis=1)) + of_word)
        best = dice.argmax(axis=1)
        alike = dice[np.arange(len(best)), best]
        found += zip(best.tolist(), np.where(alike >= least, alike, 0.0).tolist(), strict=True)
    return found


def _letter_pairs(words: list[str], pairs: dict[str, int]) -> sparse.csr_matrix:
    """[words, pairs] which pairs of letters, with the ends marked, a word has; fills `pairs`."""
    rows, columns = [], []
    for row, word in enumerate(words):
        marked = f"^{word}$"
        for pair in {marked[place : place + 2] for place in range(len(marked) - 1)}:
            rows.append(row)
            columns.append(pairs.setdefault(pair, len(pairs)))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(words), len(pairs)))
