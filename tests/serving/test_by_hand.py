"""What docs/serving.md has people send by hand is answered, and it tells of each metric."""

from __future__ import annotations

import http.client
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

from piano_tf.features import FeatureSpec
from piano_tf.warmup import write_warmup
from serving.server import ModelServer, ServerOptions

DOC = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
PATIENCE_S = 120.0
# The columns of the model of these tests.
FEATURES = FeatureSpec(
    dataset="tiny",
    initial_score=True,
    item={"artist": "string", "popularity": "float"},
    user={"country": "string"},
    history_item={"artist": "string"},
)


def commands(program: str) -> list[list[str]]:
    (block,) = re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
    return [shlex.split(line)[1:] for line in block.splitlines() if line.startswith(program)]


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[ModelServer]:
    with ModelServer(model_dir, port=0, options=ServerOptions(rest_port=0)) as server:
        yield server


def fetch(server: ModelServer, url: str, body: str | None = None) -> tuple[int, str]:
    path = url.removeprefix("http://localhost:8501")
    assert path != url
    connection = http.client.HTTPConnection(str(server.rest_address), timeout=PATIENCE_S)
    connection.request("GET" if body is None else "POST", path, body)
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def test_a_request_of_ones_own_model(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    version = tmp_path / "run" / "pushed" / "1"
    version.mkdir(parents=True)
    write_warmup(FEATURES, version)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "docs/serving.md", "exec"), {})
    (*_, data, url), *_ = commands("curl")
    code, answer = fetch(server, url, Path(data.removeprefix("@")).read_text(encoding="utf-8"))
    assert code == 200, answer
    (row,) = json.loads(answer)["predictions"]
    assert sorted(row["order"]) == [*range(10)]


def test_what_a_server_tells_of_itself(server: ModelServer) -> None:
    _, *others = commands("curl")
    (code, status), (also, metadata), (last, _) = (fetch(server, url) for *_, url in others)
    assert code == also == last == 200
    assert json.loads(status)["model_version_status"][0]["state"] == "AVAILABLE"
    signatures = json.loads(metadata)["metadata"]["signature_def"]["signature_def"]
    assert "item_id" in signatures["serving_default"]["inputs"]


def test_the_call_by_grpcurl(server: ModelServer) -> None:
    ((*_, data, _, method),) = commands("grpcurl")
    assert method == "tensorflow.serving.ModelService/GetModelStatus"
    request = json_format.Parse(data, GetModelStatusRequest())
    with grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)]) as channel:
        answer = ModelServiceStub(channel).GetModelStatus(request, timeout=PATIENCE_S)
    assert [version.version for version in answer.model_version_status] == [12]


def test_each_metric_is_told_of(server: ModelServer) -> None:
    *_, (*_, url) = commands("curl")
    _, text = fetch(server, url)
    told = re.findall(r"^\| `([\w:]+)` \|", DOC.split("\n## Metrics\n")[1].split("\n## ")[0], re.M)
    assert sorted(told) == sorted(re.findall(r"^# HELP (\S+)", text, re.M))
