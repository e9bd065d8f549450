"""The figures of a report. A model has one colour in all of them; the reference stands out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from piano_tf.evaluation.config import INITIAL_ORDER
from piano_tf.evaluation.probability import BINS
from piano_tf.evaluation.results import Comparison
from piano_tf.evaluation.summary import GAINS, TRADE_OFF, Row, slices_of
from piano_tf.evaluation.tables import ranked
from piano_tf.features import LABELS, OUTPUTS
from piano_tf.pages import COLOURS, INK, MARK, STYLE, Plot

_OTHER = "#9a9a9a"

_OUTPUT_NAMES = {
    "click": "items: click",
    "conversion": "items: conversion",
    "list_click": "lists: at least one click",
    "list_conversion": "lists: at least one conversion",
}


def plots(comparison: Comparison) -> Iterator[Plot]:
    """All figures that there is something to show in."""
    with matplotlib.rc_context(STYLE):
        yield _quality(comparison)
        if comparison.ablated:
            yield _ablations(comparison)
        yield _trade_off(comparison)
        yield _gains(comparison)
        yield _calibration(comparison)


class _Look:
    """Which models are drawn as lines, and in what colour."""

    def __init__(self, comparison: Comparison) -> None:
        reference = comparison.reference
        rivals = [row for row in ranked(comparison.models) if row.name != reference]
        shown = rivals[: len(COLOURS)]
        self.reference = reference
        self.rows = [*shown, comparison.row(reference)]  # the reference last, on top
        self.left_out = len(rivals) - len(shown)
        self.colours = {row.name: colour for row, colour in zip(shown, COLOURS, strict=False)} | {
            reference: MARK
        }

    def colour(self, name: str) -> str:
        return self.colours.get(name, _OTHER)

    def line(self, name: str) -> dict:
        own = name == self.reference
        return {
            "color": self.colour(name),
            "linewidth": 2.2 if own else 1.2,
            "zorder": 4 if own else 3,
            "label": name,
        }

    def note(self) -> str:
        """Says so where models are missing."""
        if not self.left_out:
            return ""
        return f" Shown are {self.reference} and the {len(self.rows) - 1} best others."

    def legend(self, figure: Figure, axes: Axes) -> None:
        handles, names = axes.get_legend_handles_labels()
        pairs = list(zip(handles, names, strict=True))
        pairs.sort(key=lambda pair: pair[1] != self.reference)  # the reference first
        figure.legend(
            [handle for handle, _ in pairs],
            [name for _, name in pairs],
            loc="outside lower center",
            ncols=min(len(pairs), 5),
        )


def _panels(
    count: int, *, height: float, rows: int = 1, share: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [count], line by line; with `share` those of a line have one scale."""
    figure = Figure(figsize=(9.5, height * rows), layout="constrained")
    axes = figure.subplots(rows, count // rows, sharey="row" if share else False, squeeze=False)
    return figure, axes.ravel()


def _quality(comparison: Comparison) -> Plot:
    look = _Look(comparison)
    rows = ranked(comparison.models)[::-1]
    figure, panels = _panels(len(GAINS), height=1.1 + 0.27 * len(rows))
    for axes, metric, label in zip(panels, GAINS, LABELS, strict=True):
        _dots(axes, rows, [row.values[metric] for row in rows], look)
        initial = comparison.row(INITIAL_ORDER).values[metric].value
        axes.axvline(initial, color=INK, linestyle="--", linewidth=1)
        axes.set_title(f"{label} NDCG@10")
    figure.legend([panels[0].lines[-1]], [INITIAL_ORDER], loc="outside lower center")
    panels[1].set_yticklabels([])
    return Plot(
        "How well each model orders the lists",
        "Mean NDCG@10 over lists and seeds (dot) with its 95 % interval (bar); to the right is "
        "better, the dashed line is the order that was there before. Overlapping bars do not say "
        "that two models are alike: the same lists are compared, which the table's leads make use "
        "of.",
        figure,
    )


def _ablations(comparison: Comparison) -> Plot:
    look = _Look(comparison)
    rows = ranked(comparison.ablated)[::-1]
    figure, panels = _panels(len(GAINS), height=1.1 + 0.27 * len(rows))
    for axes, metric, label in zip(panels, GAINS, LABELS, strict=True):
        _dots(axes, rows, [row.leads[metric][:3] for row in rows], look)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_title(f"lead in {label} NDCG@10")
    panels[1].set_yticklabels([])
    return Plot(
        f"{comparison.reference} with one thing changed",
        f"By how much {comparison.reference} is better as it is than with what the row says, with "
        "the 95 % interval of the difference: to the right of 0 the change hurts.",
        figure,
    )


def _dots(axes: Axes, rows: Sequence[Row], values: Sequence[Sequence[float]], look: _Look) -> None:
    """A dot with a bar per row, (value, low, high), from the bottom up."""
    for place, (row, (value, low, high)) in enumerate(zip(rows, values, strict=True)):
        colour = look.colour(row.name)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.6)
        axes.plot(value, place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row.name == look.reference:
            tick.set_fontweight("bold")


def _trade_off(comparison: Comparison) -> Plot:
    look = _Look(comparison)
    figure, (axes,) = _panels(1, height=4.6)
    for row in look.rows:
        x, y = row.trade_off.T
        axes.plot(x, y, marker=".", **look.line(row.name))
        axes.plot(x[0], y[0], "o", color=look.colour(row.name), markersize=6, zorder=5)
    for weight, (x, y) in zip(TRADE_OFF, comparison.row(look.reference).trade_off, strict=True):
        if weight in (0.0, 1.0, TRADE_OFF[-1]):
            axes.annotate(f"b = {weight:g}", (x, y), (5, 5), textcoords="offset points", zorder=6)
    initial = [comparison.row(INITIAL_ORDER).values[metric].value for metric in GAINS]
    axes.plot(*initial, "x", color=INK, label=INITIAL_ORDER)
    axes.set_xlabel("click NDCG@10")
    axes.set_ylabel("conversion NDCG@10")
    look.legend(figure, axes)
    return Plot(
        "What more conversions cost in clicks",
        "Each model's lists ordered by log p(click) + b · log p(conversion | click), from b = 0, "
        f"by click alone (large dot), to b = {TRADE_OFF[-1]:g}. Further up and to the right is "
        "better." + look.note(),
        figure,
    )


def _gains(comparison: Comparison) -> Plot:
    look = _Look(comparison)
    slices = [
        (feature, list(parts))
        for feature, parts in itertools.groupby(
            slices_of(comparison.lists), key=lambda part: part.feature
        )
    ]
    figure, panels = _panels(len(GAINS) * len(slices), rows=len(GAINS), height=2.7, share=True)
    panels = panels.reshape(len(GAINS), -1)
    width = 0.6 / max(len(look.rows) - 1, 1)
    for line, metric, label in zip(panels, GAINS, LABELS, strict=True):
        for axes, (feature, parts) in zip(line, slices, strict=True):
            for number, row in enumerate(look.rows):
                found = np.array([row.slices[metric, feature, part.name] for part in parts])
                value, low, high = found.T
                x = np.arange(len(parts)) + width * (number - (len(look.rows) - 1) / 2)
                style = look.line(row.name)
                axes.vlines(x, low, high, color=style["color"], linewidth=1.2, alpha=0.6)
                axes.plot(
                    x,
                    value,
                    "o",
                    markersize=5 if row.name == look.reference else 3.5,
                    color=style["color"],
                    label=row.name,
                    zorder=style["zorder"],
                )
            axes.axhline(0, color=INK, linewidth=1)
            axes.grid(visible=False, axis="x")
            axes.set_xticks(range(len(parts)), [part.name for part in parts])
            axes.set_xlabel(feature)
        line[0].set_ylabel(f"gain in {label} NDCG@10")
    look.legend(figure, panels[0, 0])
    return Plot(
        "Who gains from re-ranking",
        "NDCG@10 minus that of the initial order, with 95 % intervals, in quarters of the lists: "
        "by how many past actions of the listener are known, how often the query was asked in "
        "training, and how often the clicked items were clicked in training." + look.note(),
        figure,
    )


def _calibration(comparison: Comparison) -> Plot:
    look = _Look(comparison)
    figure, panels = _panels(len(OUTPUTS), rows=2, height=3.4)
    for axes, output in zip(panels, OUTPUTS, strict=True):
        furthest = 0.0
        for row in look.rows:
            curve = row.calibration[output]
            axes.plot(curve.predicted, curve.observed, marker=".", **look.line(row.name))
            furthest = max(furthest, *curve.predicted, *curve.observed)
        axes.plot([0, furthest], [0, furthest], color=INK, linewidth=1, linestyle=":")
        axes.set_title(_OUTPUT_NAMES[output])
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")
    look.legend(figure, panels[0])
    return Plot(
        "Whether the probabilities can be believed",
        f"Predictions of all seeds in {BINS} bins of equal count: what was said on average against "
        "how often it happened. On the dotted line a probability means what it says; above it the "
        "model said too little." + look.note(),
        figure,
    )
