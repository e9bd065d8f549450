"""Takes a pushed version back: out of what is served, and of what later runs go on from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.utils import path_utils

from piano_tf.errors import PianoError
from tfx_pipeline.configs import Home
from tfx_pipeline.gates.blessing import BLESSED, MODEL_ID, WITHDRAWN
from tfx_pipeline.lineage import MODEL_GATE, PUSHED_VERSION, open_store, stage_of
from tfx_pipeline.local_runner import alone
from tfx_pipeline.pushing import newest_version, same_files, whole_versions


@dataclasses.dataclass(frozen=True)
class Withdrawn:
    """What came of it.

    Attributes:
      folder: The version, which is gone.
      models: Ids in ML Metadata of the models that were pushed as it.
      served: The version that a server takes now, if there is any.
    """

    folder: Path
    models: tuple[int, ...]
    served: Path | None


def withdraw(home: Home, version: str, *, force: bool = False) -> Withdrawn:
    """Takes a version from the pushed folder, and the model gate's blessing from its model.

    The blessing goes first: where this is killed in between, the same command finishes it.

    Args:
      home: Of the pipeline.
      version: Name of the version's folder.
      force: Whether it may be the only one, so that nothing is served any more.

    Raises:
      PianoError: There is no such version, no run is known to have pushed it, it is the only one,
        or a run is at work.
    """
    if not home.metadata.is_file():
        raise PianoError(f"{home.home}: no pipeline has run there; expected its home")
    with alone(home.home):
        folder = home.pushed / version
        versions = whole_versions(home.pushed)
        if folder not in versions:
            there = ", ".join(path.name for path in versions) or "none"
            raise PianoError(f"{home.pushed}: has no version {version!r}, only {there}")
        if versions == [folder] and not force:
            raise PianoError(
                f"{folder}: is the only version, without which nothing is served; --force "
                "withdraws it all the same"
            )
        store = open_store(home)
        models = _models(store, folder)
        if not models:
            raise PianoError(f"{folder}: no run in {home.home} is known to have pushed it")
        _take_back(store, models)
        _remove(folder)
        return Withdrawn(folder, tuple(sorted(models)), newest_version(home.pushed))


def _models(store: metadata_store.MetadataStore, folder: Path) -> set[int]:
    """Of the models that were pushed as a version, and of those that are it byte for byte.

    A run may not have lived to record its push, and a version may have been damaged since.
    """
    records = [
        record.id
        for record in store.get_artifacts_by_type("PushedModel")
        if record.custom_properties[PUSHED_VERSION].string_value == folder.name
    ]
    pushes = {event.execution_id for event in store.get_events_by_artifact_ids(records)}
    taken = {event.artifact_id for event in store.get_events_by_execution_ids(sorted(pushes))}
    return {
        model.id
        for model in store.get_artifacts_by_type("Model")
        if model.id in taken or same_files(Path(path_utils.serving_model_path(model.uri)), folder)
    }


def _take_back(store: metadata_store.MetadataStore, models: set[int]) -> None:
    """Marks the model gate's blessings of some models."""
    given = [
        blessing
        for blessing in store.get_artifacts_by_type("ModelBlessing")
        if blessing.custom_properties[MODEL_ID].int_value in models
        and blessing.custom_properties[BLESSED].int_value
        and _is_of_model_gate(store, blessing)
    ]
    for blessing in given:
        blessing.custom_properties[BLESSED].int_value = 0
        blessing.custom_properties[WITHDRAWN].int_value = 1
    store.put_artifacts(given)


def _remove(folder: Path) -> None:
    """Takes a version away at once, for whoever serves it, and then its files."""
    aside = folder.with_name(f".{folder.name}.withdrawn")
    folder.rename(aside)
    shutil.rmtree(aside)


def _is_of_model_gate(store: metadata_store.MetadataStore, blessing: mlmd.Artifact) -> bool:
    """Evaluator's blessings are of the same type, and not the last word."""
    made = {
        event.execution_id
        for event in store.get_events_by_artifact_ids([blessing.id])
        if event.type == mlmd.Event.OUTPUT
    }
    stages = (stage_of(store, one) for one in store.get_executions_by_id(sorted(made)))
    return MODEL_GATE in stages
