"""Evaluator's metrics of lists that differ in length, held to the library's own."""

from __future__ import annotations

import json

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_model_analysis as tfma

from piano_tf.evaluation.ranking import ndcg
from piano_tf.features import CLICK, CONVERSION, LABELS, LIST_CLICK, LIST_CONVERSION
from tfx_pipeline import evaluator
from tfx_pipeline.configs import Thresholds

LENGTHS = [1, 12, 3, 25, 7, 20]
PADDED = 25


@pytest.fixture(scope="module")
def lists() -> list[dict]:
    """Extracts as TFMA hands them on: labels of the real candidates, and padded predictions."""
    rng = np.random.default_rng(0)
    found = []
    for number, length in enumerate(LENGTHS):
        order = np.full(PADDED, -1)
        order[:length] = rng.permutation(length)
        click = rng.random(length) < 0.3
        found.append(
            {
                tfma.SLICE_KEY_TYPES_KEY: [()],
                tfma.FEATURES_KEY: {
                    "list_id": np.array([f"list {number}".encode()]),
                    CLICK: click.astype(np.int64),
                    CONVERSION: (click & (rng.random(length) < 0.5)).astype(np.int64),
                },
                tfma.PREDICTIONS_KEY: {
                    "order": order,
                    **{label: rng.random(PADDED).astype(np.float32) for label in LABELS},
                    LIST_CLICK: np.float32(0.9),
                    LIST_CONVERSION: np.float32(0.4),
                },
            }
        )
    return found


@pytest.fixture(scope="module")
def metrics(lists: list[dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What TFMA found, by `output metric`."""
    config = tfma.utils.update_eval_config_with_defaults(
        evaluator.eval_config(Thresholds()), has_baseline=False, rubber_stamp=True
    )
    file = tmp_path_factory.mktemp("evaluator") / "metrics.json"
    with beam.Pipeline() as pipeline:
        evaluation = (
            pipeline
            | beam.Create(lists)
            | beam.Map(evaluator.without_padding)
            | tfma.evaluators.MetricsPlotsAndValidationsEvaluator(config).ptransform
        )
        _ = (
            evaluation[tfma.METRICS_KEY]
            | beam.MapTuple(lambda _, found: json.dumps(_by_name(found)))
            | beam.io.WriteToText(str(file), shard_name_template="")
        )
    return json.loads(file.read_text())


def _by_name(found: dict) -> dict[str, float]:
    return {f"{key.output_name} {key.name}": float(value) for key, value in found.items()}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("order", [evaluator.SERVED, evaluator.INITIAL])
def test_ndcg_is_the_mean_over_lists_with_a_positive(lists, metrics, label: str, order: str):
    each = []
    for one in lists:
        gains = one[tfma.FEATURES_KEY][label][np.newaxis] > 0
        length = gains.shape[1]
        places = np.arange(length)
        if order == evaluator.SERVED:
            places = np.argsort(one[tfma.PREDICTIONS_KEY]["order"][:length])
        each.append(ndcg(gains, places[np.newaxis], np.full_like(gains, True), 10))
    expected = np.nanmean(np.concatenate(each))
    assert metrics[f"{order} {evaluator.ndcg_name(label)}"] == pytest.approx(expected, abs=1e-6)


def test_calibration_counts_real_candidates_alone(lists, metrics):
    said = [one[tfma.PREDICTIONS_KEY][CLICK][: one[tfma.FEATURES_KEY][CLICK].size] for one in lists]
    true = [one[tfma.FEATURES_KEY][CLICK] for one in lists]
    expected = np.concatenate(said).sum() / np.concatenate(true).sum()
    assert metrics[f"{CLICK} calibration"] == pytest.approx(expected, rel=1e-5)


def test_a_list_is_one_case_of_its_own_outputs(lists, metrics):
    clicked = sum(one[tfma.FEATURES_KEY][CLICK].any() for one in lists)
    expected = 0.9 * len(lists) / clicked
    assert metrics[f"{LIST_CLICK} calibration"] == pytest.approx(expected, rel=1e-5)


def test_no_metric_has_the_split_gathered():
    """TFMA would hold all of it in memory, for documents that are lists already."""
    assert not any(spec.query_key for spec in evaluator.eval_config(Thresholds()).metrics_specs)
