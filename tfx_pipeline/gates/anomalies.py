"""TFDV's anomalies in words: the rule of the schema that is broken, and what was found instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from tfx_pipeline.gates.findings import spelt
from tfx_pipeline.gates.shift import Statistics, column_of, common, shares_of

Told = tuple[str, str]
"""A rule and a value, as `Finding` has them."""
_Anomaly = anomalies_pb2.AnomalyInfo
_NAMED = 3  # values that are named one by one
_LARGEST_DOMAIN = 12  # which is spelt out
_CHANGED = "The feature value with maximum difference is: "


def told_of_schema(
    anomalies: anomalies_pb2.Anomalies, statistics: Statistics, schema: schema_pb2.Schema
) -> Iterator[tuple[str, str, str]]:
    """Column, rule and value of whatever a split has against the schema.

    Args:
      anomalies: TFDV's.
      statistics: Of the split.
      schema: That it was held to.
    """
    rules = {one.name: one for one in schema.feature}
    for column, anomaly in sorted(anomalies.anomaly_info.items()):
        for reason in anomaly.reason:
            if (words := _WORDS.get(reason.type)) is not None:
                rule, value = words(rules.get(column), column, statistics, schema)
            else:
                rule, value = reason.short_description, reason.description.strip()
            yield column, _of_schema(rule), value


def told_of_comparison(anomalies: anomalies_pb2.Anomalies) -> Iterator[tuple[str, str, str]]:
    """Column, rule and value of what changed by more than the schema's comparators allow.

    Args:
      anomalies: TFDV's, of two sets of statistics.
    """
    measured = {
        (info.path.step[0], one.type): one
        for info in anomalies.drift_skew_info
        for one in (*info.skew_measurements, *info.drift_measurements)
    }
    for column, anomaly in sorted(anomalies.anomaly_info.items()):
        for reason in anomaly.reason:
            if (kind := _MEASURES.get(reason.type)) is None:
                continue
            measure, name = kind
            found = measured[column, measure]
            _, _, value = reason.description.partition(_CHANGED)
            of = f", of {value!r}" if value else ""
            yield (
                column,
                _of_schema(f"{name} at most {found.threshold:g}"),
                f"{found.value:.4g}{of}",
            )


def _of_schema(rule: str) -> str:
    return f"{rule} (schema)"


_Distance = anomalies_pb2.DriftSkewInfo.Measurement
_MEASURES = {
    _Anomaly.COMPARATOR_L_INFTY_HIGH: (
        _Distance.L_INFTY,
        "change in the share of any value",
    ),
    _Anomaly.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH: (
        _Distance.JENSEN_SHANNON_DIVERGENCE,
        "Jensen-Shannon divergence",
    ),
}


def _foreign(
    rule: schema_pb2.Feature, column: str, statistics: Statistics, schema: schema_pb2.Schema
) -> Told:
    domains = {one.name: one for one in schema.string_domain}
    known = [*(domains[rule.domain] if rule.HasField("domain") else rule.string_domain).value]
    spelt = len(known) <= _LARGEST_DOMAIN
    wanted = ", ".join(map(repr, known)) if spelt else f"{len(known)} values that it names"
    found = [one for one in shares_of(statistics, column).items() if one[0] not in known]
    named = [f"{value!r} ({100 * share:.3g} % of values)" for value, share in found[:_NAMED]]
    if len(found) > _NAMED:
        named.append(f"{len(found) - _NAMED} more")
    return f"one of {wanted}", ", ".join(named) or "rare other values"


def _least(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    domain = rule.int_domain if rule.HasField("int_domain") else rule.float_domain
    return f"at least {spelt(domain.min)}", spelt(column_of(statistics, column).num_stats.min)


def _most(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    domain = rule.int_domain if rule.HasField("int_domain") else rule.float_domain
    return f"at most {spelt(domain.max)}", spelt(column_of(statistics, column).num_stats.max)


def _shortest(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    found = common(statistics, column).min_num_values
    return f"at least {rule.value_count.min} values", f"{found}"


def _longest(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    found = common(statistics, column).max_num_values
    return f"at most {rule.value_count.max} values", f"{found}"


def _rarest(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    lists = int(statistics.datasets[0].num_examples)
    missing = lists - common(statistics, column).num_non_missing
    least = rule.presence.min_fraction
    share = "every list" if least == 1 else f"at least {100 * least:.4g} % of lists"
    return f"a value in {share}", f"none in {missing} of {lists} lists"


def _fewest(rule: schema_pb2.Feature, column: str, statistics: Statistics, _: object) -> Told:
    found = common(statistics, column).num_non_missing
    return f"a value in at least {rule.presence.min_count} lists", f"a value in {found}"


def _gone(*_: object) -> Told:
    return "a column of this name", "none"


def _new(*_: object) -> Told:
    return "no column of this name", "one"


_WORDS: dict[int, Callable[..., Told]] = {
    _Anomaly.ENUM_TYPE_UNEXPECTED_STRING_VALUES: _foreign,
    _Anomaly.FLOAT_TYPE_SMALL_FLOAT: _least,
    _Anomaly.INT_TYPE_SMALL_INT: _least,
    _Anomaly.FLOAT_TYPE_BIG_FLOAT: _most,
    _Anomaly.INT_TYPE_BIG_INT: _most,
    # What TFDV says of a list's length names neither the bound nor the length.
    _Anomaly.FEATURE_TYPE_LOW_NUMBER_VALUES: _shortest,
    _Anomaly.FEATURE_TYPE_HIGH_NUMBER_VALUES: _longest,
    _Anomaly.FEATURE_TYPE_LOW_FRACTION_PRESENT: _rarest,
    _Anomaly.FEATURE_TYPE_LOW_NUMBER_PRESENT: _fewest,
    _Anomaly.SCHEMA_MISSING_COLUMN: _gone,
    _Anomaly.SCHEMA_NEW_COLUMN: _new,
}
