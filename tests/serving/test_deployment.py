"""The deployment files, as far as they can be held to something without a container.

Text protos are parsed as their messages, manifests as the types of Kubernetes's client. The wheel
has no message of batching and monitoring: these are declared here, after TensorFlow Serving's
session_bundle_config.proto and monitoring_config.proto.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from piano_tf import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# Of tensorflow_model_server, by main.cc.
FLAGS = {
    "batching_parameters_file",
    "enable_batching",
    "grpc_channel_arguments",
    "model_config_file",
    "monitoring_config_file",
    "port",
    "rest_api_port",
    "tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism",
}
INT64, TEXT, BOOL = ".google.protobuf.Int64Value", ".google.protobuf.StringValue", "bool"
DECLARED = {
    "PrometheusConfig": {"enable": BOOL, "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".PrometheusConfig"},
    "BatchingParameters": {
        "max_batch_size": INT64,
        "batch_timeout_micros": INT64,
        "max_enqueued_batches": INT64,
        "num_batch_threads": INT64,
        "thread_pool_name": TEXT,
        "allowed_batch_sizes": "[]int64",
        "pad_variable_length_inputs": BOOL,
    },
}


def declared(name: str) -> Any:
    """A message of `DECLARED`; text protos know fields by name, so that any numbers do."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="declared.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for message_name, fields in DECLARED.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            field = message.field.add(name=field_name, number=number)
            field.label = kinds.LABEL_REPEATED if "[]" in kind else kinds.LABEL_OPTIONAL
            kind = kind.removeprefix("[]")
            if kind.startswith("."):
                field.type, field.type_name = kinds.TYPE_MESSAGE, kind
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(name))()


def parsed(file: str, message: Any) -> Any:
    return text_format.Parse((DEPLOY / file).read_text(), message)


def flags(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_every_text_proto_is_checked() -> None:
    assert {path.name for path in DEPLOY.glob("*.config")} == {
        "batching.config",
        "models.config",
        "monitoring.config",
    }


def test_models() -> None:
    (model,) = parsed("models.config", ModelServerConfig()).model_config_list.config
    assert (model.name, model.model_platform) == ("piano", "tensorflow")
    assert model.base_path.startswith("/")
    assert model.model_version_policy.latest.num_versions == 1


def test_monitoring() -> None:
    config = parsed("monitoring.config", declared("MonitoringConfig")).prometheus_config
    assert config.enable
    assert (
        config.path
        == manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"][
            "prometheus.io/path"
        ]
    )


def test_batching() -> None:
    """By the rules of its proto; padding by the server would add candidates."""
    config = parsed("batching.config", declared("BatchingParameters"))
    sizes = [*config.allowed_batch_sizes]
    assert sizes == sorted({*sizes})
    assert sizes[-1] == config.max_batch_size.value
    assert config.num_batch_threads.value >= 1
    assert not config.pad_variable_length_inputs


def test_a_misspelt_field_is_found() -> None:
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batchsize { value: 1 }", declared("BatchingParameters"))


# --- containers ---


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["piano"]


def manifests() -> dict[str, Any]:
    """Kind -> manifest."""
    named = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    assert {DEPLOY / name for name in named} == {*(DEPLOY / "kubernetes").glob("*.yaml")}
    found = [yaml.safe_load((DEPLOY / name).read_text()) for name in named]
    return {manifest["kind"]: manifest for manifest in found}


def container() -> dict[str, Any]:
    (only,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def test_the_image_is_of_the_version_that_the_client_is_tested_with() -> None:
    (version,) = re.findall(
        r"^tensorflow-serving-api==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    images = {compose()["image"], container()["image"]}
    assert images == {f"tensorflow/serving:{version}"}


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_flags_are_the_servers_and_name_files_that_are_there(where: str) -> None:
    given = flags(compose()["command"] if where == "compose" else container()["args"])
    assert given.keys() <= FLAGS
    assert (given["port"], given["rest_api_port"]) == ("8500", "8501")
    for name, value in given.items():
        if name.endswith("_file"):
            assert (DEPLOY / Path(value).name).is_file()
            assert Path(value).parent == Path("/config")


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_threads_are_those_of_the_local_server(where: str) -> None:
    given = flags(compose()["command"] if where == "compose" else container()["args"])
    defaults = {parameter.name: parameter.default for parameter in cli.serve.params}
    for kind in ("intra_op", "inter_op"):
        assert int(given[f"tensorflow_{kind}_parallelism"]) == defaults[f"{kind}_threads"]


def test_compose_mounts_what_is_there_and_opens_this_machine_alone() -> None:
    service = compose()
    targets = {volume["target"]: volume for volume in service["volumes"]}
    assert all(volume["read_only"] for volume in targets.values())
    for target, volume in targets.items():
        if target != "/models/piano":
            assert (DEPLOY / volume["source"]).is_file()
            assert Path(target).name == Path(volume["source"]).name
    assert {value for name, value in flags(service["command"]).items() if "_file" in name} <= {
        *targets
    }
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def strangers(value: Any, kind: str, path: str) -> Iterator[str]:
    """What in a manifest no field of Kubernetes's types is called."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        for index, one in enumerate(value):
            yield from strangers(one, match[1], f"{path}[{index}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        for name, one in value.items():
            yield from strangers(one, match[1], f"{path}.{name}")
    elif hasattr(kubernetes.client, kind):
        model = getattr(kubernetes.client, kind)
        fields = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
        for name, one in value.items():
            if name in fields:
                yield from strangers(one, fields[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif kind == "str" and not isinstance(value, str):
        yield f"{path}: {value!r} is no text"


KINDS = {
    "Deployment": "V1Deployment",
    "PodDisruptionBudget": "V1beta1PodDisruptionBudget",
    "Service": "V1Service",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_manifests_are_of_kubernetes_types(kind: str) -> None:
    manifest = manifests()[kind]
    assert [*strangers(manifest, KINDS[kind], kind)] == []
    # The client's types also refuse what lacks a field that must be there.
    api = kubernetes.client.ApiClient()
    made = api._ApiClient__deserialize(manifest, KINDS[kind])
    assert made.metadata.name == "piano"


def test_a_misspelt_key_is_found() -> None:
    manifest = manifests()["Deployment"]
    manifest["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    assert [*strangers(manifest, "V1Deployment", "Deployment")] == [
        "Deployment.spec.template.spec.containers[0].arguments"
    ]


def test_manifests_fit_each_other() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for port in found["Service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    (model,) = parsed("models.config", ModelServerConfig()).model_config_list.config
    assert mounts == {"models": model.base_path, "config": "/config"}
    for probe in ("startupProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["path"] == f"/v1/models/{model.name}"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_puts_the_configuration_in_place() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert built.keys() == {*KINDS, "ConfigMap"}
    assert built["ConfigMap"]["data"] == {
        path.name: path.read_text() for path in DEPLOY.glob("*.config")
    }
    volumes = built["Deployment"]["spec"]["template"]["spec"]["volumes"]
    (mounted,) = (volume["configMap"]["name"] for volume in volumes if "configMap" in volume)
    assert mounted == built["ConfigMap"]["metadata"]["name"]
