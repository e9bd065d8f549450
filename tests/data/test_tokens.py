"""Tokens of queries in any script, against a table and a slow reference."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
import regex
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from query_examples import EXAMPLES

from piano_tf.data.tokens import tokens
from piano_tf.data.unicode_tables import Kind, kind, unicode_tables

KANA_MARKS = "\u3099\u309a"
SPACING_KANA_MARKS = str.maketrans("\u309b\u309c", KANA_MARKS)
PLAIN = str.maketrans(
    {"\u0131": "i", "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t"}
    | {"æ": "ae", "œ": "oe", "ð": "d", "þ": "th"}
)
UNSPACED = "".join(
    rf"\p{{scx={script}}}"
    for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
# In the order of precedence. `regex` has its own tables of Unicode, scripts among them.
KINDS = {
    Kind.JOINER: "\u200d",
    Kind.EXTENDER: rf"[\p{{Emoji_Modifier}}\U000e0020-\U000e007f]|(?=\p{{M}})[{UNSPACED}]",
    Kind.FLAG: r"\p{Regional_Indicator}",
    Kind.GAP: r"[\p{Z}\p{P}\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Sk}\u02bb\u02bc\ufffc\ufffd]",
    Kind.SYMBOL: r"\p{So}",
    Kind.CHARACTER: rf"(?=[\p{{L}}\p{{N}}])[{UNSPACED}]",
    Kind.WORD: ".",
}
ANY_KIND = regex.compile(
    "|".join(f"(?P<{kind.name}>{KINDS[kind]})" for kind in KINDS), regex.DOTALL
)


def split(queries: list[str]) -> list[list[str]]:
    """The tokens of queries."""
    rows = tokens(tf.constant(queries, tf.string)).to_list()
    return [[token.decode() for token in row] for row in rows]


def words(query: str | bytes) -> list[str]:
    """The tokens of one query."""
    (found,) = split([query])
    return found


# --- the slow way ---


def folded_slowly(text: str) -> str:
    """A whole text normalised at once, again and again until nothing changes."""
    before, text = "", text.translate(SPACING_KANA_MARKS)
    while text != before:
        before, text = text, unicodedata.normalize("NFKD", text)
        text = "".join("" if is_left_out(letter) else digit(letter) for letter in text)
        text = text.casefold().translate(PLAIN)
    return text


def is_left_out(letter: str) -> bool:
    if letter == "\u0640":
        return True
    if regex.match(r"\p{Cf}", letter):
        return not regex.match(r"[\u200b\u200d\U000e0020-\U000e007f]", letter)
    optional = regex.match(
        "COMBINING|VARIATION SELECTOR|HEBREW|ARABIC|SYRIAC", unicodedata.name(letter, "")
    )
    mark = unicodedata.category(letter) in ("Mn", "Me") and letter not in KANA_MARKS
    return bool(mark and optional)


def digit(letter: str) -> str:
    return str(unicodedata.digit(letter)) if regex.match(r"\p{Nd}", letter) else letter


def kind_slowly(letter: str) -> Kind:
    return Kind[ANY_KIND.match(letter).lastgroup]


def kinds_slowly(text: str) -> str:
    """One letter for the kind of each: Gap, Word, Character, Symbol, Flag, Extender, Joiner."""
    return "".join(kind_slowly(letter).name[0] for letter in text)


def split_slowly(query: str) -> list[str]:
    text = folded_slowly(query)
    kinds = kinds_slowly(text)
    dropped = {m.start() for m in regex.finditer("(?<![SE])J|J(?!S)", kinds)}
    text = "".join(letter for place, letter in enumerate(text) if place not in dropped)
    text = unicodedata.normalize("NFC", text)
    kinds = kinds_slowly(text)
    pieces = list(regex.finditer("(?:W+|FF?|[CSE])(?:E|JS)*", kinds))
    pairs = [
        text[one.start() : other.end()]
        for one, other in itertools.pairwise(pieces)
        if one.end() == other.start() and one.group()[0] == other.group()[0] == "C"
    ]
    return [text[piece.start() : piece.end()] for piece in pieces] + pairs


SCRIPTS = [
    "aZé\u0301\u0131İßøÆ'9$",
    "σΣςΊά\u0308",
    "йЁжЩі",
    "שָׁלׁם",
    "مُحـأ\u200c٣",
    "हनि\u094d\u093c\u200dक",
    "কো\u09c7\u09be\u09d7",
    "ಕ\u0cc6\u0cc2\u0cd5",
    "각\u1100\u1161\u11a8ㅋ",
    "宇多田々〇⼀",
    "がか\u3099\u309b\u309aｶﾞー゛は",
    "ท\u0e35\u0e48\u0e38ำเ๑",
    "ລ\u0eb8\u0ec8",
    "ខ\u17d2ម",
    "ဥ\u102e\u1037\u1039",
    "🎵❤\ufe0f👩🏽\u200d🎤\u20e3",
    "🇯🇵🇰",
    "🏴\U000e0067\U000e007f",
    " -\u200b\u3000\ufeff\n\0",
]
# Text in one script after another, each part led by a letter. (Marks of two scripts on one letter
# are nobody's writing: NFC looks across them, we do not.)
MIXED = st.lists(
    st.sampled_from(SCRIPTS).flatmap(lambda s: st.text(s, max_size=5).map(lambda t: s[0] + t)),
    max_size=5,
).map("".join)
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])
TEXT = MIXED | st.text(ASSIGNED, max_size=8)


# --- examples ---


@pytest.mark.parametrize(("query", "expected"), EXAMPLES)
def test_tokens_in_every_script(query: str | bytes, expected: list[str]) -> None:
    assert words(query) == expected


@pytest.mark.parametrize(("query", "expected"), EXAMPLES)
def test_the_reference_agrees_with_the_examples(query: str | bytes, expected: list[str]) -> None:
    text = query.decode(errors="replace") if isinstance(query, bytes) else query
    assert split_slowly(text) == expected


def test_queries_are_split_the_same_together() -> None:
    assert split([query for query, _ in EXAMPLES]) == [expected for _, expected in EXAMPLES]


def test_no_queries() -> None:
    assert tokens(tf.constant([], tf.string)).to_list() == []


# --- laws ---


@given(st.lists(TEXT, max_size=6))
@settings(max_examples=300)
def test_tokens_are_those_of_the_reference(queries: list[str]) -> None:
    assert split(queries) == [split_slowly(query) for query in queries]


@given(st.lists(st.binary(max_size=12), max_size=6))
def test_bytes_that_are_not_utf8_separate_words(queries: list[bytes]) -> None:
    expected = [split_slowly(query.decode(errors="replace")) for query in queries]
    assert split(queries) == expected


@given(TEXT)
@settings(max_examples=200)
def test_no_token_is_empty_and_none_splits_again(query: str) -> None:
    found = words(query)
    assert "" not in found
    for token in found:
        # A pair is itself split into its two; nothing else changes any more.
        again = words(token)
        assert again[-1] == token
        assert len(again) in (1, 3)


@given(TEXT, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
@settings(max_examples=200)
def test_every_normal_form_of_a_query_has_its_tokens(query: str, form: str) -> None:
    assume(not set(query) & {"\u309b", "\u309c"})  # after which NFKC splits, see the examples
    assert words(unicodedata.normalize(form, query)) == words(query)


LATIN_GREEK_CYRILLIC = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x24F)
    | st.characters(min_codepoint=0x370, max_codepoint=0x52F, exclude_categories=["Cn"]),
    max_size=12,
)


@given(LATIN_GREEK_CYRILLIC)
@settings(max_examples=200)
def test_case_makes_no_difference(query: str) -> None:
    variants = [query, query.upper(), query.lower(), query.title(), query.casefold()]
    assert split(variants) == [words(query)] * len(variants)


@given(LATIN_GREEK_CYRILLIC, st.text(st.characters(categories=["Mn"], max_codepoint=0x36F)))
def test_accents_make_no_difference(query: str, accents: str) -> None:
    bare = "".join(c for c in unicodedata.normalize("NFD", query) if not unicodedata.combining(c))
    assert words(query) == words(bare) == words(accents.join(["", *bare, ""]))


NARROW_OF = {
    unicodedata.normalize("NFKC", chr(wide)): chr(wide)
    for wide in [*range(0xFF01, 0xFF5F), *range(0xFF61, 0xFFBF)]
    if unicodedata.category(chr(wide)) != "Cn"
}


@given(st.text("".join(letter for letter in NARROW_OF if letter not in KANA_MARKS) + "宇が"))
def test_width_makes_no_difference(query: str) -> None:
    assert words("".join(NARROW_OF.get(c, c) for c in query)) == words(query)


@given(TEXT, TEXT)
def test_a_space_separates_as_two_queries_would(one: str, other: str) -> None:
    together, apart = words(f"{one} {other}"), [*words(one), *words(other)]
    assert sorted(together) == sorted(apart)


def test_what_stands_in_a_query_comes_before_pairs() -> None:
    kept = 8
    assert words("宇多田ヒカル First Love")[:kept] == [*"宇多田ヒカル", "first", "love"]


# --- all of Unicode ---


ALL = [
    chr(point)
    for point in range(0x110000)
    if unicodedata.category(chr(point)) not in ("Cn", "Co", "Cs")
]
IDEOGRAPHS = regex.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")


# Signs for counting and for iteration that names of characters do not give away as Chinese.
UNRECOGNISED = regex.compile(r"[\u303b\u303c\U00016fe3\U00016ff0\U00016ff1\U0001d360-\U0001d378]")


def test_every_letter_alone_and_decomposed() -> None:
    queries = [letter for letter in ALL if not IDEOGRAPHS.match(letter)]
    found = split(queries)
    assert split([unicodedata.normalize("NFD", letter) for letter in queries]) == found
    for letter, row in zip(queries, found, strict=True):
        assert row == split_slowly(letter), hex(ord(letter))


def test_every_letter_is_of_the_kind_that_its_script_says() -> None:
    letters = {chr(point) for letter in ALL for point in map(ord, folded_slowly(letter))}
    wrong = {letter for letter in letters if kind(ord(letter)) != kind_slowly(letter)}
    assert {letter for letter in wrong if not UNRECOGNISED.fullmatch(letter)} == set()


def test_what_is_not_assigned_yet_is_what_unicode_promised_it_to_be() -> None:
    emoji, one, other = "\U0001faff", "\U0003fff0", "\U0003fff1"
    assert words(f"a{emoji}b{one}{other}") == ["a", emoji, "b", one, other, one + other]
    assert words("a\u0378b") == ["a\u0378b"]
    table = unicode_tables().kinds
    for point in range(0, 0x110000, 23):
        assert table.values[table.starts[point // 256] + point % 256] == kind(point)


def test_every_ideograph_is_its_own_token_or_that_of_its_twin() -> None:
    queries = [letter for letter in ALL if IDEOGRAPHS.match(letter)]
    assert len(queries) > 90_000
    assert split(queries) == [[unicodedata.normalize("NFKC", letter)] for letter in queries]
