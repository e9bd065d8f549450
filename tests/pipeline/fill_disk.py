"""Fills a disk with each library that a run writes by; prints what is then said of it.

A process of its own: the disk is one that no other sees (`small_disk.py`). Run as
`python fill_disk.py FOLDER`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from piano_tf.disk import full_disk
from piano_tf.files import whole_folder

TOO_MUCH = np.random.default_rng(0).random(1_000_000)  # 8 MB that no compression makes small


def by_python(folder: Path) -> None:
    (folder / "file").write_bytes(TOO_MUCH.tobytes())


def by_numpy(folder: Path) -> None:
    with whole_folder(folder / "made") as partial:
        np.savez(partial / "file.npz", TOO_MUCH)


def by_copying(folder: Path) -> None:
    with whole_folder(folder / "made") as partial:
        shutil.copytree(sys.argv[2], partial, dirs_exist_ok=True)


def by_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"column": TOO_MUCH}), folder / "file.parquet")


def by_tensorflow(folder: Path) -> None:
    tf.io.write_file(str(folder / "file"), TOO_MUCH.tobytes())


def by_checkpoint(folder: Path) -> None:
    with whole_folder(folder / "made") as partial:
        tf.train.Checkpoint(variable=tf.Variable(TOO_MUCH)).write(str(partial / "variables"))


def by_saved_model(folder: Path) -> None:
    module = tf.Module()
    module.variable = tf.Variable(TOO_MUCH)
    with whole_folder(folder / "made") as partial:
        tf.saved_model.save(module, str(partial))


def by_beam(folder: Path) -> None:
    records = [part.tobytes() for part in np.split(TOO_MUCH, 100)]
    with beam.Pipeline() as pipeline:
        pipeline | beam.Create(records) | beam.io.WriteToTFRecord(str(folder / "records"))


def by_metadata(folder: Path) -> None:
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(folder / "metadata.sqlite")
    store = MetadataStore(connection)
    kind = store.put_artifact_type(mlmd.ArtifactType(name="Large"))
    large = mlmd.Artifact(type_id=kind, uri=TOO_MUCH.tobytes().hex())
    store.put_artifacts([large])


def main() -> None:
    folder = Path(sys.argv[1])
    said = {}
    writers: dict[str, Callable[[Path], None]] = {
        name.removeprefix("by_"): value for name, value in globals().items() if name[:3] == "by_"
    }
    for name, write in writers.items():
        (folder / name).mkdir()
        try:
            write(folder / name)
        except Exception as error:
            found = full_disk(error, [Path("/"), folder])
            said[name] = f"{type(error).__name__}: {error}" if found is None else found
        shutil.rmtree(folder / name)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
