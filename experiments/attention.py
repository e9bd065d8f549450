"""Whether QDIR's attention falls on past queries of the same true intent.

    export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1
    .venv/bin/python experiments/attention.py worlds/main.json experiments/runs/main/logs \\
        experiments/runs/main/models-0/piano/1

trains each exported model once more, for what is exported does not say where it looks, and makes
sure that it is the same: with one thread, as in scripts/experiment.sh. It prints, for lists of the
first days after the log, the share of attention on past acts of the present query's intent, beside
the share of these among all past acts, which is what an attention that knows nothing would have.
Lists without such a past act, or without any other, do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from piano_tf.data.batches import padded
from piano_tf.evaluation.predictions import predict
from piano_tf.evaluation.served import predict_exported
from piano_tf.evaluation.significance import interval
from piano_tf.evaluation.tables import Table
from piano_tf.experiment.traffic import past_of_the_log
from piano_tf.export import CARD_FILE, ModelCard
from piano_tf.models.piano import PIANO
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.past import History
from piano_tf.simulation.queries import FAMILIES
from piano_tf.simulation.searches import DAY, Searches, searches_of
from piano_tf.training import EncodedLog, fit_log

DAYS = 7
ROWS = 256


class Looks(NamedTuple):
    """What lists have in common with their listeners' pasts.

    Attributes:
      listener, kind: [B].
      attention: [B] on past acts of the same intent.
      share: [B] of these among all past acts.
    """

    listener: np.ndarray
    kind: np.ndarray
    attention: np.ndarray
    share: np.ndarray

    def of(self, rows: np.ndarray) -> Looks:
        return Looks(*(values[rows] for values in self))


def same_intent(
    world: World, searches: Searches, history: History, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """[B, width] which past acts are of the present query's intent, and which there are."""
    there = np.arange(history.length.max(initial=0)) < history.length[:, np.newaxis]
    query, age = np.zeros(there.shape, np.int64), np.zeros(there.shape)
    query[there], age[there] = history.query, history.age
    time = searches.time[:, np.newaxis] - age * DAY
    day = np.where(there, (time - world.config.start) // DAY, 0).astype(np.int64)
    listener = searches.listener[:, np.newaxis]
    past = world.queries.intent(day, listener, query)
    present = world.queries.intent(searches.day, searches.listener, searches.query)
    same = (past == present[:, np.newaxis]) & there
    return same[:, :width], there[:, :width]


def trained_again(log: EncodedLog, model_dir: Path) -> PIANO:
    """The model that was exported, in Keras."""
    config = ModelCard.load(model_dir / CARD_FILE).config
    fitted = fit_log(log, config, verbose=2)
    if not isinstance(fitted.model, PIANO):
        raise SystemExit(f"{model_dir}: got a {config.model.name!r}, expected a 'piano'")
    once = predict_exported(model_dir, log.log_dir, "test")
    again = predict(fitted.model, fitted.score, log.batches("test", ROWS))
    if not np.allclose(once.click, again.click, atol=1e-4):
        raise SystemExit(f"{model_dir}: training again gave another model; expected one thread")
    return fitted.model


def looks(world: World, log: EncodedLog, model: PIANO) -> Looks:
    """Looks where a model looks."""
    past, _ = past_of_the_log(world)
    columns = ListColumns(world)

    def parts() -> Iterator[Looks]:
        for day in range(world.config.days, world.config.days + DAYS):
            of_day = searches_of(world, day, randomised=False)
            for first in range(0, len(of_day.number), ROWS):
                searches = of_day.rows(slice(first, first + ROWS))
                history = past.of(searches)
                rows = columns.batch(searches, history)
                raw = padded(rows, log.encoder.features, labels=False)
                batch = log.encoder({name: tf.constant(values) for name, values in raw.items()})
                attention = model.attention(batch).numpy().mean(axis=1)[:, 1:]
                same, there = same_intent(world, searches, history, attention.shape[1])
                attention = attention[:, : same.shape[1]]
                kind = world.queries.kind[world.queries.spelt_right(searches.query)]
                share = same.sum(axis=1) / np.maximum(1, there.sum(axis=1))
                found = Looks(searches.listener, kind, (attention * same).sum(axis=1), share)
                yield found.of((share > 0) & (share < 1))

    return Looks(*map(np.concatenate, zip(*parts(), strict=True)))


def mean_over_listeners(values: np.ndarray, listener: np.ndarray) -> str:
    """The mean over lists, with a 95 % interval by bootstrap over listeners."""
    mean = interval(values, seed=0, resamples=1_000, clusters=listener)
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def main(world_file: Path, log_dir: Path, *models: Path) -> None:
    world = World(SimulationConfig.load(world_file))
    rows = []
    for model_dir in models:
        config = ModelCard.load(model_dir / CARD_FILE).config
        with EncodedLog(log_dir, config.encoding) as log:
            found = looks(world, log, trained_again(log, model_dir))
        for name, kinds in FAMILIES.items():
            some = found.of(np.isin(found.kind, kinds))
            if len(some.share):
                of_listeners = (
                    mean_over_listeners(values, some.listener)
                    for values in (some.attention, some.share)
                )
                rows.append([model_dir.parent.name, name, f"{len(some.share):,}", *of_listeners])
    header = ["model", "query", "lists", "attention on the same intent", "its share of the past"]
    print(Table("Attention and true intent", "", header, rows).markdown())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
