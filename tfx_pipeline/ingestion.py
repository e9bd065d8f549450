"""ExampleGen's executor: a log is checked whole before a single example is written.

TFX's own ParquetExecutor makes a Python object of every value, and shuffles all examples at once,
which a runner on one machine does in memory: both grow with the log. Here lists go from Parquet to
files of examples a batch at a time, and each file is shuffled by itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import zlib
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx import types
from tfx.components.example_gen.custom_executors import parquet_executor
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils
from tfx_bsl.coders import example_coder

from piano_tf.data.batches import SHUFFLED_AT_ONCE
from piano_tf.data.logs import check_log, read_batches, read_spec, rows_of, split_files
from piano_tf.data.validation import checked
from piano_tf.features import SPLITS, FeatureSpec

CONTRACT = "contract"
"""Property of examples: a digest of the columns that they have."""
LISTS = "lists_{split}"
"""Properties of examples: how many lists each split has."""
_MOST_FILES = 256  # all of them are open at once


class CheckedParquetExecutor(parquet_executor.Executor):
    """Parquet to tf.Examples as TFX's ParquetExecutor, behind `piano_tf.data.logs.check_log`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Reads the three splits into tf.Examples.

        Raises:
          LogError: The log breaks the contract of `piano_tf.features`.
        """
        log = _log_of(exec_properties)
        check_log(log)
        spec = read_spec(log)
        (examples,) = output_dict[standard_component_specs.EXAMPLES_KEY]
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        parts = [
            (str(file), artifact_utils.get_split_uri([examples], split))
            for split in SPLITS
            for file in split_files(log, split)
        ]
        with self._make_beam_pipeline() as pipeline:
            files = pipeline | "Files" >> beam.Create(parts) | "Apart" >> beam.Reshuffle()
            files | "Write" >> beam.MapTuple(functools.partial(write_examples, spec=spec))
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        columns = spec.model_dump_json()
        for split in SPLITS:
            count = sum(map(rows_of, split_files(log, split)))
            examples.set_int_custom_property(LISTS.format(split=split), count)
        examples.set_string_custom_property(CONTRACT, hashlib.sha256(columns.encode()).hexdigest())


def write_examples(file: str, folder: str, *, spec: FeatureSpec) -> None:
    """Deals the lists of a Parquet file out to files of tf.Examples, each in an order of its own.

    Each gets lists of all times, about as many as the buffer in which training shuffles takes:
    whoever reads one file after another, or several at once, gets lists of all times from anywhere
    in them. The same lists are dealt out alike every time, and days not in step with each other.

    Args:
      file: Of a log that keeps the contract.
      folder: Where to write gzipped TFRecord files; made if it is not there.
      spec: The log's columns.
    """
    rows = rows_of(Path(file))
    count = min(max(1, -(-rows // SHUFFLED_AT_ONCE)), _MOST_FILES)
    tf.io.gfile.makedirs(folder)
    names = [f"{folder}/{Path(file).stem}-{number:05d}.gz" for number in range(count)]
    rng = np.random.default_rng(_seed_of(Path(file)))
    encoder = example_coder.RecordBatchToExamplesEncoder()
    with contextlib.ExitStack() as stack:
        # They are read once more, and then written for good.
        quick = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        writers = [stack.enter_context(tf.io.TFRecordWriter(name, quick)) for name in names]
        for batch in checked(read_batches([Path(file)]), spec, source=file):
            dealt = rng.permutation(batch.num_rows) % count
            for number, example in zip(dealt, encoder.encode(_as_examples(batch)), strict=True):
                writers[number].write(example)
    for name in names:
        _shuffle(name, rng)


def _seed_of(file: Path) -> int:
    """From its first list, of which no other file has one alike."""
    first = next(read_batches([file], rows=1, columns=["list_id"]), None)
    return 0 if first is None else zlib.crc32("".join(first.column(0).to_pylist()).encode())


def _shuffle(name: str, rng: np.random.Generator) -> None:
    """Writes the examples of a file again, in another order."""
    examples = [*tf.data.TFRecordDataset(name, "GZIP").as_numpy_iterator()]
    with tf.io.TFRecordWriter(name, "GZIP") as writer:
        for number in rng.permutation(len(examples)):
            writer.write(examples[number])


def _as_examples(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Each value as a list of bytes or numbers; what is "", 0 or empty is left out, as TFX does."""
    return pa.RecordBatch.from_arrays(
        [_as_lists(array) for array in batch.columns], names=batch.schema.names
    )


def _as_lists(array: pa.Array) -> pa.ListArray:
    if pa.types.is_list(array.type):
        values, lengths = array.flatten(), np.diff(array.offsets.to_numpy())
    else:
        nothing = "" if pa.types.is_string(array.type) else 0
        present = pc.not_equal(array, nothing)
        values, lengths = array.filter(present), present.cast(pa.int8()).to_numpy()
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    # A list without an offset of its own is none; it has no values to give to another.
    absent = np.append(lengths == 0, False)
    offsets = np.append(0, np.cumsum(lengths, dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32(), mask=absent), values)


def _log_of(exec_properties: dict[str, Any]) -> Path:
    """The folder above the splits; by now the driver has put the day into their patterns."""
    asked = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], asked)
    base = Path(exec_properties[standard_component_specs.INPUT_BASE_KEY])
    return base / Path(asked.splits[0].pattern).parent.parent
