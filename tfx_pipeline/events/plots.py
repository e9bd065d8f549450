"""The figures of the page on what became of events."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from piano_tf.features import CLICK, CONVERSION, LABELS
from piano_tf.pages import COLOURS, MARK, STYLE, Plot
from tfx_pipeline.events import tallies
from tfx_pipeline.events.reconciliation import Tally

_COLOURS = {CLICK: COLOURS[0], CONVERSION: MARK}
_SETTLED, _HELD_BACK = COLOURS[:2]


def plots(tally: Tally) -> Iterator[Plot]:
    """All figures that there is something to show in."""
    with matplotlib.rc_context(STYLE):
        yield _lists_by_day(tally)
        yield _rates_by_position(tally)
        yield _history_lengths(tally)
        if any(tally.of(tallies.delay_of(label)) for label in LABELS):
            yield _delays(tally)
        if tally.reasons():
            yield _dead_letters(tally)


def _lists_by_day(tally: Tally) -> Plot:
    figure, axes = _figure()
    below: dict[int, int] = {}
    for name, label, colour in (
        (tallies.SETTLED, "settled", _SETTLED),
        (tallies.HELD_BACK, "held back", _HELD_BACK),
    ):
        lists = tally.of(name)
        days = np.array(list(lists), "datetime64[D]")
        bottom = [below.get(day, 0) for day in lists]
        axes.bar(days, list(lists.values()), bottom=bottom, width=0.9, color=colour, label=label)
        below |= lists
    axes.set_ylabel("lists")
    axes.legend()
    figure.autofmt_xdate()
    return Plot("Lists by day", "UTC days; held back are lists whose window is not over.", figure)


def _rates_by_position(tally: Tally) -> Plot:
    figure, axes = _figure()
    shown = tally.of(tallies.SHOWN)
    for label in LABELS:
        acted = tally.of(tallies.acted(label))
        rates = [acted.get(position, 0) / count for position, count in shown.items()]
        places = np.array(list(shown)) + 1
        axes.plot(places, rates, marker="o", ms=3, color=_COLOURS[label], label=label)
    axes.set(xlabel="position in the list", ylabel="share of shown items", ylim=(0, None))
    axes.legend()
    return Plot(
        "Clicks and conversions by position",
        "Of settled lists; a conversion is a click too.",
        figure,
    )


def _history_lengths(tally: Tally) -> Plot:
    figure, axes = _figure()
    lengths = tally.of(tallies.HISTORY)
    axes.bar(list(lengths), list(lengths.values()), width=0.9, color=_SETTLED)
    axes.set(xlabel="entries of the history", ylabel="lists")
    return Plot("Length of the history", "Of settled lists; at most what the mapping says.", figure)


def _delays(tally: Tally) -> Plot:
    figure, axes = _figure()
    for label in LABELS:
        bins = tally.of(tallies.delay_of(label))
        if not bins:
            continue
        total = sum(bins.values())
        share = np.cumsum(list(bins.values())) / total
        seconds = [tallies.delay_below(number) for number in bins]
        axes.step(
            seconds, share, where="post", marker="o", ms=3, color=_COLOURS[label], label=label
        )
    axes.set(
        xscale="log", xlabel="seconds after the request, at most", ylabel="share", ylim=(0, 1.02)
    )
    axes.legend()
    return Plot(
        "Delay of acts",
        "Share of used acts that came within so many seconds of their request; a curve that still "
        "rises at its end asks for a longer window.",
        figure,
    )


def _dead_letters(tally: Tally) -> Plot:
    reasons = tally.reasons()
    figure, axes = _figure(height=0.6 + 0.25 * len(reasons))
    names = [f"{kind}: {reason}" for kind, reason in reasons]
    shares = [count / max(tally.rows(kind), 1) for (kind, _), count in reasons.items()]
    axes.barh(names[::-1], shares[::-1], color=_COLOURS[CONVERSION])
    axes.set(xlabel="share of what was read of its kind")
    axes.grid(axis="y", visible=False)
    return Plot("Dead letters", "Each with the reason why it is not used.", figure)


def _figure(height: float = 2.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots()
