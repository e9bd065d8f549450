"""Processes that train: each clean of the others' TensorFlow, and deterministic."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path


@contextlib.contextmanager
def spawned(workers: int) -> Iterator[Executor]:
    """Fresh processes, each with its share of the cores; gone at the end, whatever happened.

    Args:
      workers: How many.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    before = set(multiprocessing.active_children())
    with tempfile.TemporaryDirectory(prefix="piano-") as scratch:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(threads, Path(scratch)),
        )
        try:
            yield pool
        except BaseException:
            # Who interrupts does not want to wait for what is still training.
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(threads: int, scratch: Path) -> None:
    """In a new process, before it imports TensorFlow."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # LightGBM's
    tempfile.tempdir = str(scratch)  # what a terminated process leaves, its parent removes

    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    tf.config.experimental.enable_op_determinism()
