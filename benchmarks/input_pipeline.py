"""How busy reading keeps training: lists a second of either alone, and of both together.

    piano pipeline --logs LOGS --home HOME --config one_epoch.json
    nice -n 5 .venv/bin/python benchmarks/input_pipeline.py LOGS HOME

Reads the transformed examples that a run of the pipeline left in HOME, trains the default model on
them, and prints lists a second, and processor seconds for 1,000 lists, of

  reading         batches as Trainer gets them, without training; and the same with `training.cache`
  the step        one batch from memory, again and again
  both            Trainer's epochs (`piano_tf.epochs`); with a checkpoint's dropout; and Keras's
                  `fit`, which is what they are held against

Each is measured in turn, round after round, and what is printed is the best of all rounds, for
whatever else a machine does only ever makes one slower. `device busy` is both over the step: the
share of the time in which training does not wait for lists. Compiling is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from measuring import markdown

from piano_tf import metrics, models
from piano_tf.checkpoints import restorable_dropout
from piano_tf.config import Config
from piano_tf.data.logs import read_spec
from piano_tf.epochs import run_epochs
from piano_tf.losses import RerankingLoss
from piano_tf.optimizer import FusedAdam
from tfx_pipeline.transform import EncodingSpec, encoded_dataset, input_spec

_STEP = "the step"
_EPOCHS = "both"


class Trial:
    """What is measured, on the same examples.

    Args:
      logs: The log of the run.
      home: Its home.
    """

    def __init__(self, logs: Path, home: Path) -> None:
        self.config = Config()
        spec = EncodingSpec(features=read_spec(logs), encoding=self.config.encoding)
        graph = _newest(home / "artifacts/Transform/transform_graph")
        output = tft.TFTransformOutput(str(graph))
        self.inputs = input_spec(output, spec)
        examples = _newest(home / "artifacts/Transform/transformed_examples")
        training = self.config.training
        whole, cached = (
            encoded_dataset(
                [str(examples / "Split-train" / "*")],
                output,
                spec,
                batch_size=training.batch_size,
                shuffle_seed=training.seed,
                cache=cache,
            )
            for cache in (False, True)
        )
        # Without the last batch, if that is smaller; all else, for filling a buffer takes time too.
        lists = sum(len(inputs["item_id"]) for inputs, _ in whole)
        self.steps = lists // training.batch_size
        # A cache is full all the same: the buffer reads to the end before its last lists are drawn.
        self.batches, self.cached = (part.take(self.steps) for part in (whole, cached))
        self.lists = self.steps * training.batch_size
        self.validation = self.batches.take(1).cache()

    def ways(self) -> dict[str, Callable[[], object]]:
        """Name -> what takes `lists` lists once."""
        again = self.batches.take(1).cache().repeat(self.steps)
        strategy = tf.distribute.get_strategy()

        def read(batches: tf.data.Dataset) -> None:
            for _ in batches:
                pass

        def epochs(model: tf.keras.Model, batches: tf.data.Dataset) -> None:
            run_epochs(
                model,
                batches,
                self.validation,
                epochs=1,
                strategy=strategy,
                callbacks=[],
                verbose=0,
            )

        plain, restorable, fitted = self.model(), self.model(restorable=True), self.model()
        return {
            "reading": lambda: read(self.batches),
            "reading, with training.cache": lambda: read(self.cached),
            _STEP: lambda: epochs(plain, again),
            _EPOCHS: lambda: epochs(plain, self.batches),
            "both, with training.cache": lambda: epochs(plain, self.cached),
            "both, with restorable dropout": lambda: epochs(restorable, self.batches),
            "both, by Keras's fit": lambda: (
                fitted.fit(self.batches, validation_data=self.validation, verbose=0) and None
            ),
        }

    def model(self, *, restorable: bool = False) -> models.Reranker:
        """The default model, ready to train."""
        tf.keras.utils.set_random_seed(0)
        with restorable_dropout() if restorable else contextlib.nullcontext():
            model = models.build(self.inputs, self.config.model)
            model(next(iter(self.validation))[0])
        model.compile(
            optimizer=FusedAdam(self.config.training.learning_rate),
            loss=RerankingLoss(self.config.loss),
            metrics=metrics.default_metrics(),
        )
        return model


def _newest(artifacts: Path) -> Path:
    """The folder of the highest number."""
    return max(artifacts.iterdir(), key=lambda folder: int(folder.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    trial = Trial(chosen.logs, chosen.home)
    ways = trial.ways()
    best: dict[str, tuple[float, float]] = {}
    for number in range(1 + chosen.rounds):
        for name, run in ways.items():
            clock, work = time.perf_counter(), time.process_time()
            run()
            found = time.perf_counter() - clock, time.process_time() - work
            if number:  # the first round compiles, and fills caches
                best[name] = tuple(map(min, found, best.get(name, found)))
    step, step_work = best[_STEP]
    rows = [
        [
            name,
            f"{trial.lists / seconds:,.0f}",
            f"{step / seconds:.2f}",
            f"{1000 * work / trial.lists:.3f}",
            f"{work / step_work:.2f}",
        ]
        for name, (seconds, work) in best.items()
    ]
    print(markdown(["", "lists/s", "of the step", "processor s / 1,000", "of the step"], rows))
    print(f"device busy: {step / best[_EPOCHS][0]:.2f}")


if __name__ == "__main__":
    main()
