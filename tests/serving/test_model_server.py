"""The local server, spoken to with TensorFlow Serving's own stubs and none of our client."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from serving.server import ModelServer, ServerOptions, ServingError

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
OUTPUTS = {"score", "click", "conversion", "order", "list_click", "list_conversion"}
EXPLAINED = {"list_click_value", "list_conversion_value", "history_attention"}

# Two lists of three and of two candidates; the second user listened to artist `b` a day ago.
COLUMNS: dict[str, Any] = {
    "list_id": ["l0", "l1"],
    "user_id": ["ada", "grace"],
    "query": ["so what", "øre"],
    "timestamp": np.array([1_700_000_000, 2**40]),
    "item_id": [["x", "y", "z"], ["x", "y", ""]],
    "initial_score": np.array([[0.1, 0.3, 0.2], [0.4, 0.2, 0.0]], np.float32),
    "item_artist": [["a", "b", "c"], ["a", "b", ""]],
    "item_popularity": np.zeros((2, 3), np.float32),
    "user_country": ["IT", "IT"],
    "history_query": [[""], ["blue"]],
    "history_item_id": [[""], ["y"]],
    "history_action": [[""], ["click"]],
    "history_age": np.array([[0.0], [1.0]], np.float32),
    "history_item_artist": [[""], ["b"]],
}
LOWEST = np.finfo(np.float32).min
SCORES = np.array([[0.1, 0.3, 0.2], [0.4, 0.2 + 1 / (1 + 1), LOWEST]], np.float32)
ORDER = [[1, 2, 0], [1, 0, 2]]


def predict_request(inputs: dict[str, Any] | None = None, **spec: Any) -> PredictRequest:
    """A good request, for the whole model unless `inputs` says otherwise."""
    request = PredictRequest(model_spec=ModelSpec(**{"name": "piano", **spec}))
    for name, value in (COLUMNS if inputs is None else inputs).items():
        tensor = value if isinstance(value, TensorProto) else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(tensor)
    return request


def arrays(response: Any) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def refusal(method: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        method(request)
    return caught.value.code(), caught.value.details()


def version(number: int) -> Any:
    spec = ModelSpec()
    spec.version.value = number
    return spec.version


class TestPredict:
    def test_default_signature_returns_every_output(self, predictions: Any) -> None:
        outputs = arrays(predictions.Predict(predict_request()))
        assert outputs.keys() == OUTPUTS
        np.testing.assert_allclose(outputs["score"], SCORES, rtol=1e-6)
        np.testing.assert_array_equal(outputs["order"], ORDER)
        click = np.where([[1, 1, 1], [1, 1, 0]], 1 / (1 + np.exp(-SCORES.clip(0))), 0)
        np.testing.assert_allclose(outputs["click"], click, rtol=1e-6)
        np.testing.assert_allclose(outputs["list_click"], 1 - (1 - click).prod(axis=1), rtol=1e-6)

    def test_echoes_the_resolved_model_spec(self, predictions: Any) -> None:
        spec = predictions.Predict(predict_request()).model_spec
        assert (spec.name, spec.signature_name, spec.version.value) == (
            "piano",
            "serving_default",
            12,
        )
        assert spec.WhichOneof("version_choice") == "version"

    def test_version_may_be_named(self, predictions: Any) -> None:
        response = predictions.Predict(predict_request(version=version(12)))
        assert arrays(response).keys() == OUTPUTS

    def test_examples_answer_as_columns_do(self, predictions: Any) -> None:
        examples = [_example(row) for row in range(2)]
        request = predict_request({"examples": examples}, signature_name="serve_examples")
        response = predictions.Predict(request)
        assert response.model_spec.signature_name == "serve_examples"
        by_columns = arrays(predictions.Predict(predict_request()))
        for name, output in arrays(response).items():
            np.testing.assert_array_equal(output, by_columns[name], err_msg=name)

    def test_an_example_that_only_tensorflow_cannot_read(self, predictions: Any) -> None:
        """It knows no groups, and quotes what it cannot read, which is no text."""
        group = b"\x1b\x08\xc0\x01\x1c"
        request = predict_request(
            {"examples": [_example(0) + group]}, signature_name="serve_examples"
        )
        with pytest.raises(grpc.RpcError) as caught:
            predictions.Predict(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith("Could not parse example input, value: ")

    def test_output_filter_selects(self, predictions: Any) -> None:
        request = predict_request()
        request.output_filter.extend(["order", "list_click"])
        assert predictions.Predict(request).outputs.keys() == {"order", "list_click"}

    def test_outputs_travel_in_typed_fields(self, predictions: Any) -> None:
        outputs = predictions.Predict(predict_request()).outputs
        np.testing.assert_allclose(outputs["score"].float_val, SCORES.ravel(), rtol=1e-6)
        assert list(outputs["order"].int_val) == np.ravel(ORDER).tolist()

    def test_the_server_knows_how_long_a_caller_waits(
        self, server: ModelServer, predictions: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it then does with a call that waits too long: test_running.py, test_batching.py."""
        left = []
        run = server.api.run

        def seen(*arguments: Any) -> Any:
            left.append(arguments[-1].seconds_left())
            return run(*arguments)

        monkeypatch.setattr(server.api, "run", seen)
        predictions.Predict(predict_request(), timeout=60)
        predictions.Predict(predict_request())
        # gRPC sends a deadline rounded up, so a little more than 60 seconds may be left.
        assert 0 < left[0] < 61
        assert left[1] is None

    def test_every_kind_of_output(self, predictions: Any) -> None:
        inputs = {"pair": np.array([2.0, -4.0]), "scale": np.float64(3.0)}
        outputs = arrays(predictions.Predict(predict_request(inputs, signature_name="scale")))
        assert outputs["scaled"].tolist() == [2.0 * 3, -4.0 * 3]
        assert outputs["rounded"].tolist() == [2 * 3, -4 * 3]
        assert outputs["halved"].tolist() == [2.0 * 3 / 2, -4.0 * 3 / 2]
        assert outputs["halved"].dtype == np.float16
        assert outputs["positive"].tolist() == [True, False]
        assert outputs["unit"].item() == b"dB"


def _example(row: int) -> bytes:
    """One row of COLUMNS as a serialized tf.Example, without its padding."""
    example = tf.train.Example()
    for name, column in COLUMNS.items():
        feature = example.features.feature[name]
        values = np.atleast_1d(column[row])
        if values.dtype.kind == "f":
            like = COLUMNS.get("history_item_id" if name.startswith("history_") else "item_id")
            real = sum(text != "" for text in like[row])
            feature.float_list.value.extend(values[:real])
        elif values.dtype.kind == "i":
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(value.encode() for value in values if value)
    return example.SerializeToString()


class TestRefusals:
    """The table of status codes, row by row."""

    @pytest.mark.parametrize(
        ("spec", "code", "message"),
        [
            ({"name": ""}, INVALID_ARGUMENT, "ModelSpec has no name specified."),
            ({"name": "m"}, NOT_FOUND, "Servable not found for request: Latest(m)"),
            (
                {"name": "m", "version": version(7)},
                NOT_FOUND,
                "Servable not found for request: Specific(m, 7)",
            ),
            (
                {"version": version(3)},
                NOT_FOUND,
                "Servable not found for request: Specific(piano, 3)",
            ),
            (
                {"version": version(0)},
                NOT_FOUND,
                "Servable not found for request: Specific(piano, 0)",
            ),
            (
                {"version_label": "stable"},
                INVALID_ARGUMENT,
                "Unrecognized servable version label: stable",
            ),
            (
                {"signature_name": "tune"},
                grpc.StatusCode.FAILED_PRECONDITION,
                'Serving signature key "tune" not found.',
            ),
        ],
    )
    def test_model_spec(
        self, predictions: Any, spec: dict[str, Any], code: grpc.StatusCode, message: str
    ) -> None:
        assert refusal(predictions.Predict, predict_request(**spec)) == (code, message)

    def test_missing_model_spec(self, predictions: Any, models: Any) -> None:
        expected = (INVALID_ARGUMENT, "Missing ModelSpec")
        assert refusal(predictions.Predict, PredictRequest()) == expected
        assert refusal(predictions.GetModelMetadata, GetModelMetadataRequest()) == expected
        assert refusal(models.GetModelStatus, GetModelStatusRequest()) == expected

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda inputs: inputs.clear(), "Sent extra: {}. Missing but required: {history_act"),
            (lambda inputs: inputs.pop("query"), "Missing but required: {query}."),
            (lambda inputs: inputs.update(mood=["blue"]), "Sent extra: {mood}."),
            (
                lambda inputs: inputs.update(timestamp=np.array([1, 2], np.int32)),
                "input timestamp has dtype DT_INT32, expected DT_INT64",
            ),
            (
                lambda inputs: inputs.update(query=TensorProto()),
                "input query has dtype DT_INVALID, expected DT_STRING",
            ),
            (
                lambda inputs: inputs.update(query=TensorProto(dtype=4711)),
                "input query has dtype 4711, expected DT_STRING",
            ),
            (
                lambda inputs: inputs.update(item_id=["x", "y"]),
                "input item_id has shape (2,), expected (None, None)",
            ),
            (
                lambda inputs: inputs.update(history_age=_floats([-1, 1], b"\0" * 8)),
                "input history_age has shape (None, 1), expected (None, None)",
            ),
            (
                lambda inputs: inputs.update(history_age=_floats([2, 1], b"\0" * 7)),
                "input history_age cannot be parsed: ",
            ),
            (
                lambda inputs: inputs.update(history_age=_floats([-2, 1], b"\0" * 8)),
                "input history_age cannot be parsed: ",
            ),
            (
                lambda inputs: inputs.update(timestamp=np.array([1, -1])),
                "the clock runs backwards",
            ),
            (
                lambda inputs: inputs.update(item_popularity=np.zeros((2, 4), np.float32)),
                "input item_popularity has lists of 4, expected 3 as item_id has",
            ),
        ],
    )
    def test_inputs(self, predictions: Any, change: Any, message: str) -> None:
        inputs = dict(COLUMNS)
        change(inputs)
        code, details = refusal(predictions.Predict, predict_request(inputs))
        assert code == INVALID_ARGUMENT
        assert message in details

    def test_static_shape(self, predictions: Any) -> None:
        request = predict_request(
            {"pair": np.zeros(3), "scale": np.float64(1)}, signature_name="scale"
        )
        assert refusal(predictions.Predict, request) == (
            INVALID_ARGUMENT,
            "input pair has shape (3,), expected (2,)",
        )

    @pytest.mark.parametrize(
        ("output_filter", "message"),
        [
            (["order", "mood"], "output tensor alias not found in signature: mood"),
            (["order", "order"], "duplicate output tensor alias: order"),
        ],
    )
    def test_output_filter(self, predictions: Any, output_filter: list[str], message: str) -> None:
        request = predict_request()
        request.output_filter.extend(output_filter)
        code, details = refusal(predictions.Predict, request)
        assert code == INVALID_ARGUMENT
        assert details.startswith(message)

    def test_checks_run_in_order(self, predictions: Any) -> None:
        """Faults are mended one by one, and each time the next one is reported."""
        request = PredictRequest(output_filter=["mood"])
        request.model_spec.signature_name = "tune"
        steps = [
            (lambda: setattr(request.model_spec, "name", "m"), "no name"),
            (lambda: setattr(request.model_spec, "name", "piano"), "Latest(m)"),
            (lambda: request.model_spec.ClearField("signature_name"), "signature key"),
            (lambda: request.MergeFrom(predict_request()), "inputs do not match"),
            (lambda: request.ClearField("output_filter"), "alias not found"),
        ]
        for mend, message in steps:
            assert message in refusal(predictions.Predict, request)[1]
            mend()
        assert predictions.Predict(request).outputs.keys() == OUTPUTS

    def test_long_messages_are_cut(self, predictions: Any) -> None:
        _, details = refusal(predictions.Predict, predict_request({"x" * 5000: 1.0}))
        assert details.endswith("...TRUNCATED")
        assert len(details) == 1024 + len("...TRUNCATED")

    def test_unexpected_failure_is_internal_and_survived(self, predictions: Any) -> None:
        request = predict_request({"path": "no/such/lexicon"}, signature_name="read_lexicon")
        code, details = refusal(predictions.Predict, request)
        assert code == grpc.StatusCode.INTERNAL
        assert "NotFoundError" in details
        assert predictions.Predict(predict_request()).outputs.keys() == OUTPUTS

    def test_other_calls_are_unimplemented(self, predictions: Any, models: Any) -> None:
        for method, request in [
            (predictions.Classify, ClassificationRequest()),
            (predictions.Regress, RegressionRequest()),
            (predictions.MultiInference, MultiInferenceRequest()),
            (models.HandleReloadConfigRequest, ReloadConfigRequest()),
        ]:
            assert refusal(method, request)[0] == grpc.StatusCode.UNIMPLEMENTED


class TestMetadata:
    def request(self, *fields: str, **spec: Any) -> GetModelMetadataRequest:
        return GetModelMetadataRequest(
            model_spec=ModelSpec(**{"name": "piano", **spec}), metadata_field=fields
        )

    def test_describes_the_signatures(self, predictions: Any) -> None:
        response = predictions.GetModelMetadata(self.request("signature_def"))
        assert response.model_spec == ModelSpec(name="piano", version=version(12))
        signatures = SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        signature = signatures.signature_def["serving_default"]
        assert signature.inputs.keys() == COLUMNS.keys()
        assert signature.outputs.keys() == OUTPUTS
        assert signature.inputs["timestamp"].dtype == tf.int64.as_datatype_enum
        assert signature.inputs["item_id"].dtype == tf.string.as_datatype_enum
        assert [dim.size for dim in signature.inputs["item_id"].tensor_shape.dim] == [-1, -1]
        more = {"explain": EXPLAINED, "select_list": {"list_value", "chosen"}}
        for name, outputs in more.items():
            other = signatures.signature_def[name]
            assert other.inputs.keys() == COLUMNS.keys()
            assert other.outputs.keys() == OUTPUTS | outputs
        values = signatures.signature_def["select_list"].outputs["list_value"]
        assert [dim.size for dim in values.tensor_shape.dim] == [-1, 5]

    def test_field_is_checked_before_the_model(self, predictions: Any) -> None:
        for fields in [(), ("signature_def", "cost")]:
            code, _ = refusal(predictions.GetModelMetadata, self.request(*fields, name="m"))
            assert code == INVALID_ARGUMENT

    def test_unknown_model_version_and_label(self, predictions: Any) -> None:
        def code(**spec: Any) -> grpc.StatusCode:
            return refusal(predictions.GetModelMetadata, self.request("signature_def", **spec))[0]

        assert code(name="m") == NOT_FOUND
        assert code(version=version(7)) == NOT_FOUND
        assert code(version_label="stable") == INVALID_ARGUMENT
        assert code(name="") == INVALID_ARGUMENT


class TestStatus:
    @pytest.mark.parametrize(
        "spec", [{}, {"version": version(12)}, {"version_label": "ignored"}], ids=str
    )
    def test_loaded_version_is_available(self, models: Any, spec: dict[str, Any]) -> None:
        request = GetModelStatusRequest(model_spec=ModelSpec(name="piano", **spec))
        (status,) = models.GetModelStatus(request).model_version_status
        assert (status.version, status.state) == (12, ModelVersionStatus.AVAILABLE)
        assert status.status.error_code == 0

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"name": "m"}, "Could not find any versions of model m"),
            ({}, "Could not find any versions of model "),
            ({"name": "piano", "version": version(7)}, "Could not find version 7 of model piano"),
        ],
        ids=str,
    )
    def test_nothing_else_is_found(self, models: Any, spec: dict[str, Any], message: str) -> None:
        request = GetModelStatusRequest()
        request.model_spec.SetInParent()
        request.model_spec.MergeFrom(ModelSpec(**spec))
        assert refusal(models.GetModelStatus, request) == (NOT_FOUND, message)


class TestLifecycle:
    def test_serves_the_highest_integer(self, server: ModelServer) -> None:
        assert server.version == 12

    def test_port_in_use(self, server: ModelServer, model_dir: Path) -> None:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port}: the port"):
            ModelServer(model_dir, port=port).start()

    def test_no_such_port(self, model_dir: Path) -> None:
        with pytest.raises(ServingError, match="port 65536 does not exist"):
            ModelServer(model_dir, port=65536)

    @pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", "a%b", "å"])
    def test_name_that_no_path_can_hold(self, model_dir: Path, name: str) -> None:
        with pytest.raises(ServingError, match=f"the model name is '{name}', expected letters, "):
            ModelServer(model_dir, name)

    @pytest.mark.parametrize("name", ["poll_s", "linger_s", "grace_s"])
    @pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
    def test_time_that_is_none(self, name: str, seconds: float) -> None:
        with pytest.raises(ServingError, match=f"{name} is {seconds:g}, expected 0 seconds or"):
            ServerOptions(**{name: seconds})

    def test_port_is_free_again_after_stop(self, model_dir: Path) -> None:
        with ModelServer(model_dir, port=0) as first:
            port = int(first.address.rpartition(":")[2])
        with ModelServer(model_dir, port=port) as second:
            assert second.address == first.address
        second.wait()  # Returns, since the server has stopped.

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ServingError, match=r"the model folder .*absent does not exist"):
            ModelServer(tmp_path / "absent")

    def test_folder_without_version(self, tmp_path: Path) -> None:
        (tmp_path / "latest").mkdir()
        with pytest.raises(ServingError, match="holds no version"):
            ModelServer(tmp_path)

    def test_version_without_model(self, tmp_path: Path) -> None:
        (tmp_path / "0005").mkdir()
        with pytest.raises(ServingError, match=r"0005 holds no saved_model\.pb"):
            ModelServer(tmp_path)

    @pytest.mark.parametrize("content", [b"not a model", b""])
    def test_corrupt_model(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "saved_model.pb").write_bytes(content)
        with pytest.raises(ServingError, match=r"the SavedModel in .* cannot be loaded"):
            ModelServer(tmp_path)

    def test_model_of_another_name(self, model_dir: Path) -> None:
        with ModelServer(model_dir, model_name="forte", port=0) as server:
            channel = grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)])
            with channel:
                stub = PredictionServiceStub(channel)
                assert stub.Predict(predict_request(name="forte")).model_spec.name == "forte"
                assert refusal(stub.Predict, predict_request())[0] == NOT_FOUND


def test_missing_input_takes_the_signatures_default(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir / "12", tmp_path / "1")
    path = tmp_path / "1" / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    signature = saved.meta_graphs[0].signature_def["scale"]
    signature.defaults["scale"].CopyFrom(tf.make_tensor_proto(np.float64(5)))
    path.write_bytes(saved.SerializeToString())
    with ModelServer(tmp_path, port=0) as server:
        channel = grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)])
        with channel:
            request = predict_request({"pair": np.array([2.0, 3.0])}, signature_name="scale")
            outputs = arrays(PredictionServiceStub(channel).Predict(request))
    assert outputs["scaled"].tolist() == [2.0 * 5, 3.0 * 5]


def _floats(shape: list[int], content: bytes) -> TensorProto:
    """A tensor message that need not be consistent."""
    tensor = TensorProto(dtype=tf.float32.as_datatype_enum, tensor_content=content)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor
