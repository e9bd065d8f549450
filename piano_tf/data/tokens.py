"""Queries in any script to tokens, with core TensorFlow operations that any server has.

All work is on flat arrays of code points; what Unicode says of them comes as constants
(`piano_tf.data.unicode_tables`), so that Keras, tf.Transform and an exported model cannot differ.
"""

from __future__ import annotations

import numpy as np
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
    # A gap after each query keeps it apart from the next one in the flat arrays, and what `tf.roll`
    # brings around from the last place to the first.
    points = tf.strings.unicode_decode(tf.strings.join([queries, " "]), "UTF-8")
    points, rows = _folded(points.values, _owners(points.row_lengths()))
    starts, kinds = _pieces(points)
    rows = tf.gather(rows, starts)
    pieces = tf.RaggedTensor.from_row_starts(points, starts, validate=False)
    pieces = tf.strings.unicode_encode(pieces, "UTF-8")
    character = kinds == Kind.CHARACTER
    pairs = tf.strings.join([pieces, tf.roll(pieces, -1, 0)])
    singles, of_singles = _kept(kinds != Kind.GAP, pieces, rows)
    pairs, of_pairs = _kept(character & tf.roll(character, -1, 0), pairs, rows)
    rows = tf.concat([of_singles, of_pairs], axis=0)
    order = tf.argsort(rows, stable=True)
    return tf.RaggedTensor.from_value_rowids(
        tf.gather(tf.concat([singles, pairs], axis=0), order),
        tf.gather(rows, order),
        tf.size(queries, tf.int64),
        validate=False,
    )


def _folded(points: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each code point folded, then in canonical order and composed; with the rows they are of."""
    tables = unicode_tables()
    number = _looked_up(tables.folding, points)
    sizes = tf.gather(tables.sizes, number)
    owners = _owners(sizes)
    # Where a replacement would begin if its code points stood in their table as they do here.
    begins = tf.gather(np.cumsum(tables.sizes) - tables.sizes, number)
    begins -= tf.cumsum(sizes, exclusive=True)
    places = tf.gather(begins, owners) + tf.range(tf.size(owners, tf.int64))
    number, points, rows = (tf.gather(array, owners) for array in (number, points, rows))
    found = tf.gather(tables.replacements, places)
    points = tf.where(number == 0, points, found)

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


def _owners(sizes: tf.Tensor) -> tf.Tensor:
    """The number of the part that each place of a flat array is of, from how long its parts are."""
    ends, places = tf.cumsum(sizes), tf.range(tf.reduce_sum(sizes))
    return tf.raw_ops.UpperBound(
        sorted_inputs=ends[tf.newaxis], values=places[tf.newaxis], out_type=tf.int64
    )[0]


def _kept(mask: tf.Tensor, *arrays: tf.Tensor) -> list[tf.Tensor]:
    """The places of flat arrays where a mask is true."""
    places = tf.where(mask)[:, 0]
    return [tf.gather(array, places) for array in arrays]


def _looked_up(table: Pages, points: tf.Tensor) -> tf.Tensor:
    """A table's values at code points."""
    return tf.gather(table.values, tf.gather(table.starts, points // PAGE) + points % PAGE)
