"""The encoding of `piano_tf.data.encoding` in tf.Transform: learnt by Beam, kept in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from piano_tf.config import EncodingConfig, Frozen
from piano_tf.data.batches import SHUFFLED_AT_ONCE
from piano_tf.data.encoding import Batch, compress, encode, learnt_vocabularies
from piano_tf.data.tokens import tokens
from piano_tf.features import LABELS, Axis, Column, FeatureSpec, InputSpec, require_tables
from piano_tf.masks import mask_of

Tensors = Mapping[str, tf.Tensor]
_SPEC = "encoding_spec"
_FILES_AT_ONCE = 16


class EncodingSpec(Frozen):
    """What `preprocessing_fn` must be told.

    Attributes:
      features: The raw columns.
      encoding: The encoding configuration.
    """

    features: FeatureSpec
    encoding: EncodingConfig

    def custom_config(self) -> dict[str, str]:
        """As Transform's `custom_config`."""
        return {_SPEC: self.model_dump_json()}


def preprocessing_fn(
    inputs: Mapping[str, tf.SparseTensor], custom_config: dict[str, Any]
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """Raw examples to encoded ones, lists of their own lengths; `history_query` is [H * T] flat.

    Args:
      inputs: Column name -> sparse [B, values], as the schema without shapes gives it.
      custom_config: From `EncodingSpec.custom_config`.
    """
    spec = EncodingSpec.from_json(custom_config[_SPEC])
    require_tables(spec.features, spec.encoding)
    raw = {
        column.name: _dense(inputs[column.name], column)
        for column in spec.features.columns(labels=False)
    }
    encoded = encode(raw, spec, _AnalysedTables(raw, spec))
    outputs = {
        column.name: _variable_length(encoded[column.name], column.axis, encoded)
        for column in spec.features.columns(labels=False)
        if column.name in encoded
    }
    return {**outputs, **{label: inputs[label] for label in LABELS}}


class _AnalysedTables:
    """Vocabularies and moments from tf.Transform's analysers, over the training split."""

    def __init__(self, raw: Tensors, spec: EncodingSpec) -> None:
        self._oov_buckets = spec.encoding.oov_buckets
        self._vocabularies = {}
        for name, columns in learnt_vocabularies(spec.features, spec.encoding).items():
            values = tf.concat([_real_values(raw, column) for column in columns], axis=0)
            values, _, counts = tf.unique_with_counts(values)
            if name == "query":
                split = tokens(values)
                values, counts = split.values, tf.gather(counts, split.value_rowids())
            self._vocabularies[name] = tft.vocabulary(
                values,
                top_k=spec.encoding.vocabulary_size,
                vocab_filename=name,
                # Without weights, Beam would be handed every single value of a batch.
                weights=tf.cast(counts, tf.float32),
            )
        self._moments = {}
        for name, columns in spec.features.tables("float").items():
            values = tf.concat([_real_values(raw, column) for column in columns], axis=0)
            values = compress(values)
            deviation = tf.sqrt(tft.var(values))
            # As in Keras: constant columns and columns without values are not divided by nothing.
            safe = tf.where(deviation > 0, deviation, tf.ones_like(deviation))
            self._moments[name] = (tft.mean(values), safe)

    def ids(self, table: str, values: tf.Tensor) -> tf.Tensor:
        return tft.apply_vocabulary(
            values, self._vocabularies[table], num_oov_buckets=self._oov_buckets
        )

    def moments(self, table: str) -> tuple[tf.Tensor, tf.Tensor]:
        return self._moments[table]


def _dense(values: tf.SparseTensor, column: Column) -> tf.Tensor:
    """[B], or [B, longest] padded with "" and 0.

    ExampleGen leaves out a scalar that is 0 or ""; a log has no missing ones, so that absent can
    only mean these.
    """
    if column.axis is not Axis.LIST:
        return tf.sparse.to_dense(values)
    one_each = tf.stack([values.dense_shape[0], 1])
    return tf.sparse.to_dense(tf.SparseTensor(values.indices, values.values, one_each))[:, 0]


def _real_values(raw: Tensors, column: Column) -> tf.Tensor:
    """[n] values of a padded column, without padding."""
    if column.axis is Axis.LIST:
        return raw[column.name]
    return tf.boolean_mask(raw[column.name], mask_of(raw, column.axis))


def _sparse(values: tf.Tensor, mask: tf.Tensor) -> tf.SparseTensor:
    """The real values of a padded batch."""
    where = tf.where(mask)
    return tf.SparseTensor(where, tf.gather_nd(values, where), tf.shape(mask, tf.int64))


def _variable_length(
    values: tf.Tensor, axis: Axis, encoded: Tensors
) -> tf.Tensor | tf.SparseTensor:
    """An encoded feature as an example holds it: one row of real values."""
    if axis is Axis.LIST:
        return values
    mask = mask_of(encoded, axis)
    if values.shape.rank == 3:
        mask = tf.repeat(mask, tf.shape(values)[2], axis=1)
        values = tf.reshape(values, tf.shape(mask))
    return _sparse(values, mask)


def _padded(name: str, values: tf.Tensor | tf.SparseTensor, encoding: EncodingConfig) -> tf.Tensor:
    """The reverse of `_variable_length`, for a batch."""
    if isinstance(values, tf.SparseTensor):
        values = tf.sparse.to_dense(values)
    if name == "history_query":
        return tf.reshape(values, [tf.shape(values)[0], -1, encoding.query_length])
    return values


class TransformEncoder(tf.Module):
    """Raw padded columns to model inputs through the saved Transform graph.

    Args:
      output: Transform's output.
      spec: What Transform was told.
    """

    def __init__(self, output: tft.TFTransformOutput, spec: EncodingSpec) -> None:
        super().__init__(name="encoder")
        self._layer = output.transform_features_layer()
        self._spec = spec

    def __call__(self, raw: Tensors) -> Batch:
        columns = {}
        for column in self._spec.features.columns():
            if column.name in LABELS:  # the graph wants every raw feature; no output needs these
                rows = tf.shape(raw["item_id"], tf.int64)[0]
                columns[column.name] = tf.SparseTensor(
                    tf.zeros([0, 2], tf.int64), tf.zeros([0], tf.int64), tf.stack([rows, 0])
                )
            elif column.axis is Axis.LIST:
                columns[column.name] = tf.sparse.from_dense(raw[column.name][:, tf.newaxis])
            else:
                columns[column.name] = _sparse(raw[column.name], mask_of(raw, column.axis))
        return {
            name: _padded(name, values, self._spec.encoding)
            for name, values in self._layer(columns).items()
            if name not in LABELS
        }


def input_spec(output: tft.TFTransformOutput, spec: EncodingSpec) -> InputSpec:
    """What a model over Transform's output must know."""
    learnt = learnt_vocabularies(spec.features, spec.encoding)
    return InputSpec(
        features=spec.features,
        encoding=spec.encoding,
        rows={
            name: spec.encoding.rows(
                name, int(output.vocabulary_size_by_name(name)) if name in learnt else 0
            )
            for name in spec.features.tables("string")
        },
    )


def encoded_dataset(
    patterns: list[str],
    output: tft.TFTransformOutput,
    spec: EncodingSpec,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    cache: bool = False,
) -> tf.data.Dataset:
    """Batches of (inputs, labels) from transformed examples, as `piano_tf.data.batches.dataset`.

    Args:
      patterns: Of gzipped TFRecord files.
      output: Transform's output.
      spec: What Transform was told.
      batch_size: B; the last batch may be smaller, none is dropped.
      shuffle_seed: Shuffles lists in a buffer over several files at once, and files, anew each
        epoch; None keeps the order of the files.
      cache: Whether serialized examples are kept in memory after the first epoch, files in their
        order: an epoch's lists are then shuffled in the buffer alone.

    Returns:
      Each iterator that is made is the next epoch, read or not.
    """
    feature_spec = output.transformed_feature_spec()

    def parse(serialized: tf.Tensor) -> tuple[Batch, Batch]:
        examples = tf.io.parse_example(serialized, feature_spec)
        padded = {n: _padded(n, values, spec.encoding) for n, values in examples.items()}
        labels = {label: tf.cast(padded.pop(label), tf.float32) for label in LABELS}
        return padded, labels

    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if shuffle_seed is None:
        lists = _lists_of(files, at_once=1)
    elif cache:
        lists = _lists_of(files, at_once=_FILES_AT_ONCE).cache()
        lists = lists.shuffle(SHUFFLED_AT_ONCE, seed=shuffle_seed, reshuffle_each_iteration=True)
    else:
        lists = _shuffled_lists(files, shuffle_seed)
    return lists.batch(batch_size).map(parse, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _shuffled_lists(files: list[str], seed: int) -> tf.data.Dataset:
    """Serialized lists in an order of files, and of lists, that is the epoch's own.

    All of an epoch's order follows from one number, drawn when the epoch's iterator is made: who
    makes an iterator has passed an epoch by, whether or not it is read. A shuffled dataset of
    shuffled files would draw the order of the files only when it is asked for its first list.
    """

    def of_epoch(drawn: tf.Tensor) -> tf.data.Dataset:
        # In this function's graph alone: beside a seed of 0, TensorFlow takes no tensor for one.
        tf.random.set_seed(1)
        names = tf.constant(files, tf.string)
        order = tf.random.experimental.stateless_shuffle(names, [seed, drawn])
        return _lists_of(order, at_once=_FILES_AT_ONCE).shuffle(SHUFFLED_AT_ONCE, seed=drawn)

    drawn = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return drawn.take(1).flat_map(of_epoch)


def _lists_of(files: list[str] | tf.Tensor, *, at_once: int) -> tf.data.Dataset:
    """Serialized lists, one from each of several files in turn: a window's days are files apart."""
    return tf.data.Dataset.from_tensor_slices(tf.convert_to_tensor(files, tf.string)).interleave(
        lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"),
        cycle_length=at_once,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
