"""Pusher's executor: a model that is served already is not pushed again."""

from __future__ import annotations

import filecmp
import logging
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor
from tfx.proto import pusher_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils


class OncePusher(executor.Executor):
    """TFX's own, unless the newest pushed version is this very model, file by file.

    So it is where nothing has changed since the last run, and where a run was killed between the
    copying of a model and its record.
    """

    def CheckBlessing(self, input_dict: dict[str, list[types.Artifact]]) -> bool:
        """Whether to push: blessed, and not served already."""
        if not super().CheckBlessing(input_dict):
            return False
        served = newest_version(self._pushed)
        if served is None or not same_files(Path(self.GetModelPath(input_dict)), served):
            return True
        logging.info("%s is this model already: not pushed again", served)
        return False

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """As TFX's own, to a folder of the file system."""
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        self._pushed = Path(destination.filesystem.base_directory)
        super().Do(input_dict, output_dict, exec_properties)


def newest_version(pushed: Path) -> Path | None:
    """The folder of the highest version that is whole, if there is any."""
    versions = [
        path
        for path in pushed.glob("*")
        if path.name.isdecimal() and (path / "saved_model.pb").is_file()
    ]
    return max(versions, key=lambda path: int(path.name), default=None)


def same_files(left: Path, right: Path) -> bool:
    """Whether two folders hold the same files with the same content."""
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (left, right)
    ]
    return names[0] == names[1] and all(
        filecmp.cmp(left / name, right / name, shallow=False) for name in names[0]
    )
