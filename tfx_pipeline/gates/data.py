"""The data gate: what breaks a rule stops the run before anything is trained on it."""

# Without `from __future__ import annotations`: TFX reads a component's annotations as objects.

from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow_data_validation as tfdv
from tensorflow_data_validation.utils.display_util import get_statistics_html
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.components.statistics_gen.stats_artifact_utils import load_statistics
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from piano_tf.data.logs import read_spec
from piano_tf.errors import PianoError
from piano_tf.features import SPLITS
from piano_tf.files import replacing
from tfx_pipeline.configs import DataLimits
from tfx_pipeline.gates import identity
from tfx_pipeline.gates.anomalies import told_of_comparison, told_of_schema
from tfx_pipeline.gates.findings import Finding, table
from tfx_pipeline.gates.shift import Statistics, click_rate, shifts
from tfx_pipeline.origin import stamp
from tfx_pipeline.progress import NEWS

_TRAIN, _VALIDATION, _TEST = SPLITS
SKEW = f"{_TRAIN} and {_VALIDATION}"
HELD_OUT_SKEW = f"{_VALIDATION} and {_TEST}"
DRIFT = "the last accepted run and this"


class DataError(PianoError):
    """Data that no model may be trained on."""


@component
def DataGate(
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: InputArtifact[standard_artifacts.Schema],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    accepted: OutputArtifact[standard_artifacts.ExampleStatistics],
    examples: InputArtifact[standard_artifacts.Examples],
    logs: Parameter[str],
    limits: Parameter[str],
    page: Parameter[str],
    baseline: InputArtifact[standard_artifacts.ExampleStatistics] = None,
) -> None:
    """Holds a log to its schema, its splits to each other, and it to the last accepted one.

    Args:
      statistics: Of all three splits.
      schema: With TFDV's comparators for skew and drift.
      anomalies: ExampleValidator's, which by itself stops nothing.
      accepted: The statistics, once more, of data that passed: what the next run is held to.
      examples: Of which they are.
      logs: The log's folder.
      limits: JSON of `DataLimits`.
      page: File to write TFDV's page of statistics to.
      baseline: The statistics that were accepted last; a first run has none.

    Raises:
      DataError: A rule is broken; the table of all has gone to the person who waits.
    """
    splits = {split: load_statistics(statistics, split).proto() for split in SPLITS}
    before = load_statistics(baseline, _TRAIN).proto() if baseline is not None else None
    write_page(Path(page), splits[_TRAIN], before or splits[_VALIDATION], before is not None)
    rules = io_utils.parse_pbtxt_file(io_utils.get_only_uri_in_dir(schema.uri), schema_pb2.Schema())
    findings = find(
        splits,
        before,
        rules,
        {split: _read(anomalies, split) for split in SPLITS},
        Path(logs),
        DataLimits.from_json(limits),
    )
    judge(findings, page)
    accepted.split_names = statistics.split_names
    stamp(accepted, examples)
    io_utils.copy_dir(statistics.uri, accepted.uri)


def find(
    splits: Mapping[str, Statistics],
    before: Statistics | None,
    schema: schema_pb2.Schema,
    anomalies: Mapping[str, anomalies_pb2.Anomalies],
    log_dir: Path,
    limits: DataLimits,
) -> list[Finding]:
    """Every broken rule, the schema's first.

    Args:
      splits: Statistics by split.
      before: Of the training split that was accepted last, if any was.
      schema: Its comparators hold the splits, and the runs, to each other.
      anomalies: What ExampleValidator found against it, by split.
      log_dir: The log itself.
      limits: For everything else.
    """
    return [
        *(
            found
            for split in SPLITS
            for found in against_schema(anomalies[split], splits[split], schema, split)
        ),
        *(found for split in SPLITS for found in against_limits(splits[split], limits, split)),
        *unidentified(log_dir, limits.least_identity),
        *compared(splits, before, schema, limits),
    ]


def judge(findings: list[Finding], page: str) -> None:
    """Raises a `DataError` if there are findings, after showing all of them."""
    if not findings:
        return
    for line in table(findings):
        NEWS.info("%s", line)
    NEWS.info("statistics: %s", Path(page).as_uri())
    first = f"{findings[0]} (statistics: {page})"
    if len(findings) == 1:
        raise DataError(f"a rule is broken, {first}")
    raise DataError(
        f"{len(findings)} rules are broken, first {first}; the table of all of them is above"
    )


def against_schema(
    anomalies: anomalies_pb2.Anomalies,
    statistics: Statistics,
    schema: schema_pb2.Schema,
    split: str,
) -> Iterator[Finding]:
    """What ExampleValidator found in a split."""
    if anomalies.data_missing:
        yield Finding("all", split, "lists", "none")
    for reason in anomalies.dataset_anomaly_info.reason:
        yield Finding("all", split, reason.short_description, reason.description)
    for column, rule, value in told_of_schema(anomalies, statistics, schema):
        yield Finding(column, split, rule, value)


def against_limits(statistics: Statistics, limits: DataLimits, split: str) -> Iterator[Finding]:
    """What is implausible in a split taken alone."""
    rate = click_rate(statistics)
    if not rate <= limits.highest_click_rate:
        rule = f"click rate at most {limits.highest_click_rate:g} (data.highest_click_rate)"
        yield Finding("click", split, rule, f"{rate:.4g}")


def unidentified(log_dir: Path, least: float) -> Iterator[Finding]:
    """Features that say other things of the same id: ids, or features, are shuffled."""
    for id_column, feature in identity.described(read_spec(log_dir)):
        for split in SPLITS:
            found = identity.identity(log_dir, split, id_column, feature)
            if found is not None and not found >= least:
                rule = (
                    f"the same {id_column!r}, the same value; identity at least {least:g} "
                    "(data.least_identity)"
                )
                yield Finding(feature, split, rule, f"{found:.3f}")


def compared(
    splits: Mapping[str, Statistics],
    before: Statistics | None,
    schema: schema_pb2.Schema,
    limits: DataLimits,
) -> Iterator[Finding]:
    """Skew between splits that follow each other, and drift from what was accepted before."""
    train, validation, test = (splits[split] for split in SPLITS)
    for where, of, told in (
        (SKEW, train, {"serving_statistics": validation}),
        (HELD_OUT_SKEW, validation, {"serving_statistics": test}),
        (DRIFT, train, {"previous_statistics": before} if before is not None else {}),
    ):
        if not told:
            continue
        found = tfdv.validate_statistics(of, schema, **told)
        for column, rule, value in told_of_comparison(found):
            yield Finding(column, where, rule, value)
    yield from shifts(train, validation, limits.skew, SKEW, "data.skew")
    yield from shifts(validation, test, limits.skew, HELD_OUT_SKEW, "data.skew")
    if before is not None:
        yield from shifts(before, train, limits.drift, DRIFT, "data.drift")


def write_page(page: Path, train: Statistics, other: Statistics, is_before: bool) -> None:
    """TFDV's page of two sets of statistics, beside each other."""
    name = "last accepted run" if is_before else _VALIDATION
    html = get_statistics_html(train, other, lhs_name=_TRAIN, rhs_name=name)
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as partial:
        partial.write_text(html, encoding="utf-8")


def _read(anomalies: standard_artifacts.ExampleAnomalies, split: str) -> anomalies_pb2.Anomalies:
    folder = artifact_utils.get_split_uri([anomalies], split)
    with fileio.open(f"{folder}/SchemaDiff.pb", "rb") as file:  # binary, whatever it is called
        return anomalies_pb2.Anomalies.FromString(file.read())
