"""The one definition of how raw columns become model inputs.

`encode` holds it. What it learns from data (vocabularies, means) comes through `Tables`: a script
fits them with `Encoder.fit`, the pipeline with tf.Transform; the rest is the same code.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from piano_tf import features
from piano_tf.config import EncodingConfig
from piano_tf.data.logs import read_batches, read_spec, split_files
from piano_tf.data.tokens import tokens
from piano_tf.features import Axis, FeatureSpec, InputSpec
from piano_tf.masks import mask_of

Batch = dict[str, tf.Tensor]


class Tables(Protocol):
    """What encoding learns from the training split, by table name (`Column.table`).

    Of a table that hashes (`TableConfig.buckets`) there is nothing to learn, and none is asked for.
    """

    def ids(self, table: str, values: tf.Tensor) -> tf.Tensor:
        """int64 ids from 0, of any shape; unseen strings fall into the hash buckets at the end."""

    def moments(self, table: str) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 scalars: mean and standard deviation of `compress`ed values."""


class Encoding(Protocol):
    """What `encode` must know of the inputs; an `InputSpec` is one, before its vocabularies too."""

    @property
    def features(self) -> FeatureSpec: ...
    @property
    def encoding(self) -> EncodingConfig: ...


def compress(values: tf.Tensor) -> tf.Tensor:
    """sign(x) log(1 + |x|): counts and prices have long tails [ours].

    >>> compress(tf.constant([-1.0, 0.0])).numpy() == np.float32([-np.log(2), 0])
    array([ True,  True])
    """
    return tf.sign(values) * tf.math.log1p(tf.abs(values))


def encode(raw: Mapping[str, tf.Tensor], inputs: Encoding, tables: Tables) -> Batch:
    """Raw columns of a batch to model inputs.

    Args:
      raw: Column name -> [B], [B, N] or [B, H]; strings padded with "", numbers with 0.
      inputs: The dataset's columns and the encoding configuration.
      tables: Vocabularies and moments.

    Returns:
      The same names -> int64 ids (0 pads) or standardised float32 (0 pads); `query` [B, T],
      `history_query` [B, H, T]; `history_action` 1 for a click and 2 for a conversion;
      `history_age` in days. At most `history_length` entries of history are kept.
    """
    encoded = {}
    for column in inputs.features.columns(labels=False):
        if column.name in ("list_id", "timestamp"):
            continue
        values = raw[column.name]
        mask = None if column.axis is Axis.LIST else mask_of(raw, column.axis)
        if mask is not None and column.axis is Axis.HISTORY:
            kept = inputs.encoding.history_length
            values, mask = values[:, :kept], mask[:, :kept]
        if column.table == "query":
            result = _token_ids(values, inputs.encoding, tables)
        elif column.name == "history_action":
            result = sum(
                tf.cast(values == action, tf.int64) * number
                for number, action in enumerate(features.ACTIONS, start=1)
            )
        elif not column.table:
            result = values
        elif column.type == "string":
            result = _ids(column.table, values, inputs.encoding, tables) + 1
        else:
            mean, deviation = tables.moments(column.table)
            result = (compress(values) - mean) / deviation
        if mask is not None:
            real = mask[..., tf.newaxis] if column.table == "query" else mask
            result = tf.where(real, result, tf.zeros_like(result))
        encoded[column.name] = result
    return encoded


def _ids(table: str, values: tf.Tensor, encoding: EncodingConfig, tables: Tables) -> tf.Tensor:
    """int64 ids from 0, of a vocabulary or of a hash: FarmHash64, the same on every machine."""
    buckets = encoding.table(table).buckets
    if buckets is None:
        return tables.ids(table, values)
    return tf.strings.to_hash_bucket_fast(values, buckets)


def _token_ids(queries: tf.Tensor, encoding: EncodingConfig, tables: Tables) -> tf.Tensor:
    """[..] strings to [.., query_length] ids, 0 where a query has fewer tokens."""
    length = encoding.query_length
    # A history repeats its queries: splitting and looking up each once is most of the work saved.
    distinct, places = tf.unique(tf.reshape(queries, [-1]))
    found = tokens(distinct).to_tensor("", shape=[None, length])
    numbers = _ids("query", found, encoding, tables) + 1
    ids = tf.where(found == "", tf.constant(0, tf.int64), numbers)
    return tf.reshape(tf.gather(ids, places), tf.concat([tf.shape(queries), [length]], axis=0))


def learnt_vocabularies(
    spec: FeatureSpec, encoding: EncodingConfig
) -> dict[str, tuple[features.Column, ...]]:
    """Name of each vocabulary that data must be counted for -> its columns."""
    return {
        name: columns
        for name, columns in spec.tables("string").items()
        if encoding.table(name).buckets is None
    }


class Encoder(tf.Module):
    """Encoding with vocabularies and moments held in memory: callable on a raw batch.

    Args:
      features: The dataset's columns.
      encoding: The encoding configuration.
      vocabularies: Vocabulary name -> its strings, the most frequent first.
      moments: Name -> (mean, standard deviation) of compressed values.

    Attributes:
      features, encoding, vocabularies: As given.
    """

    def __init__(
        self,
        features: FeatureSpec,
        encoding: EncodingConfig,
        vocabularies: Mapping[str, list[str]],
        moments: Mapping[str, tuple[float, float]],
    ) -> None:
        super().__init__(name="encoder")
        self.features = features
        self.encoding = encoding
        self.vocabularies = {name: list(strings) for name, strings in vocabularies.items()}
        self._moments = dict(moments)
        # The same hashing into the same buckets as tft.apply_vocabulary.
        self._lookups = {
            name: tf.lookup.StaticVocabularyTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.constant(strings, tf.string), tf.range(len(strings), dtype=tf.int64)
                ),
                num_oov_buckets=encoding.oov_buckets,
            )
            for name, strings in self.vocabularies.items()
            if strings  # an empty table cannot be made
        }

    @property
    def inputs(self) -> InputSpec:
        """What a model over these inputs must know."""
        return InputSpec(
            features=self.features,
            encoding=self.encoding,
            rows={
                name: self.encoding.rows(name, len(self.vocabularies.get(name, ())))
                for name in self.features.tables("string")
            },
        )

    def ids(self, table: str, values: tf.Tensor) -> tf.Tensor:
        if table not in self._lookups:
            return tf.strings.to_hash_bucket_fast(values, self.encoding.oov_buckets)
        return self._lookups[table].lookup(values)

    def moments(self, table: str) -> tuple[tf.Tensor, tf.Tensor]:
        mean, deviation = self._moments[table]
        return tf.constant(mean, tf.float32), tf.constant(deviation, tf.float32)

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> Batch:
        return encode(raw, self, self)

    @classmethod
    def fit(
        cls,
        log_dir: Path,
        encoding: EncodingConfig | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Encoder:
        """Learns vocabularies and moments from the training split of a log, batch by batch.

        Args:
          log_dir: A folder written by `piano logs`.
          encoding: The encoding configuration.
          progress: Called with the number of lists after each batch.
        """
        encoding = encoding or EncodingConfig()
        spec = read_spec(log_dir)
        features.require_tables(spec, encoding)
        counted = learnt_vocabularies(spec, encoding)
        counts = {name: collections.Counter[str]() for name in counted}
        sums = {name: np.zeros(3) for name in spec.tables("float")}
        for batch in read_batches(split_files(log_dir, "train")):
            for name, columns in counted.items():
                for column in columns:
                    counts[name].update(_counted(_values(batch, column), tokenise=name == "query"))
            for name, columns in spec.tables("float").items():
                for column in columns:
                    values = _values(batch, column).to_numpy(zero_copy_only=False)
                    x = compress(tf.constant(values)).numpy().astype(np.float64)
                    sums[name] = _merged(sums[name], x)
            if progress is not None:
                progress(batch.num_rows)
        vocabularies = {
            name: _most_frequent(counter, encoding.vocabulary_size)
            for name, counter in counts.items()
        }
        moments = {name: _moments_of(*total) for name, total in sums.items()}
        return cls(spec, encoding, vocabularies, moments)

    def save(self, path: Path) -> None:
        """Writes everything as one JSON file."""
        Path(path).write_text(
            json.dumps(
                {
                    "features": self.features.model_dump(mode="json"),
                    "encoding": self.encoding.model_dump(mode="json"),
                    # tf.Module wraps dictionaries and tuples, which json does not know.
                    "vocabularies": {name: [*values] for name, values in self.vocabularies.items()},
                    "moments": {name: [*pair] for name, pair in self._moments.items()},
                },
                ensure_ascii=False,
            ),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Reads what `save` wrote."""
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(
            FeatureSpec.model_validate(saved["features"]),
            EncodingConfig.model_validate(saved["encoding"]),
            saved["vocabularies"],
            saved["moments"],
        )


def _values(batch: pa.RecordBatch, column: features.Column) -> pa.Array:
    array = batch.column(batch.schema.get_field_index(column.name))
    return array if column.axis is Axis.LIST else array.flatten()


def _counted(values: pa.Array, *, tokenise: bool) -> dict[str, int]:
    """String -> how often; of a query, its tokens."""
    found = pc.value_counts(values)
    strings, numbers = found.field("values").to_pylist(), found.field("counts").to_pylist()
    if not tokenise:
        return dict(zip(strings, numbers, strict=True))
    split = collections.Counter[str]()
    rows = tokens(tf.constant(strings, tf.string)).to_list()
    for row, number in zip(rows, numbers, strict=True):
        for token in row:
            split[token.decode()] += number
    return split


def _most_frequent(counter: collections.Counter[str], size: int | None) -> list[str]:
    """In the order of tft.vocabulary: by count, then by bytes, both descending; no line breaks."""
    kept = [
        (number, string.encode())
        for string, number in counter.items()
        if string and "\n" not in string and "\r" not in string
    ]
    kept.sort(reverse=True)
    return [string.decode() for _, string in kept[:size]]


def _merged(seen: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Count, mean and sum of squared deviations with more values (Chan et al.); a column that never
    changes deviates by exactly 0, as it would not by the mean of squares.
    """
    if not x.size:
        return seen
    count, mean, squares = seen
    more = x[0] + (x - x[0]).mean()
    gap, total = more - mean, count + x.size
    squares += np.square(x - more).sum() + gap * gap * count * x.size / total
    return np.array([total, mean + gap * x.size / total if count else more, squares])


def _moments_of(count: float, mean: float, squares: float) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 where there is nothing to divide by."""
    if count == 0:
        return 0.0, 1.0
    return float(mean), float(np.sqrt(squares / count)) or 1.0
