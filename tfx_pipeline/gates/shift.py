"""How far two sets of lists differ, read from TFDV's statistics of them.

TFDV's own comparators look at values alone. What is measured here are the lengths of lists, rates,
and which items are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tensorflow_metadata.proto.v0 import statistics_pb2

from piano_tf.features import CLICK, CONVERSION
from tfx_pipeline.configs import Shift
from tfx_pipeline.gates.findings import Finding

Statistics = statistics_pb2.DatasetFeatureStatisticsList
_HISTORY = "history_item_id"
_ITEM = "item_id"
# In standard errors, which is rare by chance alone [ours].
_NOISE = 3.0


def shifts(
    left: Statistics, right: Statistics, limits: Shift, where: str, key: str
) -> Iterator[Finding]:
    """What differs more between two sets of lists than it may.

    Args:
      left, right: Their statistics.
      limits: How much may differ.
      where: The two sides, in words.
      key: Of the limits among the thresholds.
    """
    for column, measure, limit, what in (
        (CLICK, click_rate, limits.click_rate, "click rate"),
        (_HISTORY, history_length, limits.history_length, "mean length"),
    ):
        before, after = measure(left), measure(right)
        if not _factor(before, after) <= limit:
            yield Finding(
                column,
                where,
                f"{what} within a factor of {limit:g} ({key}.{measure.__name__})",
                f"{before:.4g} and {after:.4g}",
            )
    factor = conversion_shift(left, right)
    if not factor <= limits.conversion_odds:
        before, after = conversions_per_click(left), conversions_per_click(right)
        yield Finding(
            CONVERSION,
            where,
            f"odds after a click within a factor of {limits.conversion_odds:g}, beyond noise "
            f"({key}.conversion_odds)",
            f"{before:.4g} and {after:.4g} per click",
        )
    distance = item_distance(left, right)
    if not distance <= limits.items:
        rule = f"total variation at most {limits.items:g} ({key}.items)"
        yield Finding(_ITEM, where, rule, f"{distance:.3f}")


def click_rate(statistics: Statistics) -> float:
    """The share of candidates that were clicked."""
    return column_of(statistics, CLICK).num_stats.mean


def conversions_per_click(statistics: Statistics) -> float:
    """The share of clicks that converted, 0 where there are none."""
    converted, clicks = _total(statistics, CONVERSION), _total(statistics, CLICK)
    return converted / clicks if clicks else 0.0


def conversion_shift(left: Statistics, right: Statistics) -> float:
    """By what factor the odds that a click converts differ, at least and beyond noise: 1 or more.

    Odds, because flipped labels turn a share of two thirds into no more than its half, but its odds
    into a quarter. Off the logarithm of their ratio go three standard errors, those of two sides
    that convert alike, for conversions are few. Half a click more of either kind on each side
    keeps the ratio finite.
    """
    (converted, not_converted), (other_converted, other_not) = map(_outcomes, (left, right))
    clicks, other_clicks = converted + not_converted, other_converted + other_not
    share = (converted + other_converted) / (clicks + other_clicks)
    error = math.sqrt((1 / clicks + 1 / other_clicks) / (share * (1 - share)))
    change = abs(math.log(converted / not_converted) - math.log(other_converted / other_not))
    return math.exp(max(0.0, change - _NOISE * error))


def _outcomes(statistics: Statistics) -> tuple[float, float]:
    """How many clicks converted, and how many did not, half a one added to each."""
    converted = _total(statistics, CONVERSION)
    return converted + 0.5, _total(statistics, CLICK) - converted + 0.5


def _total(statistics: Statistics, label: str) -> int:
    """How often a label is 1."""
    found = column_of(statistics, label).num_stats
    return round(found.mean * found.common_stats.tot_num_values)


def history_length(statistics: Statistics) -> float:
    """The mean number of history entries, lists without any included."""
    values = common(statistics, _HISTORY).tot_num_values
    lists = statistics.datasets[0].num_examples
    return values / lists if lists else 0.0


def item_distance(left: Statistics, right: Statistics) -> float:
    """Total variation between the shares that items have of what is shown, 0 to 1.

    Statistics list the most frequent values alone. An item that one side does not list is taken to
    have as large a share there as the least that is listed, or as the other side's if that is less:
    the distance is never overstated.
    """
    before, after = shares_of(left, _ITEM), shares_of(right, _ITEM)
    lost = max(_mass_lost(before, after), _mass_lost(after, before))
    return min(lost, 1.0)  # a sum of shares may exceed it by a rounding


def _mass_lost(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    complete = sum(right.values()) > 1 - 1e-9
    unlisted = 0.0 if complete else min(right.values(), default=0.0)
    return sum(max(0.0, share - right.get(item, unlisted)) for item, share in left.items())


def shares_of(statistics: Statistics, column: str) -> dict[str, float]:
    """The most frequent values of a column of text, with their shares of all of its values."""
    strings = column_of(statistics, column).string_stats
    total = strings.common_stats.tot_num_values
    return {one.value: one.frequency / total for one in strings.top_values} if total else {}


def _factor(before: float, after: float) -> float:
    """By what the larger exceeds the smaller; NaN where a rate is none."""
    if before == after:
        return 1.0
    small, large = sorted((before, after))
    return large / small if small > 0 else math.inf


def common(statistics: Statistics, column: str) -> statistics_pb2.CommonStatistics:
    """What is said of a column whatever its type: how many values its lists have."""
    found = column_of(statistics, column)
    is_text = found.HasField("string_stats")
    return (found.string_stats if is_text else found.num_stats).common_stats


def column_of(statistics: Statistics, column: str) -> statistics_pb2.FeatureNameStatistics:
    """A column's statistics, empty ones where it has no value at all."""
    for one in statistics.datasets[0].features:
        if list(one.path.step) == [column]:
            return one
    return statistics_pb2.FeatureNameStatistics()
