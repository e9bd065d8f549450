"""What must be known of each Unicode code point to split a query, as arrays that a graph can hold.

Python's `unicodedata` is the source, so that a graph needs no Unicode library, and an exported one
keeps to the version of Unicode that it was trained with.
"""

from __future__ import annotations

import enum
import functools
import unicodedata
from typing import Any, NamedTuple

import numpy as np

PAGE = 256
_POINTS = 0x110000

_ZERO_WIDTH_SPACE, _ZERO_WIDTH_JOINER = 0x200B, 0x200D
_VOICED_MARKS = {0x3099, 0x309A}
# Without the space that NFKC puts before them: typed after a kana, these belong to it.
_SPACING_VOICED_MARKS = {0x309B: "\u3099", 0x309C: "\u309a"}
_TAGS = range(0xE0020, 0xE0080)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
# Apostrophes that Unicode counts as letters, and what stands for something unreadable.
_GAPS = {0x2BB, 0x2BC, 0xFFFC, 0xFFFD}
# Unicode promises these to ideographs and to emoji, the unassigned ones too.
_IDEOGRAPHS = range(0x20000, 0x3FFFE)
_EMOJI = range(0x1F000, 0x1FB00)
# Latin letters that no keyboard but their own has and that Unicode does not decompose.
_LETTERS = str.maketrans(
    {"ı": "i", "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t"}  # noqa: RUF001
    | {"æ": "ae", "œ": "oe", "ð": "d", "þ": "th"}
)
# Marks that people leave out when they type. Those of other scripts are vowels and tones.
_OPTIONAL_MARKS = ("COMBINING", "VARIATION SELECTOR", "HEBREW", "ARABIC", "SYRIAC")
_TATWEEL = 0x0640  # stretches Arabic words, and says nothing
_UNSPACED = (
    *("CJK", "IDEOGRAPHIC", "HANGZHOU", "HIRAGANA", "KATAKANA", "HENTAIGANA", "VERTICAL KANA"),
    *("THAI", "LAO", "KHMER", "MYANMAR"),
)


class Kind(enum.IntEnum):
    """What a folded code point is in a query."""

    GAP = 0  # between tokens
    WORD = 1  # of a script with spaces
    CHARACTER = 2  # of a script without
    SYMBOL = 3  # an emoji or the like, a token by itself
    FLAG = 4  # a regional indicator: two are a flag
    EXTENDER = 5  # belongs to what stands before it
    JOINER = 6  # makes one of two symbols


def folded(point: int) -> str:
    """What search takes a code point for [ours]; usually itself, possibly nothing.

    NFKC and Unicode's case folding; digits of all scripts become 0 to 9. Left out are accents,
    marks of Hebrew, Arabic and Syriac, which people leave out too, variation selectors and format
    characters; not zero-width spaces, which separate words, and not joiners and tags of emoji. A
    few Latin letters become those of a plain keyboard.

    >>> [folded(ord(letter)) for letter in "Éßﾊが\\u0301"]
    ['e', 'ss', 'ハ', 'が', '']
    """
    before, text = "", _SPACING_VOICED_MARKS.get(point, chr(point))
    while text != before:  # what folds into letters may fold again
        before, text = text, unicodedata.normalize("NFKD", text)
        text = "".join(map(_folded_letter, text))
    return unicodedata.normalize("NFC", text)


def _folded_letter(letter: str) -> str:
    point, category = ord(letter), unicodedata.category(letter)
    if category in ("Mn", "Me") and point not in _VOICED_MARKS:
        return "" if unicodedata.name(letter, "").startswith(_OPTIONAL_MARKS) else letter
    if category == "Cf":
        kept = point in (_ZERO_WIDTH_SPACE, _ZERO_WIDTH_JOINER) or point in _TAGS
        return letter if kept else ""
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    return "" if point == _TATWEEL else letter.casefold().translate(_LETTERS)


def kind(point: int) -> Kind:
    """What a folded code point is in a query [ours].

    Spaces, punctuation, control characters and accents by themselves (^) separate tokens; other
    signs (+, $) are letters like any.
    """
    letter = chr(point)
    category = unicodedata.category(letter)
    if point == _ZERO_WIDTH_JOINER:
        return Kind.JOINER
    if point in _TAGS or point in _SKIN_TONES:
        return Kind.EXTENDER
    if point in _REGIONAL_INDICATORS:
        return Kind.FLAG
    if category == "Cn":
        if point in _IDEOGRAPHS:
            return Kind.CHARACTER
        return Kind.SYMBOL if point in _EMOJI else Kind.WORD
    if category[0] in "ZPC" or category == "Sk" or point in _GAPS:
        return Kind.GAP
    if category == "So":
        return Kind.SYMBOL
    if point in _VOICED_MARKS:
        return Kind.EXTENDER
    if category[0] in "LMN" and unicodedata.name(letter, "").startswith(_UNSPACED):
        return Kind.EXTENDER if category[0] == "M" else Kind.CHARACTER
    return Kind.WORD


class Pages(NamedTuple):
    """An array over all code points in pages, equal ones kept once.

    The value at p is values[starts[p // 256] + p % 256].

    Attributes:
      starts: [4352] int32: where each page starts.
      values: [256 * (distinct pages)].
    """

    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Pages:
        pages, number = np.unique(values.reshape(-1, PAGE), axis=0, return_inverse=True)
        return cls(PAGE * number.reshape(-1).astype(np.int32), pages.reshape(-1))


class UnicodeTables(NamedTuple):
    """Everything, as arrays.

    Attributes:
      folding: int32, of code points: 0 for those that stay, else the number of a replacement.
      replacements: int32, the code points of all replacements, one after the other.
      sizes: [R] int64: how many each replacement has.
      order: int32, of folded code points: the canonical combining class.
      kinds: uint8, of folded code points: a `Kind`.
      pairs: [P] int64, ascending: folded code points that NFC composes, as `pair_key`.
      composed: [P] int32: what each pair becomes.
    """

    folding: Pages
    replacements: np.ndarray
    sizes: np.ndarray
    order: Pages
    kinds: Pages
    pairs: np.ndarray
    composed: np.ndarray


def pair_key(left: Any, right: Any) -> Any:
    """One int64 for two code points; of integers, arrays or tensors."""
    return left * _POINTS + right


@functools.cache
def unicode_tables() -> UnicodeTables:
    """The tables; made at the first call, which takes about a second."""
    folding = np.zeros(_POINTS, np.int32)
    order = np.zeros(_POINTS, np.int32)
    kinds = np.full(_POINTS, Kind.WORD, np.uint8)
    kinds[_IDEOGRAPHS.start : _IDEOGRAPHS.stop] = Kind.CHARACTER
    kinds[_EMOJI.start : _EMOJI.stop] = Kind.SYMBOL
    numbers = {"\0": 0}  # stands for what stays
    composed = {}
    for point in range(_POINTS):
        letter = chr(point)
        category = unicodedata.category(letter)
        if category != "Cn":  # unassigned ones have their kind
            kinds[point] = kind(point)
        if category in ("Cn", "Co", "Cs"):  # fold to themselves
            continue
        order[point] = unicodedata.combining(letter)
        text = folded(point)
        if text != letter:
            folding[point] = numbers.setdefault(text, len(numbers))
        elif len(parts := unicodedata.normalize("NFD", letter)) > 1:
            left = unicodedata.normalize("NFC", parts[:-1])
            composed[pair_key(ord(left), ord(parts[-1]))] = point
    pairs = sorted(composed)
    return UnicodeTables(
        folding=Pages.of(folding),
        replacements=np.array([ord(letter) for text in numbers for letter in text], np.int32),
        sizes=np.array([len(text) for text in numbers], np.int64),
        order=Pages.of(order),
        kinds=Pages.of(kinds),
        pairs=np.array(pairs, np.int64),
        composed=np.array([composed[pair] for pair in pairs], np.int32),
    )
