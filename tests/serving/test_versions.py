"""Versions that come and go while the server answers."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adding_model
import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.server import BatchingOptions, ModelServer, ServerOptions, ServingError, servable
from serving.server.errors import Refusal

PATIENCE_S = 120.0
AVAILABLE, END = ModelVersionStatus.AVAILABLE, ModelVersionStatus.END
# Looks at the folder only when it is told to.
BY_HAND = ServerOptions(poll_s=0)


def connect(server: ModelServer) -> grpc.Channel:
    return grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pushed"
    folder.mkdir()
    adding_model.push(folder, 3)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    with ModelServer(folder, port=0, options=BY_HAND) as server:
        yield server


def states(server: ModelServer) -> dict[int, int]:
    with connect(server) as channel:
        request = GetModelStatusRequest()
        request.model_spec.name = "piano"
        found = ModelServiceStub(channel).GetModelStatus(request, timeout=PATIENCE_S)
    return {status.version: status.state for status in found.model_version_status}


def errors(server: ModelServer) -> dict[int, str]:
    return {state.version: state.error for state in server.versions.states() if state.error}


def answered_by(server: ModelServer) -> int:
    """The version that answers, which its scores prove to be the one it says it is."""
    given = adding_model.inputs()
    with connect(server) as channel:
        response = PredictionServiceStub(channel).Predict(
            adding_model.request(given), timeout=PATIENCE_S
        )
    version = response.model_spec.version.value
    assert adding_model.same(adding_model.arrays(response), adding_model.expected(given, version))
    return version


def figures(server: ModelServer) -> dict[str, float]:
    """The metrics by name and labels."""
    lines = server._metrics.text().decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in found}


def look(server: ModelServer) -> None:
    """Twice, since a version is loaded only once its files stand still."""
    server.versions.refresh()
    server.versions.refresh()


def truncate(version: Path) -> None:
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])


def fail_to_load(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, times: int
) -> Iterator[Exception]:
    """Has so many loads fail; gives the failures that are left."""
    failures = itertools.repeat(failure, times)
    load = servable._load

    def fail(*arguments: Any) -> Any:
        for one in failures:
            raise one
        return load(*arguments)

    monkeypatch.setattr(servable, "_load", fail)
    return failures


class TestSwap:
    def test_newer_version_takes_over_and_the_old_one_ends(
        self, server: ModelServer, folder: Path
    ) -> None:
        assert answered_by(server) == 3
        adding_model.push(folder, 5)
        look(server)
        assert answered_by(server) == 5
        assert states(server) == {5: AVAILABLE, 3: END}

    def test_older_version_is_left_alone(self, server: ModelServer, folder: Path) -> None:
        adding_model.push(folder, 2)
        look(server)
        assert states(server) == {3: AVAILABLE}

    def test_removing_the_served_version_goes_back_to_the_best_left(
        self, server: ModelServer, folder: Path
    ) -> None:
        adding_model.push(folder, 5)
        look(server)
        shutil.rmtree(folder / "5")
        look(server)
        assert answered_by(server) == 3
        assert states(server) == {5: END, 3: AVAILABLE}

    def test_removed_version_goes_on_while_no_other_can_be_loaded(
        self, server: ModelServer, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        adding_model.push(folder, 5)
        look(server)
        shutil.rmtree(folder / "5")
        truncate(folder / "3")
        look(server)
        look(server)
        assert answered_by(server) == 5
        warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert warnings == [
            f"version 5 was removed from {folder} and is served still: of what is left, version 3 "
            "cannot be loaded"
        ]
        adding_model.push(folder, 2)
        look(server)
        assert answered_by(server) == 2

    def test_log_says_what_is_loaded_and_what_is_gone_back_to(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "serving")
        adding_model.push(folder, 5)
        with ModelServer(folder, port=0, options=BY_HAND) as server:
            shutil.rmtree(folder / "5")
            look(server)
        told = [re.sub(r"\d+\.\d s", "T s", record.getMessage()) for record in caplog.records]
        assert told == [
            f"loading version 5 of {folder}",
            "version 5: loaded in T s, warmed up with 0 records in T s",
            "version 5 is served",
            f"loading version 3 of {folder}",
            "version 3: loaded in T s, warmed up with 0 records in T s",
            "gone back to version 3 from 5, which was removed",
            "version 5 is closed",
            "stopping: requests are answered for 0 s more, those in progress for 5 s after",
            "version 3 is closed",
        ]

    def test_emptied_folder_unloads_all_and_a_new_version_mends_it(
        self, server: ModelServer, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.rmtree(folder / "3")
        look(server)
        assert caplog.text.count("was emptied: nothing is served in place of version 3") == 1
        assert figures(server)["piano_serving_model_version"] == -1
        with pytest.raises(grpc.RpcError) as caught:
            answered_by(server)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert states(server) == {3: END}
        adding_model.push(folder, 4)
        look(server)
        assert answered_by(server) == 4
        assert figures(server)["piano_serving_model_version"] == 4

    def test_missing_folder_changes_nothing(self, server: ModelServer, folder: Path) -> None:
        folder.rename(folder.with_name("away"))
        look(server)
        assert answered_by(server) == 3

    def test_old_version_is_closed_only_after_its_last_call(
        self, server: ModelServer, folder: Path
    ) -> None:
        given = adding_model.inputs()
        with server.versions.lease() as old:
            adding_model.push(folder, 5)
            look(server)
            assert answered_by(server) == 5
            assert states(server) == {5: AVAILABLE, 3: ModelVersionStatus.UNLOADING}
            request = adding_model.request(given)
            plan, arrays = old.prepare("serving_default", request.inputs, (), BY_HAND.limits)
            assert adding_model.same(plan.run(arrays), adding_model.expected(given, 3))
        server.versions.refresh()
        assert states(server) == {5: AVAILABLE, 3: END}
        with pytest.raises(Refusal, match="being stopped"):
            plan.run(arrays)


class TestRefusedVersions:
    def test_corrupt_version_is_named_and_the_old_one_goes_on(
        self, server: ModelServer, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        truncate(adding_model.push(folder, 5))
        look(server)
        assert answered_by(server) == 3
        assert states(server) == {5: END, 3: AVAILABLE}
        assert "5 cannot be loaded" in errors(server)[5]
        assert "version 5 is refused" in caplog.text

    def test_it_is_tried_again_only_when_its_files_change(
        self, server: ModelServer, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = adding_model.push(folder, 5)
        content = (whole / "saved_model.pb").read_bytes()
        truncate(whole)
        look(server)
        look(server)
        assert caplog.text.count("version 5 is refused") == 1
        (whole / "saved_model.pb").write_bytes(content)
        look(server)
        assert answered_by(server) == 5
        assert errors(server) == {}

    @pytest.mark.parametrize(
        "failure",
        [
            MemoryError("out of memory"),
            OSError(errno.EMFILE, "Too many open files"),
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_what_failed_for_the_moment_is_tried_again(
        self,
        server: ModelServer,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        failure: Exception,
    ) -> None:
        failures = fail_to_load(monkeypatch, failure, times=5)
        adding_model.push(folder, 5)
        look(server)
        assert str(failure) in errors(server)[5]
        assert "version 5 cannot be loaded now, and is tried again, at most 5 times" in caplog.text
        for _ in range(5):
            assert answered_by(server) == 3
            server.versions.refresh()
        assert answered_by(server) == 5
        assert errors(server) == {}
        assert next(failures, None) is None
        assert "is refused" not in caplog.text

    def test_what_goes_on_failing_is_refused_after_five_more_tries(
        self,
        server: ModelServer,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        failures = fail_to_load(monkeypatch, MemoryError("out of memory"), times=100)
        adding_model.push(folder, 5)
        for _ in range(10):
            look(server)
        assert len(list(failures)) == 100 - 6
        assert caplog.text.count("version 5 is refused") == 1
        assert answered_by(server) == 3

    def test_failure_for_the_moment_at_start_is_tried_again_beside_the_next_best(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adding_model.push(folder, 5)
        fail_to_load(monkeypatch, MemoryError("out of memory"), times=1)
        with ModelServer(folder, port=0, options=BY_HAND) as server:
            assert answered_by(server) == 3
            server.versions.refresh()
            assert answered_by(server) == 5

    def test_files_that_cannot_be_listed_now_are_no_change(
        self,
        server: ModelServer,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(path: Any) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as short:
            short.setattr("os.scandir", fail)
            look(server)
            look(server)
        look(server)
        assert caplog.text.count(f"{folder} cannot be read: Too many open files") == 4
        assert figures(server)['piano_serving_version_loads_total{result="loaded"}'] == 1

    def test_version_being_copied_is_left_until_it_stands_still(
        self, server: ModelServer, folder: Path
    ) -> None:
        whole = adding_model.push(folder.parent, 5)
        copy = folder / "5"
        copy.mkdir()
        server.versions.refresh()
        for path in sorted(whole.rglob("*")):
            target = copy / path.relative_to(whole)
            if path.is_dir():
                target.mkdir()
                continue
            shutil.copy(path, target)
            server.versions.refresh()
            assert server.version == 3
        server.versions.refresh()
        assert answered_by(server) == 5
        assert errors(server) == {}

    def test_version_half_copied_at_start_is_loaded_again_when_whole(self, folder: Path) -> None:
        """What was there could be loaded, so that it passed for whole."""
        half = (folder / "3" / "saved_model.pb").read_bytes()
        other = adding_model.push(folder.parent, 3, adds=9.0)
        (folder / "3" / "saved_model.pb").write_bytes((other / "saved_model.pb").read_bytes())
        with ModelServer(folder, port=0, options=BY_HAND) as server:
            (folder / "3" / "saved_model.pb").write_bytes(half)
            server.versions.refresh()
            with pytest.raises(AssertionError):
                answered_by(server)
            server.versions.refresh()
            assert answered_by(server) == 3
            assert states(server) == {3: AVAILABLE}

    def test_served_version_that_breaks_goes_on(
        self, server: ModelServer, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        truncate(folder / "3")
        look(server)
        look(server)
        assert answered_by(server) == 3
        assert states(server) == {3: AVAILABLE}
        assert caplog.text.count("version 3 is refused") == 1
        assert figures(server)['piano_serving_version_loads_total{result="refused"}'] == 1
        assert figures(server)["piano_serving_model_version"] == 3

    def test_of_two_folders_of_one_version_the_plain_one_is_taken(self, folder: Path) -> None:
        adding_model.push(folder, 4, adds=1.0).rename(folder / "04")
        adding_model.push(folder, 4)
        with ModelServer(folder, port=0, options=BY_HAND) as server:
            assert answered_by(server) == 4

    def test_best_of_the_others_is_served_at_start(self, folder: Path) -> None:
        truncate(adding_model.push(folder, 5))
        with ModelServer(folder, port=0, options=BY_HAND) as server:
            assert answered_by(server) == 3
            assert 5 in errors(server)

    def test_only_corrupt_version_is_one_error_at_start(self, folder: Path) -> None:
        truncate(folder / "3")
        with pytest.raises(ServingError, match=r"the SavedModel in .*3 cannot be loaded"):
            ModelServer(folder, port=0)


class TestWarmup:
    def write(self, version: Path, *logs: PredictionLog) -> None:
        path = version / "assets.extra" / "tf_serving_warmup_requests"
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for log in logs:
                writer.write(log.SerializeToString())

    def predict_log(self, **columns: Any) -> PredictionLog:
        log = PredictionLog()
        given = {**adding_model.inputs(), **columns}
        log.predict_log.request.CopyFrom(adding_model.request(given))
        return log

    def test_records_are_run_before_the_version_is_served(
        self, server: ModelServer, folder: Path
    ) -> None:
        version = adding_model.push(folder.parent, 5)
        self.write(version, self.predict_log(), self.predict_log())
        version.rename(folder / "5")
        look(server)
        assert answered_by(server) == 5

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("model", "record 1 failed: .*the clock runs backwards"),
            ("kind", "record 1 is a session_run_log, expected a predict_log"),
            ("message", "is no TFRecord file of PredictionLog"),
        ],
    )
    def test_record_that_fails_keeps_the_version_out(
        self, server: ModelServer, folder: Path, fault: str, message: str
    ) -> None:
        version = adding_model.push(folder.parent, 5)
        bad = self.predict_log(timestamp=np.array([-1]))
        if fault == "kind":
            bad = PredictionLog()
            bad.session_run_log.SetInParent()
        self.write(version, self.predict_log(), bad)
        if fault == "message":
            (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(
                b"this is no record"
            )
        version.rename(folder / "5")
        look(server)
        assert answered_by(server) == 3
        assert re.search(message, errors(server)[5])


@pytest.mark.parametrize("batching", [None, BatchingOptions(most_lists=8)], ids=["single", "batch"])
def test_twenty_swaps_under_load_fail_no_request(
    folder: Path, batching: BatchingOptions | None
) -> None:
    """Four callers never pause while 19 versions take over and one is refused."""
    options = ServerOptions(poll_s=0.01, batching=batching)
    versions, corrupt = range(4, 24), 14
    faults: list[str] = []
    answers: Counter[int] = Counter()
    heard = threading.Condition()
    ended = threading.Event()

    def call(number: int, address: str) -> None:
        given = adding_model.inputs(rows=1 + number % 2, items=2 + number, seed=number)
        request = adding_model.request(given)
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = PredictionServiceStub(channel)
            while not ended.is_set():
                try:
                    response = stub.Predict(request, timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    faults.append(f"{error.code()}: {error.details()}")
                    return
                version = response.model_spec.version.value
                wanted = adding_model.expected(given, version)
                if not adding_model.same(adding_model.arrays(response), wanted):
                    faults.append(f"version {version}: {response}")
                with heard:
                    answers[version] += 1
                    heard.notify_all()

    with ModelServer(folder, port=0, options=options) as server:
        threads = [threading.Thread(target=call, args=(n, server.address)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            for version in versions:
                pushed = adding_model.push(folder.parent, version)
                if version == corrupt:
                    truncate(pushed)
                pushed.rename(folder / str(version))
                if version == corrupt:
                    refused = server.versions.wait_until(lambda: 14 in errors(server), PATIENCE_S)
                    assert refused
                    continue
                with heard:
                    assert heard.wait_for(lambda v=version: answers[v] or faults, PATIENCE_S)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert faults == []
        assert answers.keys() == {3, *versions} - {corrupt}
        gone = {state.version for state in server.versions.states()} - {server.version}
        drained = server.versions.wait_until(
            lambda: all(s.state == END for s in server.versions.states() if s.version in gone),
            PATIENCE_S,
        )
        assert drained
        assert server.version == 23
