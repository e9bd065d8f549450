"""The whole path for real: logs, `tfx run create`, the pushed model, a server, an answer."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from pipeline_run import CONFIG, THRESHOLDS, Run, piano, run_pipeline, written
from tiny_training import clusters
from trainer_alone import Training, assert_same_models

from piano_tf import NDCG, Encoder, FeatureSpec, ModelCard, ServingModule, dataset, export_model
from piano_tf.config import Config
from piano_tf.data.batches import raw_batches
from piano_tf.data.logs import find_list, read_spec, split_files
from piano_tf.features import LABELS, Axis
from piano_tf.masks import mask_of
from piano_tf.training import fit
from serving.client import RerankClient, SearchList
from serving.server import ModelServer
from tfx_pipeline.configs import PipelineConfig, environment
from tfx_pipeline.run_folder import Outcome
from tfx_pipeline.summary import read_summary
from tfx_pipeline.transform import EncodingSpec, TransformEncoder, encoded_dataset, input_spec

STAGES = (
    "ExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "last_accepted_data",
    "DataGate",
    "Transform",
    "Trainer",
    "latest_blessed_model",
    "Evaluator",
    "ModelGate",
    "ServingGate",
    "Pusher",
)


def versions(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "pushed").glob("*"))


def card(printed: str) -> Path:
    """The model card that a run names."""
    (line,) = (one for one in printed.splitlines() if one.startswith("model card: "))
    return Path(line.removeprefix("model card: "))


def outcome(printed: str) -> Outcome:
    """What a run wrote for a schedule."""
    return Outcome.load(card(printed).with_name("outcome.json"))


def newest(home: Path, pattern: str) -> Path:
    """The newest output of a stage; TFX numbers them."""
    found = sorted((home / "artifacts").glob(pattern), key=lambda path: int(path.name))
    return found[-1]


def pipeline_config(run: Run) -> PipelineConfig:
    thresholds = written(run.home.parent / "again.json", THRESHOLDS)
    return PipelineConfig.from_environment(
        environment(logs=run.logs, home=run.home, thresholds=thresholds)
    )


@pytest.fixture(scope="module")
def encoding(first_run: Run) -> EncodingSpec:
    return EncodingSpec(features=read_spec(first_run.logs), encoding=first_run.config.encoding)


@pytest.fixture(scope="module")
def transformed(first_run: Run) -> tft.TFTransformOutput:
    return tft.TFTransformOutput(str(newest(first_run.home, "Transform/transform_graph/*")))


@pytest.fixture(scope="module")
def keras_encoder(first_run: Run) -> Encoder:
    return Encoder.fit(first_run.logs, first_run.config.encoding)


def raw(logs: Path, features: FeatureSpec, rows: int) -> dict[str, tf.Tensor]:
    batch = next(raw_batches(logs, "test", features, rows=rows))
    return {name: tf.constant(values) for name, values in batch.items() if name not in LABELS}


# These first, while the first run is the newest.


def test_a_person_sees_every_stage_and_the_summary(first_run: Run) -> None:
    for stage in STAGES:
        assert f"✓ {stage}" in first_run.printed
    assert "epoch 2: loss" in first_run.printed
    assert "first stage" in first_run.printed
    assert "blessed" in first_run.printed
    assert str(first_run.home / "pushed") in first_run.printed
    assert card(first_run.printed).is_relative_to(first_run.home / "runs")
    pushed = outcome(first_run.printed)
    assert (pushed.verdict, [pushed.version]) == ("pushed", versions(first_run.home))
    assert first_run.printed.splitlines()[-1] == f"pushed: {first_run.home}/pushed/{pushed.version}"
    blanks = [one for one in first_run.printed.splitlines() if one != one.rstrip()]
    assert blanks == []
    assert first_run.printed.startswith("  ✓ ExampleGen"), "and nothing of the tfx command"
    assert len(first_run.printed.splitlines()) < 60
    assert "Component Trainer is finished" in (first_run.home / "run.log").read_text()


def test_the_blessed_model_is_pushed_and_tensorboard_has_its_log(first_run: Run) -> None:
    (version,) = versions(first_run.home)
    assert version.isdigit()
    events = (first_run.home / "artifacts").glob("Trainer/model_run/*/**/events.out.tfevents.*")
    assert any(events)


def test_the_summary_says_what_the_library_measures(first_run: Run) -> None:
    """TFMA's figures through Beam are those of our Keras metrics over the served answers."""
    (version,) = versions(first_run.home)
    serve = tf.saved_model.load(str(first_run.home / "pushed" / version)).signatures[
        "serving_default"
    ]
    features = read_spec(first_run.logs)
    served = {label: NDCG(label, by="score") for label in LABELS}
    first_stage = {label: NDCG(label, by="initial") for label in LABELS}
    auc = {label: tf.keras.metrics.AUC(num_thresholds=10_000) for label in LABELS}
    for batch in raw_batches(first_run.logs, "test", features, rows=64):
        labels = {label: tf.constant(batch.pop(label)) for label in LABELS}
        columns = {name: tf.constant(values) for name, values in batch.items()}
        answer = serve(**columns)
        mask = mask_of(columns, Axis.ITEM)
        initial = tf.zeros_like(answer["score"])  # all tied: the order of the first stage
        for label in LABELS:
            served[label].update_state(labels, {"score": answer["score"]}, mask)
            first_stage[label].update_state(labels, {"initial": initial}, mask)
            auc[label].update_state(
                tf.boolean_mask(labels[label], mask), tf.boolean_mask(answer[label], mask)
            )
    found = {metric.name: metric for metric in read_summary(pipeline_config(first_run)).metrics}
    for label in LABELS:
        ndcg = found[f"{label} NDCG@10"]
        assert ndcg.candidate == pytest.approx(float(served[label].result()), abs=1e-5)
        assert ndcg.initial == pytest.approx(float(first_stage[label].result()), abs=1e-5)
        # The two sum the area under the curve over other grids of thresholds.
        expected = float(auc[label].result())
        assert found[f"{label} AUC"].candidate == pytest.approx(expected, abs=2e-3)


def test_transform_and_keras_learn_the_same_tables(
    encoding: EncodingSpec, transformed: tft.TFTransformOutput, keras_encoder: Encoder
) -> None:
    assert input_spec(transformed, encoding) == keras_encoder.inputs
    for name in encoding.features.tables("string"):
        strings = [string.decode() for string in transformed.vocabulary_by_name(name)]
        assert strings == keras_encoder.vocabularies[name]


def test_transform_and_keras_encode_a_batch_alike(
    first_run: Run,
    encoding: EncodingSpec,
    transformed: tft.TFTransformOutput,
    keras_encoder: Encoder,
) -> None:
    columns = raw(first_run.logs, encoding.features, rows=50)
    # Strings that no vocabulary has must fall into the same buckets.
    columns["query"] = tf.concat([["never seen", "", "宇多田"], columns["query"][3:]], axis=0)
    first = tf.range(50)[:, tf.newaxis] == 0
    unseen = first & mask_of(columns, Axis.ITEM)
    columns["item_id"] = tf.where(unseen, "new", columns["item_id"])
    left, right = TransformEncoder(transformed, encoding)(columns), keras_encoder(columns)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_allclose(left[name], right[name], atol=1e-5, err_msg=name)


def test_transformed_examples_are_the_encoded_log(
    first_run: Run,
    encoding: EncodingSpec,
    transformed: tft.TFTransformOutput,
    keras_encoder: Encoder,
) -> None:
    """What Trainer reads is what a script reads, list by list; Beam keeps no order."""
    folder = newest(first_run.home, "Transform/transformed_examples/*")
    through_beam = encoded_dataset(
        [str(folder / "Split-validation" / "*")], transformed, encoding, batch_size=32
    )
    in_keras = dataset(first_run.logs, "validation", keras_encoder, batch_size=32)

    def lists(batches: tf.data.Dataset) -> list[tuple[list, np.ndarray]]:
        """Ids and labels of each list, in whose order they are, and its numbers."""
        found = []
        for inputs, labels in batches:
            items, history = (mask_of(inputs, axis).numpy() for axis in (Axis.ITEM, Axis.HISTORY))
            everything = {**inputs, **labels}
            for row in range(len(items)):
                exact, numbers = [], []
                for name in sorted(everything):
                    value = everything[name][row].numpy()
                    if name.startswith("history_"):
                        value = value[history[row]]
                    elif value.ndim == 1 and name != "query":
                        value = value[items[row]]
                    if np.issubdtype(value.dtype, np.floating):
                        numbers.append(value.ravel())
                    else:
                        exact.append((name, value.ravel().tolist()))
                found.append((exact, np.concatenate(numbers)))
        return sorted(found, key=lambda one: one[0])

    expected, found = lists(in_keras), lists(through_beam)
    assert [exact for exact, _ in found] == [exact for exact, _ in expected]
    for (_, left), (_, right) in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_every_way_to_the_model_gives_the_same_scores(
    first_run: Run,
    encoding: EncodingSpec,
    transformed: tft.TFTransformOutput,
    tmp_path: Path,
) -> None:
    """model.predict, the SavedModel's two signatures and gRPC, with Transform inside."""
    folder = newest(first_run.home, "Transform/transformed_examples/*")
    train = encoded_dataset(
        [str(folder / "Split-validation" / "*")], transformed, encoding, batch_size=32
    )
    inputs = input_spec(transformed, encoding)
    fitted = fit(train, train, inputs, first_run.config, verbose=0)
    encoder = TransformEncoder(transformed, encoding)
    module = ServingModule(fitted.model, encoder, encoding.features, fitted.score)
    card = ModelCard(inputs=inputs, config=first_run.config, score=fitted.score)
    loaded = tf.saved_model.load(str(export_model(module, card, tmp_path / "pushed" / "1")))

    columns = raw(first_run.logs, encoding.features, rows=20)
    predicted = fitted.model.predict(encoder(columns), verbose=0)
    expected = {name: tf.sigmoid(logits).numpy() for name, logits in predicted.items()}
    mask = mask_of(columns, Axis.ITEM).numpy()
    expected["click"] *= mask
    expected["conversion"] *= mask

    def close(answer: dict, columns_of: int) -> None:
        for name, values in expected.items():
            found = np.asarray(answer[name])
            if values.ndim == 2:
                assert not found[:, columns_of:].any()
                found = found[:, :columns_of]
            np.testing.assert_allclose(found, values, atol=1e-5, err_msg=name)

    longest = mask.shape[1]
    default = loaded.signatures["serving_default"]
    plain = default(**columns)
    close(plain, longest)

    def pad(name: str, values: tf.Tensor) -> tf.Tensor:
        if values.shape.rank == 1:
            return values
        more = 7 if name.startswith("history_") else 3
        return tf.pad(values, [[0, 0], [0, more]], constant_values=tf.zeros([], values.dtype))

    padded = default(**{name: pad(name, values) for name, values in columns.items()})
    close(padded, longest)

    rows = pq.read_table(split_files(first_run.logs, "test")[0]).slice(0, 20).to_pylist()
    examples = tf.constant([example(row) for row in rows])
    close(loaded.signatures["serve_examples"](examples=examples), longest)

    with (
        ModelServer(tmp_path / "pushed", port=0) as server,
        RerankClient(server.address, timeout_s=60) as client,
    ):
        lists = [SearchList.from_columns(row) for row in rows]
        for row, answer in enumerate(client.rerank_batch(lists)):
            real = mask[row]
            for name in LABELS:
                np.testing.assert_allclose(
                    getattr(answer, name), expected[name][row][real], atol=1e-5
                )
            np.testing.assert_allclose(answer.score, plain["score"][row].numpy()[real], atol=1e-5)
            assert answer.order == tuple(plain["order"][row].numpy()[: real.sum()])

        alone = {"item_id": rows[0]["item_id"][:1], "initial_score": rows[0]["initial_score"][:1]}
        alone |= {
            name: values[:1] if name.startswith("item_") else values
            for name, values in lists[0].columns().items()
            if name not in alone and not name.startswith("history_")
        }
        answer = client.rerank(SearchList.from_columns(alone))
        assert answer.order == (0,)
        assert 0 < answer.conversion[0] <= answer.click[0] < 1


def example(row: dict) -> bytes:
    """A log row as the serialized tf.Example that a team would write; nothing is left out."""
    features = {}
    for name, value in row.items():
        if name in LABELS:
            continue
        values = value if isinstance(value, list) else [value]
        feature = tf.train.Feature()
        if name.endswith(("_age", "_popularity", "_score")):
            feature.float_list.value.extend(values)
        elif name == "timestamp":
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(value.encode() for value in values)
        features[name] = feature
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture
def served(first_run: Run) -> Iterator[str]:
    """`piano serve` on the pushed folder, as a process; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from piano_tf.cli import main; main()", "serve"]
    process = subprocess.Popen(
        [*command, "--model-dir", str(first_run.home / "pushed"), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield f"127.0.0.1:{port}"
    process.terminate()
    assert process.communicate(timeout=60)[0].endswith("stopped\n")
    assert process.returncode == 0


def test_the_commands_serve_and_rerank(first_run: Run, served: str) -> None:
    done = piano("rerank", "--address", served, "--logs", first_run.logs, "--timeout", "120")
    assert done.returncode == 0, done.stderr
    row = find_list(first_run.logs, "test")
    assert row["query"] in done.stdout
    assert all(item in done.stdout for item in row["item_id"])
    assert "p(any click)" in done.stdout


# --- several workers ---


def test_two_workers_export_what_one_exports(first_run: Run, tmp_path: Path) -> None:
    """Each with half of every batch: to one process their batches are doubled. The chief writes."""
    run = pipeline_config(first_run)
    changed = {"name": "dnn", "dropout": 0.0, "width": 8}  # dropout is drawn by each for itself
    config = Config.model_validate({**CONFIG, "model": {**CONFIG["model"], **changed}})
    alone = Training(run, tmp_path / "one", tmp_path / "alone", config=config)
    alone.finish()
    workers = [
        Training(
            run,
            tmp_path / "two",
            tmp_path / f"worker-{index}",
            config=config,
            cluster=cluster,
        )
        for index, cluster in enumerate(clusters(2))
    ]
    for worker in workers:
        worker.finish()
    chief, other = workers
    assert not other.model.exists()
    assert not (other.model.parent / "tensorboard").exists()
    assert_same_models(chief.model, alone.model, tolerance=2e-4)

    columns = raw(first_run.logs, read_spec(first_run.logs), rows=50)
    answers = [
        tf.saved_model.load(str(one.model)).signatures["serving_default"](**columns)
        for one in (chief, alone)
    ]
    for name in ("score", "click", "conversion", "list_click", "list_conversion"):
        np.testing.assert_allclose(*[one[name] for one in answers], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(*[one["order"] for one in answers])


# These last, for they run the pipeline again.


def test_a_worse_model_is_compared_and_neither_blessed_nor_pushed(first_run: Run) -> None:
    before = versions(first_run.home)
    untrained = {**CONFIG, "training": {"epochs": 1, "learning_rate": 0.0}}
    config = written(first_run.home.parent / "worse.json", untrained)
    strict = {**THRESHOLDS, "click_auc": 0.9999}
    thresholds = written(first_run.home.parent / "strict.json", strict)
    done = run_pipeline(first_run.logs, first_run.home, config=config, thresholds=thresholds)
    assert done.returncode == 0, done.stderr
    assert "not blessed" in done.stdout
    assert "below the last blessed model's" in done.stdout
    assert "is below the threshold 0.9999" in done.stdout
    assert "nothing pushed" in done.stdout
    assert versions(first_run.home) == before
    page = card(done.stdout).read_text()
    refused = outcome(done.stdout)
    assert (refused.verdict, refused.version, [refused.newest]) == ("refused", None, before)
    assert any("is below the threshold 0.9999" in one for one in refused.reasons)
    assert f"  ✓ {'Transform':<24}  from an earlier run\n" in done.stdout
    assert "Model gate: not blessed." in page
    assert "is below the threshold 0.9999" in page

    summary = read_summary(pipeline_config(first_run))
    assert not summary.blessed
    assert summary.pushed is None
    ndcg = {metric.name: metric for metric in summary.metrics}["click NDCG@10"]
    assert ndcg.baseline is not None
    assert ndcg.candidate < ndcg.baseline - THRESHOLDS["largest_loss"]


def test_the_next_model_is_compared_blessed_and_pushed_once(first_run: Run) -> None:
    before = versions(first_run.home)
    other = {**CONFIG, "training": {**CONFIG["training"], "seed": 1}}
    config = written(first_run.home.parent / "other.json", other)
    trusting = {**THRESHOLDS, "largest_loss": 1.0, "largest_slice_loss": 1.0}
    thresholds = written(first_run.home.parent / "trusting.json", trusting)
    done = run_pipeline(first_run.logs, first_run.home, config=config, thresholds=thresholds)
    assert done.returncode == 0, done.stderr
    assert "✓ click NDCG@10 against the last blessed model: " in done.stdout
    assert "\nblessed\n" in done.stdout
    (new,) = set(versions(first_run.home)) - set(before)
    assert f"pushed: {first_run.home / 'pushed' / new}\n" in done.stdout
    summary = read_summary(pipeline_config(first_run))
    assert summary.lineage.baseline is not None
    assert summary.lineage.baseline.id != summary.lineage.outputs["Trainer", "Model"].id
    assert f"Pushed as version {new}." in card(done.stdout).read_text()
