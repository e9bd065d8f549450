"""Invented words in several scripts, and slips of the finger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LATIN = tuple(consonant + vowel for consonant in "bdfgklmnrstvz" for vowel in "aeiou")
_JAPANESE = tuple("カキクサシスタトナニマミラリルレロ")
_CHINESE = tuple("民谣摇滚电子古典爵士金属蓝调说唱")
_RUSSIAN = ("ба", "ви", "го", "да", "жу", "ла", "ми", "но", "ре", "са", "ту", "фо")  # noqa: RUF001

LATIN = "en"
# Language -> the syllables its words are made of.
SCRIPTS = {LATIN: _LATIN, "zh": _CHINESE, "ja": _JAPANESE, "ru": _RUSSIAN}
LANGUAGES = tuple(SCRIPTS)


class Words:
    """Makes words, no two alike.

    Args:
      rng: Where the randomness comes from.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def new(self, language: str = LATIN) -> str:
        """A word of two syllables, longer if those were taken."""
        syllables = SCRIPTS[language]
        word = "".join(self._rng.choice(syllables, 2))
        while word in self._taken:
            word += str(self._rng.choice(syllables))
        self._taken.add(word)
        return word

    def misspelt(self, text: str) -> str:
        """The text with two neighbouring letters of one word exchanged, or one of them missing.

        >>> Words(np.random.default_rng(0)).misspelt("bada kilo")
        'bada klio'
        """
        words = text.split()
        at = int(self._rng.integers(len(words)))
        word = words[at]
        place = int(self._rng.integers(max(1, len(word) - 1)))
        swapped = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
        if swapped == word:
            swapped = word[:place] + word[place + 1 :] or word
        words[at] = swapped
        return " ".join(words)


def draw_languages(rng: np.random.Generator, count: int, shares: Sequence[float]) -> np.ndarray:
    """[count] places in `LANGUAGES`, each language as often as its share says."""
    return rng.choice(len(LANGUAGES), count, p=shares)
