"""What Beam is told: which stage runs on what, and what it waits for.

Tasks are numbers and names of files, and what they leave says where their rows are: Beam never
holds a row. Every runner whose workers see one file system can run this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsList, AsSingleton, PCollection

from piano_tf.errors import ConfigError
from tfx_pipeline.events import stages
from tfx_pipeline.events.reconciliation import Tally
from tfx_pipeline.events.stages import Done, File, Job
from tfx_pipeline.events.tables import KINDS

_TALLY = "tally.json"


def run(files: Sequence[File], job: Job, options: Sequence[str]) -> Tally:
    """Runs all stages.

    Args:
      files: What to read.
      job: What every stage knows.
      options: Of the runner, as on its command line.

    Returns:
      What all tasks counted.

    Raises:
      ConfigError: Beam knows no such option.
    """
    pipeline = beam.Pipeline(options=known(options))
    _declare(pipeline, files, job)
    pipeline.run().wait_until_finish()
    return Tally.from_json((job.scratch / _TALLY).read_text(encoding="utf-8"))


def known(options: Sequence[str]) -> PipelineOptions:
    """Options as Beam has them, which would go on without those that it does not know.

    Raises:
      ConfigError: There is one.
    """
    found = PipelineOptions(list(options))
    every = found.get_all_options(retain_unknown_options=True)
    for name in every.keys() - found.get_all_options().keys():
        raise ConfigError(f"--{name}: expected an option that Apache Beam knows")
    return found


class _Task(beam.DoFn):
    """One call of a stage.

    Args:
      stage: A function of a task, the job and what other stages left.
      job: What every stage knows.
    """

    def __init__(self, stage: Callable[..., Done], job: Job) -> None:
        self._stage = stage
        self._job = job

    # Beam takes annotations at their word, and cannot pass what is annotated as `*others`.
    def process(self, task, *others):  # type: ignore[no-untyped-def]
        with stages.reported(self._job):
            yield self._stage(task, self._job, *others)
        # Arrow would keep what a large task took, and so would each after it.
        pa.default_memory_pool().release_unused()


def _declare(pipeline: beam.Pipeline, files: Sequence[File], job: Job) -> None:
    def create(name: str, tasks: Sequence[Any]) -> PCollection:
        return pipeline | f"tasks: {name}" >> beam.Create(tasks)

    def each(
        name: str, tasks: PCollection, stage: Callable[..., Done], *others: Any
    ) -> PCollection:
        """A call for each task, wherever a worker is free."""
        spread = tasks | f"spread: {name}" >> beam.Reshuffle()
        return spread | name >> beam.ParDo(_Task(stage, job), *others)

    shards = range(job.shards)
    reads = each("read files", create("files", files), stages.read_file)
    until = AsSingleton(_until(reads, job.config.until_us))
    resolves = each(
        "resolve requests",
        create("requests", shards),
        stages.resolve_requests,
        AsList(reads),
        until,
    )
    items = each("catalogue", create("catalogue", [0]), stages.catalogue, AsList(reads))
    builds = each(
        "build lists",
        create("users", shards),
        stages.build_lists,
        AsList(reads),
        AsList(resolves),
        AsSingleton(items),
        until,
    )
    days = builds | beam.FlatMap(stages.days_of) | beam.Distinct()
    written = each("write days", days, stages.write_day, AsList(builds))
    done = (reads, resolves, items, builds) | "all with dead letters" >> beam.Flatten()
    each("write dead letters", create("kinds", KINDS), stages.write_dead_letters, AsList(done))
    total = (
        (done, written)
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
