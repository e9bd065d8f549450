"""What ML Metadata knows of the newest run: which stage made what."""

from __future__ import annotations

import dataclasses
import datetime as dt

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.components.example_gen.utils import SPAN_PROPERTY_NAME

from piano_tf.errors import PianoError
from tfx_pipeline.configs import PIPELINE_NAME, Home, PipelineConfig
from tfx_pipeline.origin import FIRST_DAY

MODEL_GATE = "ModelGate"
LAST_MODEL = "latest_blessed_model"
"""The resolver of the model that a run's is held to."""
PUSHED_VERSION = "pushed_version"  # as Pusher says which version it made
RUN = "pipeline_run"  # the type of the context that a run is
_DONE = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)


@dataclasses.dataclass(frozen=True)
class Lineage:
    """What a run made, or took from an earlier one whose inputs were the same.

    Attributes:
      run: When it began, by which TFX calls it.
      outputs: (stage, type) -> artifact, in the order in which they came to be.
      worked: Stages that did their work in this run; of the others it is an earlier one's.
      window: The examples that were trained on, day by day; the run's own are the last.
      baseline: The model that the new one was held against, if there was one.
    """

    run: str
    outputs: dict[tuple[str, str], mlmd.Artifact]
    worked: frozenset[str]
    window: tuple[mlmd.Artifact, ...]
    baseline: mlmd.Artifact | None


def require_complete(config: PipelineConfig) -> None:
    """Raises a `PianoError` if a stage of the newest run failed without stopping it.

    TFX's local runner raises when a stage's work fails, but goes on when its inputs cannot be
    found.
    """
    store = open_store(config)
    for execution in store.get_executions_by_context(_newest_run(store).id):
        if execution.last_known_state not in _DONE:
            state = mlmd.Execution.State.Name(execution.last_known_state)
            stage = stage_of(store, execution)
            raise PianoError(f"{stage}: ended as {state} (the full log is {config.run_log})")


def read_lineage(config: PipelineConfig) -> Lineage:
    """Of the newest run."""
    store = open_store(config)
    run = _newest_run(store)
    outputs: dict[tuple[str, str], mlmd.Artifact] = {}
    window: list[mlmd.Artifact] = []
    baseline, worked = None, set()
    for execution in sorted(store.get_executions_by_context(run.id), key=lambda one: one.id):
        stage = stage_of(store, execution)
        if execution.last_known_state == mlmd.Execution.COMPLETE:
            worked.add(stage)
        events = store.get_events_by_execution_ids([execution.id])
        for artifact in store.get_artifacts_by_id([event.artifact_id for event in events]):
            (event,) = (one for one in events if one.artifact_id == artifact.id)
            if event.type == mlmd.Event.OUTPUT:
                outputs[stage, artifact.type] = artifact
            elif (stage, artifact.type) == (LAST_MODEL, "Model"):
                baseline = artifact  # of a resolver, which makes nothing
            elif (stage, artifact.type) == ("Transform", "Examples"):
                window.append(artifact)
    window.sort(key=day_of)
    return Lineage(run.name, outputs, frozenset(worked), tuple(window), baseline)


def newly_pushed(config: PipelineConfig, record: mlmd.Artifact) -> str:
    """The version that a record of Pusher's is the first to name; "" where it is not the first."""
    version = record.custom_properties[PUSHED_VERSION].string_value
    before = [
        one.custom_properties[PUSHED_VERSION].string_value
        for one in open_store(config).get_artifacts_by_type(record.type)
        if one.id < record.id
    ]
    return "" if version in before else version


def day_of(examples: mlmd.Artifact) -> dt.date:
    """The day that examples are of; `FIRST_DAY` where a log is not divided into days."""
    return FIRST_DAY + dt.timedelta(examples.custom_properties[SPAN_PROPERTY_NAME].int_value)


def open_store(home: Home) -> metadata_store.MetadataStore:
    """ML Metadata of all runs."""
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(home.metadata)
    return metadata_store.MetadataStore(connection)


def _newest_run(store: metadata_store.MetadataStore) -> mlmd.Context:
    return max(store.get_contexts_by_type(RUN), key=lambda run: run.id)


def stage_of(store: metadata_store.MetadataStore, execution: mlmd.Execution) -> str:
    """The stage whose work an execution is."""
    (name,) = (
        context.name
        for context in store.get_contexts_by_execution(execution.id)
        if context.type == "node"
    )
    return name.removeprefix(f"{PIPELINE_NAME}.")
