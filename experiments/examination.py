"""Examination by rank in a simulated world: estimated from its log, and as the world has it.

    .venv/bin/python experiments/examination.py worlds/main.json experiments/runs/main/logs

The truth is the mean probability to look at a rank, over the lists of the training days that are so
long, in the order in which they were shown; on the top rank it is 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from piano_tf.data.logs import read_columns
from piano_tf.propensity import DEPTH, read_examination
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.searches import searches_of


def true_examination(world: World, days: range) -> np.ndarray:
    """[DEPTH] means over lists of at least as many candidates."""
    total, count = np.zeros(DEPTH), np.zeros(DEPTH)
    for day in days:
        searches = searches_of(world, day)
        expected = world.behaviour.expected(searches.appeal(world))
        total += expected.examination[:, :DEPTH].sum(axis=0)
        count += searches.mask[:, :DEPTH].sum(axis=0)
    return total / count


def main(world_file: Path, log_dir: Path) -> None:
    config = SimulationConfig.load(world_file)
    newest = max(
        batch["timestamp"].to_numpy().max()
        for batch in read_columns(log_dir, "train", ["timestamp"])
    )
    days = range((int(newest) - config.start) // 86_400 + 1)
    truth = true_examination(World(config), days)
    found = {
        "randomised lists": read_examination(
            log_dir, depth=DEPTH, randomised=("context_slice", "randomised")
        ),
        "pairs that moved": read_examination(log_dir, depth=DEPTH),
    }
    ranks = np.arange(DEPTH)
    print("| rank | truth |", " | ".join(found), "|")
    print("|---|---:|", "---:|" * len(found), sep="")
    for rank in ranks:
        values = (f"{model.at(np.array(rank)):.3f}" for model in found.values())
        print(f"| {1 + rank} | {truth[rank]:.3f} |", " | ".join(values), "|")
    for name, model in found.items():
        print(f"{name}: mean absolute error {np.abs(model.at(ranks) - truth).mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
