"""How near a model's answers and its training come to the machine's limit.

    .venv/bin/python benchmarks/model_speed.py --output docs/model_speed.md

The floor of a step is the time that its multiply-adds would take at the rate at which this machine
multiplies two square matrices of 1,024 rows, measured in the same run and in turns with all else,
so that what else the machine does meets everything alike; in its turn each runs five times.
Multiply-adds are those of the matrix products in a step (for training: forward, backward and
whatever else), counted while one runs eagerly. Two tables:

  answers    PIANO on one list of so many candidates and 50 entries of history: from encoded inputs
             to logits (the model step), the same with its weights as constants and compiled by XLA
             for these sizes, and from strings to an order (the served step), each in a session,
             as a server runs it
  training   each model on 128 lists of 20 candidates and 50 entries of history, and the blocks of
             attention alone (`encoder`) on vectors of as many: forward, backward and Adam, without
             metrics

Models have the width and the blocks that `--width` and `--blocks` say, and else their defaults.

Times are the best of all rounds, by the clock; in brackets the median. Where other programs keep
the machine busy, hold on to processor time: a step's, as a multiple of what its multiply-adds would
take in the product of the two matrices (medians of both). How many threads share an operation
changes the step and the product alike: `TF_NUM_INTRAOP_THREADS=1` for one, as `piano serve` has it.
Lists are made of what a simulated log of 400 lists holds.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from measuring import markdown
from served_graph import ServedGraph

# No public name sees every operation's shapes, nor makes weights constants.
from tensorflow.python.framework import op_callbacks
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from piano_tf import models
from piano_tf.config import ModelConfig, ScoreConfig
from piano_tf.data.batches import raw_batches
from piano_tf.data.encoding import Batch, Encoder
from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.export import ServingModule
from piano_tf.features import LABELS, Axis
from piano_tf.layers import SelfAttentionBlock
from piano_tf.losses import RerankingLoss
from piano_tf.optimizer import FusedAdam
from piano_tf.simulation import SimulationConfig, simulate

CANDIDATES = (20, 50, 100, 200)
HISTORY = 50
TRAINED_ON, LISTS = 20, 128
SIDE = 1024
LOGGED = 400
# A step that is asked again and again finds its weights in the processor's cache.
IN_A_ROW = 5


class Step(NamedTuple):
    """Something to measure.

    Attributes:
      run: Does it once, and waits for it.
      count: Multiply-adds of its matrix products.
    """

    run: Callable[[], object]
    count: int


class Timed(NamedTuple):
    """Seconds of a step.

    Attributes:
      best, median: By the clock.
      worked: The median of what processors worked for it.
    """

    best: float
    median: float
    worked: float


# --- multiply-adds ---


def multiply_adds(run: Callable[[], object]) -> int:
    """How many the matrix products of one run have, seen while it runs eagerly."""
    found: list[int] = []

    def see(kind, inputs, attributes, outputs, name=None, graph=None) -> None:
        kind = tf.compat.as_str(kind)
        pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
        if kind == "MatMul":
            inner = inputs[0].shape[0 if pairs["transpose_a"] else 1]
            found.append(int(np.prod(outputs[0].shape) * inner))
        elif kind.startswith("BatchMatMul"):
            inner = inputs[0].shape[-2 if pairs["adj_x"] else -1]
            found.append(int(np.prod(outputs[0].shape) * inner))
        elif kind == "Einsum":
            equation = tf.compat.as_str(pairs["equation"])
            found.append(_of_einsum(equation, [one.shape for one in inputs]))

    tf.config.run_functions_eagerly(True)
    op_callbacks.add_op_callback(see)
    try:
        run()
    finally:
        op_callbacks.remove_op_callback(see)
        tf.config.run_functions_eagerly(False)
    return sum(found)


def _of_einsum(equation: str, shapes: Sequence[tf.TensorShape]) -> int:
    """The product of all sizes that are named; of one operand none, for nothing is multiplied."""
    if len(shapes) < 2:
        return 0
    sizes: dict[str | int, int] = {}
    for letters, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        head, _, tail = letters.partition("...")
        # What an ellipsis stands for is named by its place from the right, as in broadcasting.
        names = [*head, *range(len(head) + len(tail) - len(shape), 0), *tail]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return int(np.prod([*sizes.values()]))


# --- what is measured ---


class World:
    """A small log, and lists of any length made of it.

    Args:
      folder: For the log.
    """

    def __init__(self, folder: Path) -> None:
        source = simulate(SimulationConfig(lists=LOGGED))
        write_log(source, folder, ByShare())
        self.encoder = Encoder.fit(folder)
        self._raw = next(raw_batches(folder, "train", self.encoder.features, LOGGED))
        self._rng = np.random.default_rng(0)

    def raw(self, lists: int, candidates: int) -> dict[str, tf.Tensor]:
        """Columns of lists as long as can be, whose parts are drawn from the log's."""
        places = {
            axis: self._rng.integers(0, self._real(axis).sum(), (lists, *size))
            for axis, size in (
                (Axis.LIST, ()),
                (Axis.ITEM, (candidates,)),
                (Axis.HISTORY, (HISTORY,)),
            )
        }
        made = {}
        for column in self.encoder.features.columns():
            values = self._raw[column.name][self._real(column.axis)]
            made[column.name] = tf.constant(values[places[column.axis]])
        return made

    def _real(self, axis: Axis) -> np.ndarray:
        """Where the log's columns of an axis are no padding."""
        names = {Axis.LIST: "query", Axis.ITEM: "item_id", Axis.HISTORY: "history_item_id"}
        values = self._raw[names[axis]]
        return values != "" if values.ndim > 1 else np.full(values.shape, True)


def answers(world: World, config: ModelConfig, folder: Path) -> dict[str, dict[str, Step]]:
    """Candidates -> the model step, as it is and compiled, and the served graph.

    Args:
      world: To make lists of.
      config: Of the model.
      folder: For the SavedModel.
    """
    model = models.build(world.encoder.inputs, config)
    model(world.encoder(world.raw(1, 1)))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if not np.any(weight):  # zeros that are constants would be calculated away
            weight.assign(rng.uniform(0, 0.1, weight.shape))
    raws = {candidates: world.raw(1, candidates) for candidates in CANDIDATES}
    for raw in raws.values():
        for label in LABELS:
            del raw[label]
    batches = {candidates: world.encoder(raw) for candidates, raw in raws.items()}

    def logits(**batch: tf.Tensor) -> Batch:
        return model(batch, training=False)

    module = ServingModule(model, world.encoder, world.encoder.features, ScoreConfig())
    signatures = {
        "order": module.signatures()["serving_default"],
        "logits": tf.function(logits).get_concrete_function(**_any_size(batches[CANDIDATES[0]])),
    }
    for candidates, batch in batches.items():
        signatures[f"compiled_{candidates}"] = compiled(logits, batch)
    tf.saved_model.save(module, str(folder), signatures)
    served = ServedGraph(folder)
    found = {}
    for candidates in CANDIDATES:
        raw, batch = raws[candidates], batches[candidates]
        count = multiply_adds(functools.partial(logits, **batch))
        found[f"{candidates}"] = {
            "model step": Step(_asking(served, "logits", batch), count),
            "compiled": Step(_asking(served, f"compiled_{candidates}", batch), count),
            "strings to order": Step(_asking(served, "order", raw), count),
        }
    return found


def _any_size(batch: Batch) -> dict[str, tf.TensorSpec]:
    """What a batch of any lists, candidates and history has; words of a query are so many."""
    return {
        name: tf.TensorSpec(
            [
                size if "query" in name and axis == values.shape.rank - 1 else None
                for axis, size in enumerate(values.shape)
            ],
            values.dtype,
            name,
        )
        for name, values in batch.items()
    }


def compiled(logits: Callable[..., Batch], batch: Batch) -> tf.types.experimental.ConcreteFunction:
    """The model step with its weights as constants, compiled for the sizes of a batch."""
    frozen = convert_variables_to_constants_v2(tf.function(logits).get_concrete_function(**batch))
    names = [tensor.name.partition(":")[0] for tensor in frozen.inputs]

    def answer(**batch: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.nest.flatten(frozen(*(batch[name] for name in names)))
        return {f"output_{place}": output for place, output in enumerate(outputs)}

    specs = {name: tf.TensorSpec(one.shape, one.dtype, name) for name, one in batch.items()}
    return tf.function(answer, jit_compile=True).get_concrete_function(**specs)


def _asking(graph: ServedGraph, signature: str, inputs: Batch) -> Callable[[], object]:
    """Runs a signature on what it takes of these inputs."""
    given = [name for name in inputs if name in graph.inputs(signature)]
    run = graph.call(signature, given)
    return functools.partial(run, *(inputs[name].numpy() for name in given))


def trainings(world: World, configs: Mapping[str, ModelConfig]) -> dict[str, dict[str, Step]]:
    """Model -> a training step; without the model that keeps the first stage's order, whose step
    has no product to hold it against.
    """
    raw = world.raw(LISTS, TRAINED_ON)
    labels = {label: tf.cast(raw.pop(label), tf.float32) for label in LABELS}
    batch = world.encoder(raw)
    steps = {
        name: training(world.encoder, config, batch, labels) for name, config in configs.items()
    }
    return {name: {"training step": step} for name, step in steps.items() if step.count}


def encoder_training(config: ModelConfig) -> Step:
    """The same of the blocks alone, between random vectors and a loss that only sums."""
    blocks = [
        SelfAttentionBlock(config.width, config.heads, config.dropout) for _ in range(config.blocks)
    ]
    vectors, weights = (tf.random.normal([LISTS, TRAINED_ON, config.width]) for _ in range(2))
    mask = tf.fill([LISTS, TRAINED_ON], True)

    def loss() -> tf.Tensor:
        encoded = vectors
        for block in blocks:
            encoded = block(encoded, mask, training=True)
        return tf.reduce_sum(encoded * weights)

    loss()
    variables = [weight for block in blocks for weight in block.trainable_weights]
    optimizer = FusedAdam()
    optimizer.build(variables)

    def once() -> tf.Tensor:
        with tf.GradientTape() as tape:
            found = loss()
        optimizer.apply_gradients(zip(tape.gradient(found, variables), variables, strict=True))
        return found

    step = tf.function(once)
    return Step(lambda: step().numpy(), multiply_adds(once))


def training(encoder: Encoder, config: ModelConfig, batch: Batch, labels: Batch) -> Step:
    """Forward, backward and Adam on the same lists."""
    model = models.build(encoder.inputs, config)
    model(batch)
    optimizer = FusedAdam()
    model.compile(optimizer=optimizer, loss=RerankingLoss())
    step = tf.function(lambda: model.train_step((batch, labels)))
    count = multiply_adds(lambda: model.train_step((batch, labels)))
    return Step(lambda: step()["loss"].numpy(), count)


def product() -> Step:
    """The matrix product that everything is held against."""
    one, other = (tf.random.normal([SIDE, SIDE]) for _ in range(2))
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(one, other)))
    return Step(lambda: multiply().numpy(), SIDE**3)


# --- measuring ---


def measure(steps: Mapping[str, Step], rounds: int, warm: int = 3) -> dict[str, Timed]:
    """All steps in turn, round after round, each several times in its turn."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(warm + rounds):
        for name, step in steps.items():
            for _ in range(IN_A_ROW):
                start, worked = time.perf_counter(), time.process_time()
                step.run()
                if number >= warm:
                    took[name].append((time.perf_counter() - start, time.process_time() - worked))
    found = {}
    for name, each in took.items():
        seconds, worked = zip(*each, strict=True)
        found[name] = Timed(min(seconds), float(np.median(seconds)), float(np.median(worked)))
    return found


def table(first: str, found: Mapping[str, Mapping[str, Step]], rounds: int, rate: Step) -> str:
    """A row for each thing, in Markdown; of each of its steps the time, and that over its floor."""
    steps = {f"{row}/{name}": step for row, of in found.items() for name, step in of.items()}
    timed = measure({**steps, "": rate}, rounds)
    speed, work = rate.count / timed[""].best, timed[""].worked / rate.count
    names = list(next(iter(found.values())))
    header = [first, "million multiply-adds", "floor, ms"]
    for name in names:
        header += [f"{name}, ms", "times the floor", "share of the floor's rate", "processor time"]
    rows = []
    for row, of in found.items():
        floor = of[names[0]].count / speed
        cells = [row, f"{of[names[0]].count / 1e6:,.1f}", f"{1e3 * floor:.3f}"]
        for name in names:
            took = timed[f"{row}/{name}"]
            cells += [
                f"{1e3 * took.best:.2f} ({1e3 * took.median:.2f})",
                f"{took.best / floor:.1f}",
                f"{floor / took.best:.0%}",
                f"{took.worked / (of[names[0]].count * work):.1f}",
            ]
        rows.append(cells)
    return f"{markdown(header, rows)}\n\n{speed / 1e9:.1f} billion multiply-adds a second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--only", choices=("answers", "training"))
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch) / "log")
    sizes = {"width": chosen.width, "blocks": chosen.blocks}
    if chosen.only != "training":
        with tempfile.TemporaryDirectory() as folder:
            found = answers(world, ModelConfig(**sizes), Path(folder))
        tables.append(table("candidates", found, chosen.rounds, product()))
        print(tables[-1], flush=True)
    if chosen.only != "answers":
        configs = {name: ModelConfig(name=name, **sizes) for name in models.REGISTRY}
        found = {"encoder": {"training step": encoder_training(ModelConfig(**sizes))}}
        found |= trainings(world, configs)
        tables.append(table("model", found, chosen.rounds, product()))
        print(tables[-1], flush=True)
    if chosen.output:
        chosen.output.write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
