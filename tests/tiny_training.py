"""`train_tiny.py` in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).with_name("train_tiny.py")

Found = Mapping[str, np.ndarray]


def start(*arguments: str | Path, cluster: dict | None = None) -> subprocess.Popen[str]:
    """Begins a training.

    Args:
      *arguments: Of `train_tiny.py`.
      cluster: TF_CONFIG.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if cluster is not None:
        environment["TF_CONFIG"] = json.dumps(cluster)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], output: Path) -> Found:
    """What a training wrote."""
    said, _ = process.communicate()
    assert process.returncode == 0, said
    with np.load(output) as found:
        return dict(found)


def clusters(count: int) -> list[dict]:
    """TF_CONFIG of each of so many workers on this machine, the chief's first.

    They meet at ports that nothing listens on.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    workers = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(count)
    ]
