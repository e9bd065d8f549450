"""Clicks against conversions in a simulated world: sorting, list selection, and the best there is.

    .venv/bin/python experiments/frontier.py worlds/main.json \\
        experiments/runs/main/models-0/piano-propensity/1 experiments/runs/main/frontier

writes a table (`.md`) and a plot (`.svg`). Lists are of the first days after the log, histories
those of the log; CTR and CVR are exact expectations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.progress import track

from piano_tf.evaluation.tables import Table
from piano_tf.experiment.config import SelectionConfig, Weights
from piano_tf.experiment.optimum import best_order, list_value
from piano_tf.experiment.policies import (
    FirstStage,
    ListSelection,
    Policy,
    Predictor,
    Request,
    Sorted,
    by_score,
)
from piano_tf.experiment.served import exported
from piano_tf.experiment.traffic import past_of_the_log
from piano_tf.pages import STYLE, svg
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.behaviour import Appeal
from piano_tf.simulation.draws import Ints, logistic
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.searches import searches_of

DAYS = 3
LISTS = 300  # of each day
SWEEP: tuple[Weights, ...] = (
    (1.0, 0.0),
    (1.0, 0.25),
    (1.0, 0.5),
    (1.0, 1.0),
    (1.0, 2.0),
    (0.0, 1.0),
)
VALUES: tuple[Weights, ...] = ((1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0), (0.0, 1.0))

Orders = Callable[[Request, Appeal], Ints]
Points = dict[str, list[tuple[Weights, float, float]]]
"""Curve -> weights, CTR and CVR of each of its points."""


def curves(world: World, predictor: Predictor) -> dict[str, dict[Weights, Orders]]:
    """Curve -> weights -> what orders lists so."""
    behaviour = world.behaviour
    orders = SelectionConfig().sweep

    def by_truth(weights: Weights) -> Orders:
        def order(_: Request, appeal: Appeal) -> Ints:
            click, conversion = (np.log(logistic(x)) for x in (appeal.click, appeal.conversion))
            return by_score(weights[0] * click + weights[1] * conversion, appeal.mask)

        return order

    def chosen_by_truth(value: Weights) -> Orders:
        policies = [Sorted(predictor, weights) for weights in orders]

        def order(request: Request, appeal: Appeal) -> Ints:
            found = [policy.order(request) for policy in policies]
            values = [list_value(behaviour.expected(appeal.ordered(one)), value) for one in found]
            return np.stack(found)[np.argmax(values, axis=0), np.arange(len(appeal.mask))]

        return order

    def best_by_truth(value: Weights) -> Orders:
        return lambda _, appeal: best_order(behaviour, appeal, value)

    def of(policy: Policy) -> Orders:
        return lambda request, _: policy.order(request)

    return {
        "first stage": {(0.0, 0.0): of(FirstStage())},
        "the model, sorted": {weights: of(Sorted(predictor, weights)) for weights in SWEEP},
        "the model, list selection": {
            value: of(ListSelection(predictor, orders, value)) for value in VALUES
        },
        "the same orders, chosen by truth": {value: chosen_by_truth(value) for value in VALUES},
        "truth, sorted": {weights: by_truth(weights) for weights in SWEEP},
        "truth, best order": {value: best_by_truth(value) for value in VALUES},
    }


def requests(world: World) -> list[Request]:
    """Some lists of the first days after the log."""
    past, _ = past_of_the_log(world)
    found = []
    for day in range(world.config.days, world.config.days + DAYS):
        searches = searches_of(world, day, randomised=False)
        searches = searches.rows(np.arange(min(LISTS, len(searches.number))))
        found.append(Request(searches, past.of(searches), ListColumns(world)))
    return found


def points_of(world: World, predictor: Predictor, requests: Sequence[Request]) -> Points:
    """Where every way of ordering some lists comes out."""
    shown = [(request, request.searches.appeal(world)) for request in requests]
    points: Points = {}
    for name, of_weights in curves(world, predictor).items():
        points[name] = []
        for weights, order in track(of_weights.items(), description=name):
            expected = [
                world.behaviour.expected(appeal.ordered(order(request, appeal)))
                for request, appeal in shown
            ]
            ctr = np.concatenate([of_day.list_click for of_day in expected]).mean()
            cvr = np.concatenate([of_day.list_conversion for of_day in expected]).mean()
            points[name].append((weights, float(ctr), float(cvr)))
    return points


def main(world_file: Path, model: Path, output: Path) -> None:
    world = World(SimulationConfig.load(world_file))
    shown = requests(world)
    points = points_of(world, exported(model), shown)
    rows = [
        [name, f"{a:g}, {b:g}", f"{ctr:.4f}", f"{cvr:.4f}"]
        for name, of_name in points.items()
        for (a, b), ctr, cvr in of_name
    ]
    lists = sum(len(request.searches.number) for request in shown)
    table = Table(
        "Clicks against conversions",
        f"{lists:,} lists; exact expectations. Sorting is by a log p(click) + b log p(conversion | "
        "click), selection and the best order by a P(any click) + b P(any conversion).",
        ["order", "a, b", "CTR", "CVR"],
        rows,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text(f"{table.caption}\n\n{table.markdown()}\n")
    with matplotlib.rc_context(STYLE):
        output.with_suffix(".svg").write_bytes(svg(plot(points)))
    print(table.markdown())


def plot(points: Points) -> Figure:
    """A curve for each way, the first stage as a point; all, and once more what a model reaches."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    whole, near = figure.subplots(1, 2)
    for axes, shown in (
        (whole, list(points)),
        (near, [n for n in points if not n.startswith("truth")]),
    ):
        for number, name in enumerate(points):
            if name in shown:
                ctr, cvr = zip(*[(ctr, cvr) for _, ctr, cvr in points[name]], strict=True)
                axes.plot(ctr, cvr, marker="o", markersize=4, color=f"C{number}", label=name)
        axes.set_xlabel("CTR: lists with a click")
    whole.set_ylabel("CVR: lists with a conversion")
    whole.legend()
    near.set_title("nearer")
    return figure


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
