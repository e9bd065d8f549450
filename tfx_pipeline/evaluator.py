"""Evaluator: TFMA's metrics on lists, each exploded into its items.

TFMA's own metrics know one value per example. So each list becomes one document per candidate, with
these outputs:

  click, conversion             probability and label of the candidate
  list_click, list_conversion   of the list, on its first candidate; the others weigh nothing
  served, initial               minus the candidate's place in the served and the first-stage order,
                                so that no metric meets a tie
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import unbatch_extractor

from piano_tf.features import CLICK, CONVERSION, LABELS, LIST_CLICK, LIST_CONVERSION
from tfx_pipeline.configs import Thresholds

TOP_K = 10
SERVED = "served"
INITIAL = "initial"
CANDIDATE = "candidate"
BASELINE = "baseline"
_LIST_OUTPUTS = {LIST_CLICK: CLICK, LIST_CONVERSION: CONVERSION}


def ndcg_name(label: str) -> str:
    """TFMA's name of NDCG for a label."""
    return f"{label}_ndcg"


def eval_config(thresholds: Thresholds) -> tfma.EvalConfig:
    """Metrics on items and lists, with the thresholds that decide the blessing."""
    click, conversion = thresholds.click_auc, thresholds.conversion_auc
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(name=CANDIDATE, signature_name="serve_examples"),
            tfma.ModelSpec(name=BASELINE, signature_name="serve_examples", is_baseline=True),
        ],
        slicing_specs=[tfma.SlicingSpec()],
        options=tfma.Options(include_default_metrics={"value": False}),
        metrics_specs=[
            _probability_metrics(CLICK, _at_least(click)),
            _probability_metrics(CONVERSION, _at_least(conversion)),
            _probability_metrics(LIST_CLICK, _at_least(thresholds.list_click_auc), weighted=True),
            _probability_metrics(LIST_CONVERSION, None, weighted=True),
            _order_metrics(
                SERVED,
                {
                    CLICK: _at_least(thresholds.click_ndcg, thresholds.largest_loss),
                    CONVERSION: _at_least(thresholds.conversion_ndcg, thresholds.largest_loss),
                },
            ),
            _order_metrics(INITIAL, {}),
        ],
    )


def _at_least(value: float, largest_loss: float | None = None) -> tfma.MetricThreshold:
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": value})
    )
    if largest_loss is not None:
        threshold.change_threshold.CopyFrom(
            tfma.GenericChangeThreshold(
                direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -largest_loss}
            )
        )
    return threshold


def _probability_metrics(
    output: str, auc: tfma.MetricThreshold | None, *, weighted: bool = False
) -> tfma.MetricsSpec:
    return tfma.MetricsSpec(
        output_names=[output],
        metrics=[
            tfma.MetricConfig(class_name="AUC", config='{"name": "auc"}', threshold=auc),
            tfma.MetricConfig(class_name="Calibration", config='{"name": "calibration"}'),
        ],
        example_weights=tfma.ExampleWeightOptions(weighted=weighted, unweighted=not weighted),
    )


def _order_metrics(output: str, thresholds: dict[str, tfma.MetricThreshold]) -> tfma.MetricsSpec:
    return tfma.MetricsSpec(
        output_names=[output],
        query_key="list_id",
        # k stands here and not in the metric's config, or a threshold on it is never met.
        binarize=tfma.BinarizationOptions(top_k_list={"values": [TOP_K]}),
        metrics=[
            tfma.MetricConfig(
                class_name="NDCG",
                config=f'{{"gain_key": "{label}", "name": "{ndcg_name(label)}"}}',
                threshold=thresholds.get(label),
            )
            for label in LABELS
        ],
    )


def custom_extractors(
    eval_shared_model: Any, eval_config: tfma.EvalConfig, tensor_adapter_config: Any
) -> list[tfma.extractors.Extractor]:
    """TFMA's default extractors, with the explosion right after lists are unbatched."""
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model,
        eval_config=eval_config,
        tensor_adapter_config=tensor_adapter_config,
    )
    names = [extractor.stage_name for extractor in extractors]
    after = names.index(unbatch_extractor.UNBATCH_EXTRACTOR_STAGE_NAME) + 1
    explosion = tfma.extractors.Extractor("ExplodeLists", beam.FlatMap(explode))
    return [*extractors[:after], explosion, *extractors[after:]]


def explode(extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One list's extracts to one document per candidate."""
    features = {name: np.asarray(extracts["features"][name]) for name in ("list_id", *LABELS)}
    labels = {label: features[label].reshape(-1).astype(np.float32) for label in LABELS}
    predictions = extracts["predictions"]
    by_model = predictions if CANDIDATE in predictions else {CANDIDATE: predictions}
    for place in range(labels[CLICK].size):
        documents = {
            model: _document(outputs, place, labels[CLICK].size)
            for model, outputs in by_model.items()
        }
        wanted = {label: values[place : place + 1] for label, values in labels.items()}
        wanted |= {name: values.max(keepdims=True) for name, values in _list_labels(labels).items()}
        wanted |= dict.fromkeys((SERVED, INITIAL), wanted[CLICK])
        weight = np.float32([place == 0])
        yield {
            **extracts,
            "features": {
                "list_id": features["list_id"].reshape(-1)[:1],
                **{label: wanted[label] for label in LABELS},
            },
            "labels": wanted,
            "predictions": documents if CANDIDATE in predictions else documents[CANDIDATE],
            "example_weights": {
                name: weight if name in _LIST_OUTPUTS else np.ones_like(weight) for name in wanted
            },
        }


def _list_labels(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: labels[label] for name, label in _LIST_OUTPUTS.items()}


def _document(outputs: dict[str, np.ndarray], place: int, length: int) -> dict[str, np.ndarray]:
    """A model's predictions for the candidate at `place` of a list of `length`."""
    served = np.asarray(outputs["order"])[:length]
    return {
        **{label: np.asarray(outputs[label])[place : place + 1] for label in LABELS},
        **{name: np.asarray(outputs[name]).reshape(1) for name in _LIST_OUTPUTS},
        SERVED: -np.flatnonzero(served == place).astype(np.float32),
        INITIAL: np.float32([-place]),
    }
