"""What Beam is told: which stage runs on what, and what it waits for.

Tasks are numbers and names of files, and what they leave says where their rows are: Beam never
holds a row. Every runner whose workers see one file system can run this.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsList, AsSingleton, PCollection

from piano_tf.errors import ConfigError
from tfx_pipeline.events import memory, stages
from tfx_pipeline.events.reconciliation import Tally
from tfx_pipeline.events.stages import Done, Job, Portion
from tfx_pipeline.events.tables import KINDS

_TALLY = "tally.json"


def run(portions: Sequence[Portion], job: Job, options: Sequence[str]) -> Tally:
    """Runs all stages.

    Args:
      portions: What to read.
      job: What every stage knows.
      options: Of the runner, as on its command line.

    Returns:
      What all tasks counted.

    Raises:
      ConfigError: Beam knows no such option.
    """
    pipeline = beam.Pipeline(options=known(options))
    _declare(pipeline, portions, job)
    pipeline.run().wait_until_finish()
    return Tally.from_json((job.scratch / _TALLY).read_text(encoding="utf-8"))


def known(options: Sequence[str]) -> PipelineOptions:
    """Options as Beam has them, which would go on without words that it does not know.

    Raises:
      ConfigError: There are some.
    """
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    _, others = parsers[0].parse_known_args(list(options))
    if others:
        name = others[0].split("=")[0]
        raise ConfigError(f"{name!r}: expected an option that Apache Beam knows")
    return PipelineOptions(list(options))


class _Task(beam.DoFn):
    """One call of a stage.

    Args:
      stage: A function of a task, the job and what other stages left.
      job: What every stage knows.
    """

    def __init__(self, stage: Callable[..., Done], job: Job) -> None:
        self._stage = stage
        self._job = job

    def setup(self) -> None:
        memory.take_and_give_back()

    # Beam takes annotations at their word, and cannot pass what is annotated as `*others`.
    def process(self, task, *others):  # type: ignore[no-untyped-def]
        with stages.reported(self._job):
            yield self._stage(task, self._job, *others)
        memory.give_back()


def _declare(pipeline: beam.Pipeline, portions: Sequence[Portion], job: Job) -> None:
    def create(name: str, tasks: Sequence[Any]) -> PCollection:
        return pipeline | f"tasks: {name}" >> beam.Create(tasks)

    def each(
        name: str, tasks: PCollection, stage: Callable[..., Done], *others: Any
    ) -> PCollection:
        """A call for each task, wherever a worker is free."""
        spread = tasks | f"spread: {name}" >> beam.Reshuffle()
        return spread | name >> beam.ParDo(_Task(stage, job), *others)

    def rows_of(name: str, done: PCollection) -> PCollection:
        """What other tasks are told: where rows are, and not what was counted."""
        return done | f"rows: {name}" >> beam.Map(
            lambda one: dataclasses.replace(one, tally=Tally())
        )

    shards = range(job.shards)
    reads = each("read files", create("files", portions), stages.read_files)
    read = rows_of("files", reads)
    until = AsSingleton(_until(reads, job.config.until_us))
    resolves = each(
        "resolve requests",
        create("requests", shards),
        stages.resolve_requests,
        AsList(read),
        until,
    )
    resolved = rows_of("requests", resolves)
    items = each("catalogue", create("catalogue", [0]), stages.catalogue, AsList(read))
    known_items = rows_of("catalogue", items)
    builds = each(
        "build lists",
        create("users", shards),
        stages.build_lists,
        AsList(read),
        AsList(resolved),
        AsSingleton(known_items),
        until,
    )
    built = rows_of("users", builds)
    days = built | beam.FlatMap(stages.days_of) | beam.Distinct()
    written = each("write days", days, stages.write_day, AsList(built))
    rows = (read, resolved, known_items, built) | "all with dead letters" >> beam.Flatten()
    each("write dead letters", create("kinds", KINDS), stages.write_dead_letters, AsList(rows))
    done = (reads, resolves, items, builds)
    total = (
        (*done, written)
        | "all that counted" >> beam.Flatten()
        | "tallies" >> beam.Map(lambda one: one.tally)
        | "total" >> beam.CombineGlobally(lambda tallies: sum(tallies, start=Tally()))
    )
    _ = total | "keep" >> beam.Map(_keep, job)


def _until(reads: PCollection, given: int | None) -> PCollection:
    """The end of observation: what was given, or the newest event of all files."""
    return (
        reads
        | "newest of each" >> beam.Map(lambda done: done.newest)
        | "newest" >> beam.CombineGlobally(lambda times: max(times, default=0))
        | "until" >> beam.Map(lambda newest: newest if given is None else given)
    )


def _keep(tally: Tally, job: Job) -> None:
    (job.scratch / _TALLY).write_text(tally.to_json(), encoding="utf-8")
