"""Trains a tiny log on what there is and writes what came of it.

A process of its own: TF_CONFIG and TensorFlow's devices are settled before anything else, and some
are killed. Run as `python train_tiny.py LOG OUTPUT [options]`.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf

from piano_tf import metrics
from piano_tf.checkpoints import Checkpoints, fingerprint
from piano_tf.config import (
    Config,
    EncodingConfig,
    ModelConfig,
    PretrainingConfig,
    TrainingConfig,
)
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.data.logs import split_files
from piano_tf.hardware import choose_strategy, is_chief
from piano_tf.metrics import NDCG, ItemAUC
from piano_tf.training import fit

# The smallest that learns, for most of the time goes into building graphs; and PIANO.
MODELS = {
    "dnn": ModelConfig(name="dnn", width=8, ids=True, match=False, pretraining=None),
    "piano": ModelConfig(
        width=8, heads=2, blocks=1, ids=True, pretraining=PretrainingConfig(width=4, folds=2)
    ),
}


def config_of(model: str, dropout: float, seed: int) -> Config:
    return Config(
        encoding=EncodingConfig(query_length=3, history_length=4, oov_buckets=2),
        model=MODELS[model].model_copy(update={"dropout": dropout}),
        # 20 lists: the last batch has 2, and of 3 replicas one goes without.
        training=TrainingConfig(
            batch_size=6, epochs=3, learning_rate=0.01, patience=3, checkpoint_steps=3, seed=seed
        ),
    )


class Watch(tf.keras.callbacks.Callback):
    """The running loss at every step; one of them may be the last."""

    def __init__(self, kill_at: int | None) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.kill_at = kill_at

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.losses.append(float(logs["loss"]))
        if len(self.losses) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log_dir", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cpus", type=int, default=1, help="Logical devices, a replica each.")
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--kill-at", type=int, help="The step after which to die.")
    parser.add_argument("--model", choices=MODELS, default="dnn")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eagerly", action="store_true", help="Without building graphs.")
    arguments = parser.parse_args()
    if arguments.cpus > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * arguments.cpus
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(arguments.cpus)])
    else:
        strategy = choose_strategy()
    tf.config.run_functions_eagerly(arguments.eagerly)
    tf.keras.utils.set_random_seed(arguments.seed)
    config = config_of(arguments.model, arguments.dropout, arguments.seed)
    encoder = Encoder.fit(arguments.log_dir, config.encoding)
    checkpoints = None
    if arguments.checkpoints:
        files = split_files(arguments.log_dir, "train")
        checkpoints = Checkpoints(arguments.checkpoints, fingerprint(config, encoder.inputs, files))
    size, watch = config.training.batch_size, Watch(arguments.kill_at)
    # Fewer metrics than by default, whose graphs take longer to build than all else here.
    few = mock.patch.object(
        metrics,
        "default_metrics",
        lambda _: [NDCG("click"), NDCG("conversion"), ItemAUC("click")],
    )
    with few:
        fitted = fit(
            dataset(arguments.log_dir, "train", encoder, batch_size=size, shuffle_seed=0),
            dataset(arguments.log_dir, "validation", encoder, batch_size=size),
            encoder.inputs,
            config,
            callbacks=[watch],
            strategy=strategy,
            checkpoints=checkpoints,
            verbose=0,
        )
    found = {f"weight {n}": weight for n, weight in enumerate(fitted.model.get_weights())}
    found |= {f"history {name}": values for name, values in fitted.history.items()}
    np.savez(
        arguments.output,
        steps=watch.losses,
        score=[fitted.score.click, fitted.score.conversion],
        chief=is_chief(strategy),
        replicas=strategy.num_replicas_in_sync,
        **found,
    )


if __name__ == "__main__":
    main()
