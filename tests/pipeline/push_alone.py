"""The pipeline's Pusher, called as TFX calls it, without the other stages.

In a process of its own, run as `python push_alone.py MODEL PUSHED`, where MODEL is a folder with a
model for serving in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tfx.types import standard_artifacts

from tfx_pipeline.pushing import OncePusher


def push(
    model: standard_artifacts.Model, pushed: Path, *, blessed: int = 1
) -> standard_artifacts.PushedModel:
    """OncePusher on a model; its record, which is beside the model."""
    blessing, record = standard_artifacts.ModelBlessing(), standard_artifacts.PushedModel()
    record.uri = str(Path(model.uri).parent / "record")
    blessing.set_int_custom_property("blessed", blessed)
    destination = {"filesystem": {"base_directory": str(pushed)}}
    OncePusher().Do(
        {"model": [model], "model_blessing": [blessing]},
        {"pushed_model": [record]},
        {"push_destination": json.dumps(destination)},
    )
    return record


def model_at(folder: Path) -> standard_artifacts.Model:
    """A model that nobody has withdrawn."""
    model = standard_artifacts.Model()
    model.uri = str(folder)
    return model


if __name__ == "__main__":
    push(model_at(Path(sys.argv[1])), Path(sys.argv[2]))
