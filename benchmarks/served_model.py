"""A model in a server of its own, and lists to ask it about: what benchmarks of a server share."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from serving.client.connection import channel_to
from serving.client.messages import (
    METHODS,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    SignatureDefMap,
)
from serving.client.model_inputs import Column, pad_batch
from serving.client.search_list import CONTRACT, SearchList
from serving.client.tensors import DTYPES, write_tensor

PIANO = (sys.executable, "-c", "from piano_tf.cli import main; main()")
CONFIG = {"model": {"width": 64, "blocks": 2}, "training": {"epochs": 1}}
LISTS = 16
OUTPUTS = ("order", "score", "click", "conversion", "list_click", "list_conversion")
TIMEOUT_S = 60.0


# --- a model and its server ---


def trained(folder: Path) -> Path:
    """A folder of versions with one model in it, trained as quickly as can be.

    PIANO with two blocks of width 64, one epoch on 2,000 simulated lists: its answers are of no
    worth, and its work is that of any such model.
    """
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for command in (
        f"logs simulated --lists 2000 --output {folder}/logs",
        f"train {folder}/logs --output {folder}/versions/1 --config {folder}/config.json",
    ):
        subprocess.run([*PIANO, *command.split()], check=True, stdout=subprocess.DEVNULL)
    return folder / "versions"


@contextlib.contextmanager
def served(versions: Path, arguments: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """`piano serve` in a process of its own; yields its address, and it."""
    command = [*PIANO, "serve", "--model-dir", str(versions), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if not said:
            sys.exit("the server did not start")
        address = next(word for word in said if re.fullmatch(r".+:\d+", word))
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


def newest(versions: Path) -> Path:
    """The folder of the version that is served."""
    numbered = [child for child in versions.iterdir() if child.name.isdecimal() and child.is_dir()]
    return max(numbered, key=lambda child: int(child.name))


# --- what is asked ---


def columns_of(address: str, model: str) -> dict[str, Column]:
    """The inputs of the model on a server."""
    path, _ = METHODS["GetModelMetadata"]
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    with channel_to(grpc, address, None) as channel:
        response = GetModelMetadataResponse.FromString(
            channel.unary_unary(path)(
                request.SerializeToString(), timeout=TIMEOUT_S, wait_for_ready=True
            )
        )
    signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value)
    return {
        name: Column(name, DTYPES[info.dtype], len(info.tensor_shape.dim))
        for name, info in signatures.signature_def["serving_default"].inputs.items()
    }


def search_lists(
    columns: dict[str, Column], candidates: int, history: int, seed: int = 0
) -> list[SearchList]:
    """Made-up lists with every column that the model takes."""
    rng = np.random.default_rng(seed)

    def values(column: Column, count: int) -> Any:
        if column.name == "history_action":
            return [("click", "conversion")[n % 2] for n in range(count)]
        if column.dtype.kind == "O":
            return [f"{column.name.split('_')[-1]}-{n}" for n in rng.integers(0, 3000, count)]
        if column.dtype.kind == "f":
            return rng.random(count).round(3).tolist()
        return rng.integers(0, 10**9, count).tolist()

    made = []
    for number in range(LISTS):
        row: dict[str, Any] = {}
        for column in columns.values():
            count = candidates if column.along == "item_id" else history
            row[column.name] = values(column, count) if column.rank == 2 else values(column, 1)[0]
        row = {"user_id": "ada", "query": "soul", **row, "list_id": f"list-{number}"}
        own = {name: row.pop(name) for name in CONTRACT if name in row}
        made.append(SearchList(**own, features=row))
    return made


def encoded(lists: Sequence[SearchList], columns: dict[str, Column], model: str) -> list[bytes]:
    """Each list as a request of its own."""
    requests = []
    for search_list in lists:
        request = PredictRequest(output_filter=OUTPUTS)
        request.model_spec.name = model
        for name, array in pad_batch([search_list], columns).items():
            write_tensor(array, request.inputs[name])
        requests.append(request.SerializeToString())
    return requests
