"""Probes, reflection, encryption, and how a server ends."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import adding_model
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.server import ModelServer, ServerOptions, ServingError, credentials

PATIENCE_S = 120.0
NO_PROXY = [("grpc.enable_http_proxy", 0)]
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
PREDICTION = "tensorflow.serving.PredictionService"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pushed"
    folder.mkdir()
    adding_model.push(folder, 7)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    with ModelServer(folder, port=0, options=ServerOptions(poll_s=0)) as server:
        yield server


@pytest.fixture
def channel(server: ModelServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, NO_PROXY) as channel:
        yield channel


def health(channel: grpc.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    return stub.Check(request, timeout=PATIENCE_S).status


class TestHealth:
    @pytest.mark.parametrize("service", ["", PREDICTION, "PredictionService", "ModelService"])
    def test_serving(self, channel: grpc.Channel, service: str) -> None:
        assert health(channel, service) == SERVING

    def test_unknown_service(self, channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            health(channel, "PianoService")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    def test_follows_the_model(
        self, server: ModelServer, channel: grpc.Channel, folder: Path
    ) -> None:
        shutil.rmtree(folder / "7")
        server.versions.refresh()
        assert health(channel) == NOT_SERVING
        adding_model.push(folder, 8)
        server.versions.refresh()
        server.versions.refresh()
        assert health(channel) == SERVING

    def test_watcher_is_told_of_the_end(self, folder: Path) -> None:
        options = ServerOptions(poll_s=0, grace_s=0.1)
        server = ModelServer(folder, port=0, options=options)
        server.start()
        with grpc.insecure_channel(server.address, NO_PROXY) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=PATIENCE_S
            )
            assert next(watch).status == SERVING
            server.stop()
            assert next(watch).status == NOT_SERVING


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=PREDICTION),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests), timeout=PATIENCE_S)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {PREDICTION, "tensorflow.serving.ModelService", "grpc.health.v1.Health"}
    file = FileDescriptorProto.FromString(
        described.file_descriptor_response.file_descriptor_proto[0]
    )
    assert "Predict" in {method.name for method in file.service[0].method}


def self_signed(name: str) -> tuple[str, str]:
    """A key and a certificate for it, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), certificate.public_bytes(pem).decode()


def ssl_config(path: Path, **fields: str | bool) -> Path:
    # Text format quotes as JSON does, as far as PEM goes.
    path.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in fields.items()))
    return path


class TestTls:
    def test_clients_are_verified_both_ways(self, folder: Path, tmp_path: Path) -> None:
        key, certificate = self_signed("localhost")
        client_key, client_certificate = self_signed("client")
        path = ssl_config(
            tmp_path / "ssl.txt",
            server_key=key,
            server_cert=certificate,
            custom_ca=client_certificate,
            client_verify=True,
        )
        options = ServerOptions(poll_s=0, tls=credentials(path))
        named = [*NO_PROXY, ("grpc.ssl_target_name_override", "localhost")]
        request = adding_model.request(adding_model.inputs())
        with ModelServer(folder, port=0, options=options) as server:

            def ask(key: str | None, chain: str | None) -> grpc.StatusCode:
                trusted = grpc.ssl_channel_credentials(
                    certificate.encode(), key and key.encode(), chain and chain.encode()
                )
                with grpc.secure_channel(server.address, trusted, named) as channel:
                    call = PredictionServiceStub(channel).Predict.future(
                        request, timeout=PATIENCE_S
                    )
                    call.exception()
                    return call.code()

            assert ask(client_key, client_certificate) == grpc.StatusCode.OK
            assert ask(None, None) == grpc.StatusCode.UNAVAILABLE
            with grpc.insecure_channel(server.address, NO_PROXY) as channel:
                call = PredictionServiceStub(channel).Predict.future(request, timeout=PATIENCE_S)
                call.exception()
                assert call.code() == grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("key", "the key and the certificate cannot be used"),
            ("other key", "cannot be used: KEY_VALUES_MISMATCH"),
            ("no certificate", "server_cert is empty, expected PEM"),
            ("no ca", "client_verify needs custom_ca"),
            ("field", 'no field named "key"'),
        ],
    )
    def test_faults_are_named(self, tmp_path: Path, fault: str, message: str) -> None:
        key, certificate = self_signed("localhost")
        fields: dict[str, str | bool] = {"server_key": key, "server_cert": certificate}
        fields |= {
            "key": {"server_key": "no key"},
            "other key": {"server_key": self_signed("localhost")[0]},
            "no certificate": {"server_cert": ""},
            "no ca": {"client_verify": True},
            "field": {"key": key},
        }[fault]
        with pytest.raises(ServingError, match=message):
            credentials(ssl_config(tmp_path / "ssl.txt", **fields))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_command_ends_cleanly_under_load(folder: Path, number: signal.Signals) -> None:
    """Every call is answered, or told that the server is gone; none is cut off in the middle."""
    command = "from piano_tf.cli import main; main()"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "serve", "--model-dir", str(folder)),
            *("--port", "0", "--rest-port", "0", "--batching"),
            *("--model-name", "forte", "--grace-seconds", "60"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("serving forte version 7 on ")
    address = said.split()[-1]
    given = adding_model.inputs()
    codes: list[grpc.StatusCode] = []
    answered = threading.Event()

    def call() -> None:
        with grpc.insecure_channel(address, NO_PROXY) as channel:
            stub = PredictionServiceStub(channel)
            while True:
                try:
                    request = adding_model.request(given, name="forte")
                    response = stub.Predict(request, timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    codes.append(error.code())
                    return
                wanted = adding_model.expected(given, 7)
                assert adding_model.same(adding_model.arrays(response), wanted)
                answered.set()

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert answered.wait(PATIENCE_S)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_S)
    for thread in threads:
        thread.join()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "stopped"
    told = [line.split(" ", 3)[-1] for line in errors.splitlines() if " INFO " in line]
    assert told[:2] == [
        f"loading {what} of {folder}" for what in ("the highest version", "version 7")
    ]
    assert "stopping: requests are answered for 0 s more, those in progress for 60 s after" in told
    # The second is what gRPC says of calls that reach it while it stops.
    assert {*codes} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert len(codes) == len(threads)
    assert "Traceback" not in errors
