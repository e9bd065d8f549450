"""The pipeline compiled for Kubeflow: whole, in the right order, and with one image."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base.base_executor import BaseExecutor

from tfx_pipeline.configs import environment

IMAGE = "registry.example/piano:1"
BEAM = "--direct_num_workers=3"


@pytest.fixture(scope="module")
def compiled(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specification, written by the command."""
    folder = tmp_path_factory.mktemp("kubeflow")
    done = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.kubeflow_runner", IMAGE, str(folder / "piano.json")],
        env={
            **os.environ,
            **environment(logs=logs, home=folder / "home"),
            "PIANO_BEAM_ARGS": BEAM,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.glob("*.json")] == ["piano.json"]
    return folder / "piano.json"


@pytest.fixture(scope="module")
def spec(compiled: Path) -> pipeline_spec_pb2.PipelineSpec:
    """Held to Kubeflow's own message types: an unknown field is an error."""
    job = json_format.Parse(compiled.read_text(), pipeline_spec_pb2.PipelineJob())
    return json_format.ParseDict(
        json_format.MessageToDict(job.pipeline_spec), pipeline_spec_pb2.PipelineSpec()
    )


def executors(spec: pipeline_spec_pb2.PipelineSpec) -> dict[str, Any]:
    """What each task runs."""
    return json_format.MessageToDict(spec.deployment_spec)["executors"]


def upstream(spec: pipeline_spec_pb2.PipelineSpec, task: str) -> set[str]:
    """All tasks that must be over before one begins."""
    tasks, found, todo = spec.root.dag.tasks, set(), [task]
    while todo:
        new = {*tasks[todo.pop()].dependent_tasks} - found
        found |= new
        todo += new
    return found


def test_every_stage_is_there_and_gates_stand_before_what_they_guard(spec) -> None:
    tasks = {*spec.root.dag.tasks}
    assert tasks >= {"ExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "DataGate"}
    assert tasks >= {"Transform", "Trainer", "Evaluator", "ModelGate", "ServingGate", "Pusher"}
    assert "DataGate" in upstream(spec, "Transform")
    assert upstream(spec, "Pusher") >= {"ModelGate", "ServingGate", "DataGate"}
    assert "ExampleGen" not in upstream(spec, "SchemaGen")
    inputs = spec.root.dag.tasks["Evaluator"].inputs.artifacts
    assert inputs["baseline_model"].task_output_artifact.producer_task.startswith(
        "latest_blessed_model"
    )


def test_every_container_is_of_the_image_and_runs_what_there_is(spec) -> None:
    containers = [one["container"] for one in executors(spec).values() if "container" in one]
    assert len(containers) == 11
    for container in containers:
        assert container["image"] == IMAGE
        arguments = container["args"]
        module, name = arguments[arguments.index("--executor_class_path") + 1].rsplit(".", 1)
        assert issubclass(getattr(importlib.import_module(module), name), BaseExecutor)
        assert BEAM in arguments


def test_the_last_blessed_model_is_that_of_the_newest_blessing_whoever_gave_it(spec) -> None:
    """TFX's compiler asks for the type of the blessing, and drops which stage it is from."""
    blessing, model = (
        executors(spec)[f"latest_blessed_model-{name}-resolver_executor"]["resolver"]
        for name in ("model-blessing", "model")
    )
    assert blessing["outputArtifactQueries"]["model_blessing"]["filter"] == (
        'schema_title="tfx.ModelBlessing" AND state=LIVE AND metadata.blessed.number_value=1'
    )
    assert model["outputArtifactQueries"]["model"]["filter"] == (
        'schema_title="tfx.Model" AND state=LIVE AND '
        "name=\"{{$.inputs.artifacts['input'].metadata['current_model_id']}}\""
    )


def test_vertex_takes_it(compiled: Path) -> None:
    job = aiplatform.PipelineJob(
        display_name="piano",
        template_path=str(compiled),
        project="nowhere",
        location="europe-west4",
        pipeline_root="gs://nowhere",
        credentials=_no_credentials(),
    )
    assert job.pipeline_spec["pipelineInfo"]["name"] == "piano"
    assert json.loads(compiled.read_text())["pipelineSpec"]["schemaVersion"] == "2.0.0"


def _no_credentials():
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()
