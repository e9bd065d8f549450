"""Takes a pushed version back: it is not served, nor its model gone on from or pushed again."""

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
from tfx_pipeline.home_lock import alone
from tfx_pipeline.lineage import MODEL_GATE, PUSHED_VERSION, RUN, open_store, stage_of
from tfx_pipeline.pushing import newest_version, same_files, whole_versions
from tfx_pipeline.run_folder import folder_of, mark_withdrawn


@dataclasses.dataclass(frozen=True)
class Withdrawn:
    """What came of it.

    Attributes:
      folder: The version, which is gone.
      models: Ids in ML Metadata of the models that were pushed as it; none where no run lived to
        record that, and half of its files were gone already.
      served: The version that a server takes now, if there is any.
    """

    folder: Path
    models: tuple[int, ...]
    served: Path | None


def withdraw(home: Home, version: str, *, force: bool = False) -> Withdrawn:
    """Takes a version from the pushed folder, and the model gate's blessing from its model.

    The blessing goes first, with a mark on the model, by which it is not blessed or pushed again;
    then the version, at once for whoever serves it; then the cards of the runs that made or took
    the model say so; then its files go. Where this is killed in between, the same command finishes
    it.

    Args:
      home: Of the pipeline.
      version: Name of the version's folder.
      force: Whether it may be the only one, so that nothing is served any more.

    Raises:
      PianoError: There is no such version, no run is known to have pushed it, it is the only one,
        a run is at work, or a card or the folder cannot be changed.
    """
    if not home.metadata.is_file():
        raise PianoError(f"{home.home}: no pipeline has run there; expected its home")
    with alone(home.home):
        store = open_store(home)
        folder, aside = home.pushed / version, home.pushed / f".{version}.withdrawn"
        versions = whole_versions(home.pushed)
        if folder in versions:
            models = _models(store, folder.name, folder)
            _require_withdrawable(home, folder, models, is_only=versions == [folder] and not force)
            _take_back(store, models)
            _set_aside(folder, aside)
        elif aside in home.pushed.glob(".*"):  # of a withdrawal that was cut off
            models = _models(store, folder.name, aside)
        else:
            raise PianoError(_absent(store, home, version, versions))
        _tell(home, store, models, folder.name)
        _remove(aside)
        return Withdrawn(folder, tuple(sorted(models)), newest_version(home.pushed))


def _absent(
    store: metadata_store.MetadataStore, home: Home, version: str, versions: list[Path]
) -> str:
    """Why a version that is not there cannot be withdrawn."""
    pushed = store.get_artifacts_by_id(sorted(_recorded(store, version)))
    if any(model.custom_properties[WITHDRAWN].int_value for model in pushed):
        return f"{home.pushed / version}: was withdrawn before; nothing is left to do"
    there = ", ".join(path.name for path in versions)
    expected = f"expected one of {there}" if there else "there is none at all"
    return f"{home.pushed}: there is no version {version!r}; {expected}"


def _require_withdrawable(home: Home, folder: Path, models: set[int], *, is_only: bool) -> None:
    if is_only:
        raise PianoError(
            f"{folder}: is the only version, without which nothing is served; --force withdraws "
            "it all the same"
        )
    if not models:
        raise PianoError(f"{folder}: no run in {home.home} is known to have pushed it")


def _models(store: metadata_store.MetadataStore, version: str, folder: Path) -> set[int]:
    """Of the models that were pushed as a version, and of those that its folder is byte for byte.

    A run may not have lived to record its push, and a version may have been damaged since.
    """
    recorded = _recorded(store, version)
    return recorded | {
        model.id
        for model in store.get_artifacts_by_type("Model")
        if model.id not in recorded
        and same_files(Path(path_utils.serving_model_path(model.uri)), folder)
    }


def _recorded(store: metadata_store.MetadataStore, version: str) -> set[int]:
    """Ids of the models that runs recorded as pushed as a version."""
    records = [
        record.id
        for record in store.get_artifacts_by_type("PushedModel")
        if record.custom_properties[PUSHED_VERSION].string_value == version
    ]
    pushes = {event.execution_id for event in store.get_events_by_artifact_ids(records)}
    taken = {event.artifact_id for event in store.get_events_by_execution_ids(sorted(pushes))}
    return {one.id for one in store.get_artifacts_by_type("Model") if one.id in taken}


def _take_back(store: metadata_store.MetadataStore, models: set[int]) -> None:
    """Marks some models, and takes the model gate's blessings of them."""
    marked = store.get_artifacts_by_id(sorted(models))
    for model in marked:
        model.custom_properties[WITHDRAWN].int_value = 1
    given = [
        blessing
        for blessing in store.get_artifacts_by_type("ModelBlessing")
        if blessing.custom_properties[MODEL_ID].int_value in models
        and blessing.custom_properties[BLESSED].int_value
        and _is_of_model_gate(store, blessing)
    ]
    for blessing in given:
        blessing.custom_properties[BLESSED].int_value = 0
    store.put_artifacts([*marked, *given])


def _set_aside(folder: Path, aside: Path) -> None:
    """Takes a version away at once, for whoever serves it."""
    try:
        folder.rename(aside)
    except OSError as error:
        raise PianoError(
            f"{folder}: is served still, for it cannot be renamed ({error.strerror}); its blessing "
            "is taken back, and the same command goes on"
        ) from error


def _tell(home: Home, store: metadata_store.MetadataStore, models: set[int], version: str) -> None:
    """Says on the cards of some models that they were withdrawn as a version."""
    made = {
        event.execution_id
        for event in store.get_events_by_artifact_ids(sorted(models))
        if event.type == mlmd.Event.OUTPUT
    }
    runs = {
        context.name
        for execution in made
        for context in store.get_contexts_by_execution(execution)
        if context.type == RUN
    }
    for folder in (folder_of(home, run) for run in sorted(runs)):
        try:
            mark_withdrawn(folder, version)
        except (OSError, PianoError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise PianoError(
                f"{folder}: cannot be rewritten ({why}); the version is withdrawn, and once that "
                "is mended the same command goes on"
            ) from error


def _remove(aside: Path) -> None:
    """Removes the files of a version that is set aside."""
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise PianoError(
            f"{aside}: cannot be removed ({error.strerror}); the version is withdrawn, and the "
            "same command goes on"
        ) from error


def _is_of_model_gate(store: metadata_store.MetadataStore, blessing: mlmd.Artifact) -> bool:
    """Evaluator's blessings are of the same type, and not the last word."""
    made = {
        event.execution_id
        for event in store.get_events_by_artifact_ids([blessing.id])
        if event.type == mlmd.Event.OUTPUT
    }
    stages = (stage_of(store, one) for one in store.get_executions_by_id(sorted(made)))
    return MODEL_GATE in stages
