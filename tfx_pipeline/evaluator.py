"""Evaluator: TFMA's metrics over lists.

TFMA fails on padded lists. So each list's document is cut to its real candidates, and TFMA itself
then explodes its vectors into one example per candidate. (One document per candidate gives the same
figures in many times the time.) A document has these outputs:

  click, conversion             probabilities and labels of the candidates
  list_click, list_conversion   probability and label of "at least one in the list"
  served, initial               minus each candidate's place in the served and the first-stage
                                order, so that no metric meets a tie
"""

from __future__ import annotations

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
_LIST_ID = "list_id"
_LIST_OUTPUTS = {LIST_CLICK: CLICK, LIST_CONVERSION: CONVERSION}


class ListNDCG(tfma.metrics.NDCG):
    """TFMA's NDCG of documents that are whole lists.

    TFMA gathers the examples of a query before it computes their NDCG, and on one machine holds the
    whole split in memory for it. Our documents are lists already: with the query's key in the
    metric's hands alone, and not in its specification, nothing is gathered.
    """

    def computations(self, **kwargs: Any) -> tfma.metrics.MetricComputations:
        return super().computations(**{**kwargs, "query_key": _LIST_ID})


def ndcg_name(label: str) -> str:
    """TFMA's name of NDCG for a label."""
    return f"{label}_ndcg"


def eval_config(thresholds: Thresholds) -> tfma.EvalConfig:
    """Metrics on items and lists, with their bounds; `gates/model.py` judges changes."""
    near = _within(1 / thresholds.calibration, thresholds.calibration)
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(name=CANDIDATE, signature_name="serve_examples"),
            tfma.ModelSpec(name=BASELINE, signature_name="serve_examples", is_baseline=True),
        ],
        slicing_specs=[tfma.SlicingSpec()],
        options=tfma.Options(include_default_metrics={"value": False}),
        metrics_specs=[
            _probability_metrics(CLICK, _at_least(thresholds.click_auc), near),
            _probability_metrics(CONVERSION, _at_least(thresholds.conversion_auc), near),
            _probability_metrics(LIST_CLICK, _at_least(thresholds.list_click_auc), near),
            _probability_metrics(LIST_CONVERSION, None, near),
            _order_metrics(
                SERVED,
                {
                    CLICK: _at_least(thresholds.click_ndcg),
                    CONVERSION: _at_least(thresholds.conversion_ndcg),
                },
            ),
            _order_metrics(INITIAL, {}),
        ],
    )


def _at_least(value: float) -> tfma.MetricThreshold:
    return tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": value})
    )


def _within(low: float, high: float) -> tfma.MetricThreshold:
    return tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(
            lower_bound={"value": low}, upper_bound={"value": high}
        )
    )


def _probability_metrics(
    output: str, auc: tfma.MetricThreshold | None, calibration: tfma.MetricThreshold
) -> tfma.MetricsSpec:
    return tfma.MetricsSpec(
        output_names=[output],
        metrics=[
            tfma.MetricConfig(class_name="AUC", config='{"name": "auc"}', threshold=auc),
            tfma.MetricConfig(
                class_name="Calibration",
                config='{"name": "calibration"}',
                threshold=calibration,
            ),
        ],
    )


def _order_metrics(output: str, thresholds: dict[str, tfma.MetricThreshold]) -> tfma.MetricsSpec:
    return tfma.MetricsSpec(
        output_names=[output],
        # k stands here and not in the metric's config, or a threshold on it is never met.
        binarize=tfma.BinarizationOptions(top_k_list={"values": [TOP_K]}),
        metrics=[
            tfma.MetricConfig(
                class_name=ListNDCG.__name__,
                module=__name__,
                config=f'{{"gain_key": "{label}", "name": "{ndcg_name(label)}"}}',
                threshold=thresholds.get(label),
            )
            for label in LABELS
        ],
    )


def custom_extractors(
    eval_shared_model: Any, eval_config: tfma.EvalConfig, tensor_adapter_config: Any
) -> list[tfma.extractors.Extractor]:
    """TFMA's default extractors, with `without_padding` right after lists are unbatched."""
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model,
        eval_config=eval_config,
        tensor_adapter_config=tensor_adapter_config,
    )
    names = [extractor.stage_name for extractor in extractors]
    after = names.index(unbatch_extractor.UNBATCH_EXTRACTOR_STAGE_NAME) + 1
    cut = tfma.extractors.Extractor("RemovePadding", beam.Map(without_padding))
    return [*extractors[:after], cut, *extractors[after:]]


def without_padding(extracts: dict[str, Any]) -> dict[str, Any]:
    """One list's extracts, cut to its N candidates.

    Args:
      extracts: `features` with `list_id`, `click` and `conversion` [N], and `predictions`, the
        outputs of `serve_examples` padded to [N or more]; of several models under their names.

    Returns:
      The same, with `labels` and `predictions` by the outputs named at the top of this file.
    """
    labels = {
        label: np.asarray(extracts["features"][label]).reshape(-1).astype(np.float32)
        for label in LABELS
    }
    list_labels = {
        output: labels[label].max(keepdims=True) for output, label in _LIST_OUTPUTS.items()
    }
    predictions = extracts["predictions"]
    length = labels[CLICK].size
    return {
        **extracts,
        "features": {_LIST_ID: np.asarray(extracts["features"][_LIST_ID]).reshape(-1), **labels},
        "labels": {
            **labels,
            **list_labels,
            # The order's metrics read gains from the features; TFMA wants labels all the same.
            **dict.fromkeys((SERVED, INITIAL), labels[CLICK]),
        },
        "predictions": (
            {model: _outputs(outputs, length) for model, outputs in predictions.items()}
            if CANDIDATE in predictions
            else _outputs(predictions, length)
        ),
    }


def _outputs(predicted: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """A model's predictions for a list of `length` candidates."""
    served = np.asarray(predicted["order"])[:length]
    return {
        **{label: np.asarray(predicted[label])[:length] for label in LABELS},
        **{output: np.asarray(predicted[output]).reshape(1) for output in _LIST_OUTPUTS},
        SERVED: -np.argsort(served).astype(np.float32),
        INITIAL: -np.arange(length, dtype=np.float32),
    }
