"""piano_tf: a personalised listwise re-ranker for music search. This file is the whole public API.

Names are imported when first used, for TensorFlow takes seconds to load and `piano --help` does not
need it.
"""

from __future__ import annotations

import importlib
from typing import Any

_API = {
    "Config": "piano_tf.config",
    "EncodingConfig": "piano_tf.config",
    "LossConfig": "piano_tf.config",
    "ModelConfig": "piano_tf.config",
    "PIANOConfig": "piano_tf.config",
    "PretrainingConfig": "piano_tf.config",
    "ScoreConfig": "piano_tf.config",
    "TrainingConfig": "piano_tf.config",
    "ConfigError": "piano_tf.errors",
    "LogError": "piano_tf.errors",
    "PianoError": "piano_tf.errors",
    "FeatureSpec": "piano_tf.features",
    "InputSpec": "piano_tf.features",
    "Encoder": "piano_tf.data.encoding",
    "dataset": "piano_tf.data.batches",
    "RerankingLoss": "piano_tf.losses",
    "NDCG": "piano_tf.metrics",
    "ItemAUC": "piano_tf.metrics",
    "ListAUC": "piano_tf.metrics",
    "default_metrics": "piano_tf.metrics",
    "PIANO": "piano_tf.models",
    "PRM": "piano_tf.models",
    "Reranker": "piano_tf.models",
    "build": "piano_tf.models",
    "EncodedLog": "piano_tf.training",
    "FittedReranker": "piano_tf.training",
    "fit": "piano_tf.training",
    "fit_log": "piano_tf.training",
    "interactions_of": "piano_tf.pretraining",
    "pretrain": "piano_tf.pretraining",
    "leave_one_out": "piano_tf.explanation",
    "export_model": "piano_tf.export",
    "ServingModule": "piano_tf.export",
    "ModelCard": "piano_tf.export",
}

__all__ = [*_API]


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'piano_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
