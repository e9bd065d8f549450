"""Queries in any script to tokens, with core TensorFlow operations that any server has.

All work is on flat arrays of code points; what Unicode says of them comes as constants
(`piano_tf.data.unicode_tables`), so that Keras, tf.Transform and an exported model cannot differ.
"""

from __future__ import annotations

import tensorflow as tf

from piano_tf.data.unicode_tables import PAGE, Kind, Pages, pair_key, unicode_tables


def tokens(queries: tf.Tensor) -> tf.RaggedTensor:
    """Splits queries into tokens that agree however a query is typed [ours].

    A token is a word where the script has spaces, a character where it has none (Chinese, Japanese,
    Thai, Lao, Khmer, Burmese), or an emoji; two neighbouring characters are a token too. All are
    folded: case, accents, width and composition make no difference, see
    `piano_tf.data.unicode_tables.folded`.

    First come all words, characters and emoji as they stand in the query, then the pairs: whoever
    keeps the first few has something of the whole query before having any of it twice.

    Args:
      queries: [n] strings, UTF-8; bytes that are not separate words.

    Returns:
      [n, (tokens)] strings, none empty.

    >>> [[token.decode() for token in row] for row in tokens(["Café-del MAR", "宇多田 live"]).to_list()]
    [['cafe', 'del', 'mar'], ['宇', '多', '田', 'live', '宇多', '多田']]
    """  # noqa: E501
    return _tokens(queries)


# Traced once, and not once for each column of queries; eagerly its many small steps would be slow.
@tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
def _tokens(queries: tf.Tensor) -> tf.RaggedTensor:
    with tf.device("CPU"):  # strings cannot leave it, and numbers between them had better not
        return _split(queries)


def _split(queries: tf.Tensor) -> tf.RaggedTensor:
    points = tf.strings.unicode_decode(queries, "UTF-8")
    count = points.nrows()
    # A gap after each query keeps it apart from the next one in the flat arrays, and what `tf.roll`
    # brings around from the last place to the first.
    points = tf.concat([points, tf.fill([count, 1], ord(" "))], axis=1)
    points, rows = _folded(points.values, points.value_rowids())
    starts, kinds = _pieces(points)
    rows = tf.gather(rows, starts)
    pieces = tf.RaggedTensor.from_row_starts(points, starts, validate=False)
    pieces = tf.strings.unicode_encode(pieces, "UTF-8")
    character = kinds == Kind.CHARACTER
    pairs = tf.strings.join([pieces, tf.roll(pieces, -1, 0)])

    def where(mask: tf.Tensor, strings: tf.Tensor) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_value_rowids(*_kept(mask, strings, rows), count, validate=False)

    singles = where(kinds != Kind.GAP, pieces)
    return tf.concat([singles, where(character & tf.roll(character, -1, 0), pairs)], axis=1)


def _folded(points: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each code point folded, then in canonical order and composed; with the rows they are of."""
    tables = unicode_tables()
    number = _looked_up(tables.folding, points)
    replacements = tf.RaggedTensor.from_row_lengths(
        tables.replacements, tables.sizes, validate=False
    )
    found = tf.gather(replacements, number)
    sizes = found.row_lengths()
    points = tf.where(tf.repeat(number, sizes) == 0, tf.repeat(points, sizes), found.values)
    rows = tf.repeat(rows, sizes)

    # What joins no symbols joins letters, which look different then but are the same.
    kinds = _looked_up(tables.kinds, points)
    symbol = kinds == Kind.SYMBOL
    after = tf.roll(symbol | (kinds == Kind.EXTENDER), 1, 0)
    joins = after & tf.roll(symbol, -1, 0)
    points, rows = _kept((kinds != Kind.JOINER) | joins, points, rows)

    # Marks, of a class above 0, go by it within what follows their letter.
    order = _looked_up(tables.order, points)
    letter = tf.cumsum(tf.cast(order == 0, tf.int64))
    points = tf.gather(points, tf.argsort(letter * 256 + tf.cast(order, tf.int64), stable=True))

    pairs, composed = tf.constant(tables.pairs), tf.constant(tables.composed)
    for _ in range(2):  # no letter is composed of more than three
        key = pair_key(tf.cast(points, tf.int64), tf.cast(tf.roll(points, -1, 0), tf.int64))
        place = tf.minimum(tf.searchsorted(pairs, key), len(tables.pairs) - 1)
        found = tf.gather(pairs, place) == key
        points = tf.where(found, tf.gather(composed, place), points)
        points, rows = _kept(~tf.roll(found, 1, 0), points, rows)
    return points, rows


def _pieces(points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where words, characters, symbols and gaps start in folded code points, and their kinds."""
    kinds = _looked_up(unicode_tables().kinds, points)
    before = tf.roll(kinds, 1, 0)
    attached = (kinds == Kind.EXTENDER) | (kinds == Kind.JOINER)
    starts = ~(
        (attached & (before != Kind.GAP))
        | ((kinds == Kind.SYMBOL) & (before == Kind.JOINER))
        | ((kinds == before) & ((kinds == Kind.WORD) | (kinds == Kind.FLAG)))
    )
    # Flags without spaces between: every second indicator starts one.
    place = tf.range(tf.size(points, tf.int64))
    run = tf.cumsum(tf.cast(starts, tf.int64)) - 1
    place -= tf.gather(tf.where(starts)[:, 0], run)
    starts |= (kinds == Kind.FLAG) & (place % 2 == 0)
    first = tf.where(starts)[:, 0]
    return first, tf.gather(kinds, first)


def _kept(mask: tf.Tensor, *arrays: tf.Tensor) -> list[tf.Tensor]:
    """The places of flat arrays where a mask is true."""
    places = tf.where(mask)[:, 0]
    return [tf.gather(array, places) for array in arrays]


def _looked_up(table: Pages, points: tf.Tensor) -> tf.Tensor:
    """A table's values at code points."""
    return tf.gather(table.values, tf.gather(table.starts, points // PAGE) + points % PAGE)
