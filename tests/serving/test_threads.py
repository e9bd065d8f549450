"""That TensorFlow computes with as many threads as the server is told to have."""

from __future__ import annotations

from pathlib import Path

import adding_model
import pytest

from benchmarks.served_model import served
from serving.server import ModelServer, ServerOptions, ServingError, Threads


def threads_of(versions: Path, *options: str) -> int:
    with served(versions, options) as (_, process):
        return process.num_threads()


def test_both_numbers_reach_tensorflow(tmp_path: Path) -> None:
    adding_model.push(tmp_path, 1)
    intra = threads_of(tmp_path, "--intra-op-threads", "100", "--inter-op-threads", "1")
    inter = threads_of(tmp_path, "--intra-op-threads", "1", "--inter-op-threads", "300")
    # Those between operations are made twice, for sessions and for what needs none.
    assert inter - intra == pytest.approx(2 * 299 - 99, abs=20)


def test_threads_that_others_have_made_are_told(tmp_path: Path) -> None:
    adding_model.push(tmp_path, 1)
    with pytest.raises(ServingError, match=r"cannot have Threads\(intra_op=77, inter_op=0\) any"):
        ModelServer(tmp_path, port=0, options=ServerOptions(threads=Threads(intra_op=77)))


def test_numbers_below_zero_are_refused() -> None:
    with pytest.raises(ServingError, match="threads: inter_op is -1, expected 0 or more"):
        Threads(inter_op=-1)
