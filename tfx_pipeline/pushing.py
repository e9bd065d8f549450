"""Pusher's executor: a model is pushed whole, and not again where it is the newest already."""

from __future__ import annotations

import filecmp
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, proto_utils

from piano_tf.files import whole_folder
from tfx_pipeline.gates.blessing import is_withdrawn


class OncePusher(executor.Executor):
    """TFX's own, to a folder of the file system, but that a server never sees half a version.

    TFX copies file by file, so that a full disk or a kill leaves half a model there. A version that
    is the newest already, file by file, is not pushed again but recorded as what this model was
    pushed as: so it is where nothing has changed since the last run, and where a run was killed
    between the copying of a model and its record. A model that was withdrawn is not pushed again,
    whoever blesses it.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model if it is blessed; its version is the time, or one more than the last.

        The record's copy comes first: where that finds no room, nothing new is served.
        """
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        pushed = Path(destination.filesystem.base_directory)
        record = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        trained = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        if is_withdrawn(trained) or not self.CheckBlessing(input_dict):
            self._MarkNotPushed(record)
            return
        model, served = Path(self.GetModelPath(input_dict)), newest_version(pushed)
        io_utils.copy_dir(str(model), record.uri)
        if served is not None and same_files(model, served):
            logging.info("%s is this model already: not pushed again", served)
            version = served
        else:
            version = _push(model, pushed, 0 if served is None else int(served.name) + 1)
        self._MarkPushed(record, pushed_destination=str(version), pushed_version=version.name)


def _push(model: Path, pushed: Path, least: int) -> Path:
    """Makes a version of a model, whose number is the time but not below `least`; its folder."""
    for half in pushed.glob(".[0-9]*.*"):  # of a run that was killed
        shutil.rmtree(half)
    version = pushed / str(max(int(time.time()), least))
    with whole_folder(version) as partial:
        shutil.copytree(model, partial, dirs_exist_ok=True)
    return version


def whole_versions(pushed: Path) -> list[Path]:
    """The folders of the versions that are whole, the highest last."""
    versions = [
        path
        for path in pushed.glob("*")
        if path.name.isdecimal() and (path / "saved_model.pb").is_file()
    ]
    return sorted(versions, key=lambda path: int(path.name))


def newest_version(pushed: Path) -> Path | None:
    """The folder of the highest version that is whole, if there is any."""
    return next(reversed(whole_versions(pushed)), None)


def same_files(left: Path, right: Path) -> bool:
    """Whether two folders hold the same files with the same content."""
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (left, right)
    ]
    return names[0] == names[1] and all(
        filecmp.cmp(left / name, right / name, shallow=False) for name in names[0]
    )
