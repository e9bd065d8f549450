"""The `piano` command: thin, and imports what is heavy only where it is used."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from piano_tf.errors import ConfigError, PianoError

if TYPE_CHECKING:
    from rich.progress import Progress

    from piano_tf.config import Config
    from piano_tf.data.splits import SplitRule
    from piano_tf.simulation import SimulationConfig

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_SPLIT = click.Choice(["train", "validation", "test"])
_SHARE = 0.1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def piano() -> None:
    """A personalised listwise re-ranker, from raw search logs to a server."""


@piano.group()
def logs() -> None:
    """Write shown lists, checked and split by time, as Parquet."""


def _folder_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every adapter: where to write."""
    overwrite = click.option(
        "--overwrite", is_flag=True, help="Replace a log that is there already."
    )
    output = click.option("--output", type=_FOLDER, required=True, help="Folder to make.")
    return output(overwrite(command))


def _output_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of an adapter whose lists may be cut anywhere: where to write and to cut."""
    options = [
        click.option(
            "--validation-share",
            type=float,
            default=_SHARE,
            show_default=True,
            help="Of the lists.",
        ),
        click.option(
            "--test-share", type=float, default=_SHARE, show_default=True, help="Of the lists."
        ),
        click.option(
            "--validation-from",
            type=click.DateTime(["%Y-%m-%d"]),
            help="First day of validation (UTC), instead of shares.",
        ),
        click.option(
            "--test-from", type=click.DateTime(["%Y-%m-%d"]), help="First day of test (UTC)."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return _folder_options(command)


@dataclasses.dataclass(frozen=True)
class _Destination:
    """What `_output_options` take; `_folder_options` take the first two."""

    output: Path
    overwrite: bool
    validation_share: float = _SHARE
    test_share: float = _SHARE
    validation_from: dt.datetime | None = None
    test_from: dt.datetime | None = None


@logs.command()
@click.option("--input", "input_dir", type=_FOLDER, required=True, help="The published files.")
@_output_options
def lastfm(input_dir: Path, **destination: Any) -> None:
    """Lists constructed from the HetRec 2011 Last.fm tag assignments."""
    from piano_tf.data import lastfm as adapter

    _write(lambda: adapter.read(input_dir), _Destination(**destination))


@logs.command()
@click.option("--input", "input_dir", type=_FOLDER, required=True, help="The published files.")
@click.option(
    "--folds", type=int, default=5, show_default=True, help="Groups of conversations, at least 3."
)
@click.option(
    "--fold",
    type=int,
    default=0,
    show_default=True,
    help="The group to test on, from 0; the next one is for validation.",
)
@_folder_options
def cpcd(input_dir: Path, folds: int, fold: int, **destination: Any) -> None:
    """Searches of the Conversational Playlist Curation Dataset, in folds of conversations."""
    from piano_tf.data import cpcd as adapter

    _write(lambda: adapter.read(input_dir, folds=folds, fold=fold), _Destination(**destination))


@logs.command()
@click.option("--input", "input_dir", type=_FOLDER, required=True, help="The published files.")
@_output_options
def jdsearch(input_dir: Path, **destination: Any) -> None:
    """Product searches of JDsearch, one a user."""
    from piano_tf.data import jdsearch as adapter

    _write(lambda: adapter.read(input_dir), _Destination(**destination))


@logs.command()
@click.option(
    "--input", "input_dir", type=_FOLDER, required=True, help="*.parquet and features.json."
)
@_output_options
def parquet(input_dir: Path, **destination: Any) -> None:
    """A team's own lists, in the columns of piano_tf/features.py."""
    from piano_tf.data import parquet as adapter

    _write(lambda: adapter.read(input_dir), _Destination(**destination))


def _world_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what a simulated world writes: which world."""
    options = [
        click.option("--lists", type=click.IntRange(min=1), default=20_000, show_default=True),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--config", type=_FILE, help="JSON of a SimulationConfig, instead of --lists, --seed."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _world_of(lists: int, seed: int, config: Path | None) -> SimulationConfig:
    from piano_tf.simulation import SimulationConfig

    return SimulationConfig.load(config) if config else SimulationConfig(lists=lists, seed=seed)


@logs.command()
@_world_options
@_output_options
def simulated(lists: int, seed: int, config: Path | None, **destination: Any) -> None:
    """Listeners with tastes, ambiguous queries and position-biased clicks."""
    from piano_tf.simulation import simulate

    chosen = _world_of(lists, seed, config)
    _write(lambda: simulate(chosen), _Destination(**destination))


@logs.command()
@_world_options
@_folder_options
def simulated_events(
    lists: int, seed: int, config: Path | None, output: Path, overwrite: bool
) -> None:
    """The raw events behind `simulated` lists, and the mapping that `events` reads them by."""
    from piano_tf.simulation.events import write_events

    chosen = _world_of(lists, seed, config)
    with _progress() as progress:
        task = progress.add_task("lists", total=chosen.lists)
        rows = write_events(
            chosen,
            output,
            overwrite=overwrite,
            progress=lambda done: progress.advance(task, done),
        )
    counts = ", ".join(f"{table} {count:,}" for table, count in rows.items())
    click.echo(f"{output}: rows, {counts}")


@logs.command()
@click.option("--input", "input_dir", type=_FOLDER, required=True, help="The event tables.")
@click.option("--mapping", type=_FILE, required=True, help="JSON of an EventsConfig.")
@_output_options
@click.argument("beam_args", metavar="[-- BEAM OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def events(input_dir: Path, mapping: Path, beam_args: tuple[str, ...], **destination: Any) -> None:
    """Lists built from raw events, each with what was known at its time (needs Apache Beam).

    MAPPING says what a team's tables and columns are called, and the rules; docs/events.md has all
    of it. Shares are cut at midnight. What stands after -- are options of the Beam runner.
    """
    from tfx_pipeline.events.config import EventsConfig
    from tfx_pipeline.events.job import run
    from tfx_pipeline.events.report import REPORT_FILE, sentences

    config, to = EventsConfig.load(mapping), _Destination(**destination)
    rule = _rule(to)
    _interrupt_on_signals()
    with _progress() as progress:
        task = progress.add_task("events", total=None)
        said = run(
            input_dir,
            config,
            to.output,
            rule,
            beam_args=beam_args,
            overwrite=to.overwrite,
            progress=lambda stage, done, total: progress.update(
                task, description=stage, completed=done, total=total
            ),
        )
    counts = ", ".join(f"{split} {count:,}" for split, count in said["lists"].items())
    click.echo(f"{to.output}: {config.dataset} lists, {counts}")
    for sentence in sentences(said):
        click.echo(sentence)
    click.echo(f"report: {to.output / REPORT_FILE}")


@logs.command()
@click.argument("log_dir", metavar="LOGS", type=_FOLDER)
@_folder_options
@click.option("--validation-share", type=float, default=_SHARE, show_default=True)
@click.option("--test-share", type=float, default=_SHARE, show_default=True)
def days(
    log_dir: Path, output: Path, overwrite: bool, validation_share: float, test_share: float
) -> None:
    """The lists of LOGS day by day, each cut in time: what a daily pipeline reads.

    LOGS of tomorrow alone add tomorrow; a day that is there already is an error, unless it may be
    overwritten. `piano pipeline --logs OUTPUT` runs on the newest.
    """
    from piano_tf.data.days import write_days
    from piano_tf.data.splits import ByShare

    with _progress() as progress:
        task = progress.add_task("lists", total=None)
        found = write_days(
            log_dir,
            output,
            ByShare(validation_share, test_share),
            overwrite=overwrite,
            progress=lambda rows: progress.advance(task, rows),
        )
    for day, summary in found.items():
        counts = ", ".join(f"{split} {count:,}" for split, count in summary.lists.items())
        click.echo(f"{output / str(day)}: {counts}")


def _rule(to: _Destination) -> SplitRule:
    """Where to cut, as the options say."""
    from piano_tf.data.splits import ByDate, ByShare

    if to.validation_from is not None and to.test_from is not None:
        return ByDate(to.validation_from.date(), to.test_from.date())
    if to.validation_from is None and to.test_from is None:
        return ByShare(to.validation_share, to.test_share)
    raise PianoError("--validation-from and --test-from: expected both or neither")


def _write(read: Callable[[], Any], to: _Destination) -> None:
    from piano_tf.data.logs import write_log

    rule = _rule(to)
    with _progress() as progress:
        task = progress.add_task("lists", total=None)
        source = read()
        progress.update(task, total=source.total)
        summary = write_log(
            source,
            to.output,
            source.rule or rule,
            overwrite=to.overwrite,
            progress=lambda rows: progress.advance(task, rows),
        )
    counts = ", ".join(f"{split} {count:,}" for split, count in summary.lists.items())
    click.echo(f"{to.output}: {source.spec.dataset} lists, {counts}")


@piano.command()
@click.argument("log_dir", metavar="LOGS", type=_FOLDER)
@click.option(
    "--output",
    type=_FOLDER,
    required=True,
    help="FOLDER/VERSION to make; `piano serve --model-dir FOLDER` serves it.",
)
@click.option("--config", type=_FILE, help="JSON of a Config.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the configuration's.")
@click.option(
    "--checkpoints",
    type=_FOLDER,
    help="Folder of checkpoints while it trains; the same command goes on from there if stopped.",
)
def train(
    log_dir: Path,
    output: Path,
    config: Path | None,
    seed: int | None,
    checkpoints: Path | None,
) -> None:
    """Train on LOGS in Keras alone, on what hardware there is, and export the model."""
    from piano_tf.config import Config
    from piano_tf.data.logs import read_spec
    from piano_tf.files import require_room

    chosen = Config.load(config) if config else Config()
    if seed is not None:
        training = chosen.training.model_copy(update={"seed": seed})
        chosen = chosen.model_copy(update={"training": training})
    if output.exists():
        raise PianoError(f"{output} exists already; a version of a model is never overwritten")
    require_room(output)
    _require_exportable(chosen, config)
    from piano_tf.export import ModelCard, ServingModule, export_model
    from piano_tf.hardware import choose_strategy, is_chief
    from piano_tf.training import EncodedLog, fit_log

    strategy = choose_strategy()  # before TensorFlow is used for anything else
    read_spec(log_dir)
    verbose = "auto" if sys.stdout.isatty() else 2  # a bar is nothing to read in a file
    with EncodedLog(log_dir, chosen.encoding) as log:
        fitted = fit_log(log, chosen, checkpoints=checkpoints, verbose=verbose)
        encoder = log.encoder
    if not is_chief(strategy):
        return
    module = ServingModule(fitted.model, encoder, encoder.features, fitted.score)
    card = ModelCard(inputs=encoder.inputs, config=chosen, score=fitted.score)
    click.echo(f"score: log p(click) + {fitted.score.conversion:g} log p(conversion | click)")
    click.echo(f"exported: {export_model(module, card, output)}")


def _require_exportable(chosen: Config, file: Path | None) -> None:
    """Finds out before long work whether what is configured, in a file if in any, can be served."""
    from piano_tf.export import require_exportable

    try:
        require_exportable(chosen.model)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file else str(error)) from error


@piano.command()
@click.argument("model_dir", metavar="MODEL", type=_FOLDER)
@click.argument("log_dir", metavar="LOGS", type=_FOLDER)
@click.option("--split", type=_SPLIT, default="test", show_default=True)
@click.option("--output", type=_FOLDER, help="Folder for tables and a report.")
@click.option("--overwrite", is_flag=True, help="Replace a report that is there already.")
@click.option(
    "--off-policy/--no-off-policy",
    default=False,
    show_default=True,
    help="Estimate what each order would have been worth if shown (SNIPS); it makes sense only "
    "where the lists were really shown to people in their logged order.",
)
def evaluate(
    model_dir: Path,
    log_dir: Path,
    split: str,
    output: Path | None,
    overwrite: bool,
    off_policy: bool,
) -> None:
    """Say how well an exported MODEL orders the lists of LOGS, beside the order they had.

    MODEL is the folder of one version, such as `piano train --output` makes.
    """
    from rich.console import Console

    from piano_tf.evaluation.report import FILES, facts, write_results
    from piano_tf.evaluation.served import evaluate_exported
    from piano_tf.evaluation.tables import one_model_tables
    from piano_tf.files import require_room

    if output is not None:
        require_room(output)
        there = [name for name in FILES if (output / name).exists()]
        if there and not overwrite:
            raise PianoError(f"{output} has a {there[0]} already; choose another, or --overwrite")
    comparison = evaluate_exported(model_dir, log_dir, split=split, off_policy=off_policy)
    console = Console(soft_wrap=True)
    console.print(facts(comparison), highlight=False)
    for table in one_model_tables(comparison):
        console.print(table.for_terminal())
    if off_policy and comparison.off_policy:
        click.echo(f"There is no off-policy estimate: {comparison.off_policy}")
    if output is not None:
        click.echo(f"report: {write_results(comparison, output)}")


@piano.command()
@click.argument("config", metavar="CONFIG", type=_FILE)
def compare(config: Path) -> None:
    """Train and compare models as CONFIG says, JSON of a ComparisonConfig.

    What is finished is kept: after an interruption, the same command goes on.
    """
    from piano_tf.evaluation.config import ComparisonConfig

    chosen = ComparisonConfig.load(config)
    _interrupt_on_signals()
    from piano_tf.evaluation.compare import compare as run

    with _progress() as progress:
        task = progress.add_task("searches, runs, tables", total=None)
        try:
            report = run(
                chosen,
                progress=lambda done, total, what: progress.update(
                    task,
                    completed=done,
                    total=total,
                    description=f"done: {what}" if what else None,
                ),
                say=progress.console.print,
            )
        except KeyboardInterrupt:
            raise PianoError(
                "interrupted; what is finished is kept, and the same command goes on from there"
            ) from None
    click.echo(f"report: {report}")


@piano.command()
@click.argument("config", metavar="CONFIG", type=_FILE)
@click.option("--world", type=_FILE, help="Instead of the one that CONFIG names.")
@click.option("--models", type=_FOLDER, help="Likewise.")
@click.option("--output", type=_FOLDER, help="Likewise.")
def abtest(config: Path, **instead: Path | None) -> None:
    """Let policies meet the listeners of a simulated world, as CONFIG says.

    CONFIG is JSON of an ExperimentConfig: the world whose log the models were trained on, and the
    policies, such as the folder of an exported version or the address of a server.
    """
    from piano_tf.experiment.config import ExperimentConfig

    chosen = ExperimentConfig.load(config).model_copy(
        update={name: str(path) for name, path in instead.items() if path is not None}
    )
    _interrupt_on_signals()
    from piano_tf.experiment.abtest import abtest as run

    with _progress() as progress:
        task = progress.add_task("the log again", total=None)
        results = run(
            chosen,
            progress=lambda done, total, policy: progress.update(
                task, completed=done, total=total, description=policy
            ),
        )
    click.echo(results.read_text())
    click.echo(f"results: {results}")


@piano.command()
@click.option("--logs", "log_dir", type=_FOLDER, required=True, help="Written by `piano logs`.")
@click.option("--home", type=_FOLDER, required=True, help="Folder of all that the pipeline writes.")
@click.option("--config", type=_FILE, help="JSON of a Config.")
@click.option("--thresholds", type=_FILE, help="JSON of the Thresholds of a blessing.")
@click.option(
    "--schema", type=_FILE, help="What the log is held to; else as its dataset's name says."
)
@click.option("--cache/--no-cache", default=True, help="Take unchanged stages from an earlier run.")
@click.option("--day", help="Of a folder of days, as 2026-07-01; the newest.")
@click.option("--window", type=click.IntRange(1), help="Days to train on, that day included; 7.")
@click.option("--from-scratch", is_flag=True, help="Do not start from the last blessed model.")
def pipeline(
    log_dir: Path,
    home: Path,
    config: Path | None,
    thresholds: Path | None,
    schema: Path | None,
    cache: bool,
    day: str | None,
    window: int | None,
    from_scratch: bool,
) -> None:
    """Run the TFX pipeline on LOGS: train, evaluate, bless and push.

    LOGS is a log, or a folder of days that `piano logs days` wrote: then a model is trained on a
    window of days up to the newest, and tested on the newest.

    Runs `tfx pipeline create` or `update`, then `tfx run create`, with --engine=local.
    """
    import tfx_pipeline
    from piano_tf.data.logs import read_spec
    from piano_tf.files import require_room
    from tfx_pipeline.configs import PIPELINE_NAME, PipelineConfig, environment
    from tfx_pipeline.progress import STARTING, running
    from tfx_pipeline.schema import require_columns

    if day == "":  # as of a variable that a schedule did not set
        raise PianoError("--day: got '', expected one of the days, as 2026-07-01")
    require_room(home)
    variables = environment(
        logs=log_dir,
        home=home,
        config=config,
        thresholds=thresholds,
        schema=schema,
        cache=cache,
        day=day,
        window=window,
        warm_start=False if from_scratch else None,
    )
    # What is wrong is found before TFX is loaded.
    chosen = PipelineConfig.from_environment({**os.environ, **variables})
    features = read_spec(chosen.log)
    if chosen.own_schema is not None:
        require_columns(chosen.own_schema, features)
    _require_exportable(chosen.config, config)

    runner = Path(tfx_pipeline.__path__[0]) / "local_runner.py"
    state = home.absolute() / "tfx"
    quiet = {"PYTHONWARNINGS": "ignore", "LOCAL_HOME": str(state)}
    both = {**os.environ, **quiet, **variables}
    verb = "update" if (state / PIPELINE_NAME).exists() else "create"
    declare = ["pipeline", verb, "--engine=local", f"--pipeline_path={runner}"]
    run = ["run", "create", "--engine=local", f"--pipeline_name={PIPELINE_NAME}"]
    with running(STARTING):
        _tfx(declare, both, home, stdout=subprocess.DEVNULL)
    _tfx(run, both, home, stdout=None)


@piano.command()
@click.argument("home", type=_FOLDER)
@click.argument("version")
@click.option("--force", is_flag=True, help="The only version too: then nothing is served.")
def withdraw(home: Path, version: str, force: bool) -> None:
    """Take VERSION of the models that HOME's pipeline pushed back.

    A server goes back to the version before. No later run is held to this model, starts from it or
    pushes it.
    """
    from tfx_pipeline.configs import Home
    from tfx_pipeline.withdrawal import withdraw as take_back

    done = take_back(Home(home=home.absolute()), version, force=force)
    models = ", ".join(map(str, done.models))
    click.echo(f"withdrawn: {done.folder}" + f", model {models} in ML Metadata" * bool(models))
    if done.served is None:
        click.echo("there is no version left to serve")
    else:
        verb = "stays with" if int(done.served.name) > int(done.folder.name) else "goes back to"
        click.echo(f"a server that watches {verb} {done.served}")


def _tfx(
    arguments: list[str], environment: dict[str, str], home: Path, *, stdout: int | None
) -> None:
    """Runs the `tfx` command; of its errors, the one sentence that a person needs."""
    from piano_tf.disk import full_disk

    command = [sys.executable, "-m", "tfx_pipeline.tfx_command", *arguments]
    done = subprocess.run(
        command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if ours:
            raise PianoError(ours[-1])
        told = full_disk(done.stderr, [home]) or lines[-1]
        raise PianoError(f"tfx {' '.join(arguments[:2])}: {told}")


# What the server's own limits are, `serving.server.Limits` says; loading it takes seconds.
_LIMITS = {
    "message_bytes": "Of one request.",
    "lists": "Of one request.",
    "list_length": "Of a list, and of a history.",
    "pairs": "Lists x candidates x the longer of candidates and history, of one request.",
    "explained": "Lists x candidates x candidates, of one request to explain.",
    "values": "Of all inputs of one request together.",
    "concurrency": "Requests in progress, waiting ones included.",
}


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each limit of the server, as `max_<its name>`."""
    for name, what in reversed(_LIMITS.items()):
        option = click.option(f"--max-{name.replace('_', '-')}", type=int, help=what)
        command = option(command)
    return command


@piano.command()
@click.option("--model-dir", type=_FOLDER, required=True, help="Folder of pushed versions.")
@click.option("--model-name", default="piano", show_default=True, help="That requests must carry.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="To listen on; ::1 is IPv6's loopback."
)
@click.option("--port", type=int, default=8500, show_default=True, help="0 takes a free one.")
@click.option("--rest-port", type=int, help="Also serve REST and metrics; 0 takes a free one.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Between two looks for a newer version; 0 looks once.",
)
@click.option("--batching", is_flag=True, help="Let requests of several clients share a run.")
@click.option(
    "--batching-parameters-file",
    type=_FILE,
    help="TensorFlow Serving's; implies --batching.",
)
@click.option(
    "--intra-op-threads",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="That share one operation's work; 0 takes one per processor.",
)
@click.option(
    "--inter-op-threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="That run operations side by side; 0 takes one per processor.",
)
@click.option("--ssl-config-file", type=_FILE, help="TensorFlow Serving's: encrypts gRPC.")
@_limit_options
@click.option(
    "--linger-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="To answer on when told to stop, while health probes say NOT_SERVING.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="For requests in progress after that; then they are broken off.",
)
def serve(
    model_dir: Path,
    model_name: str,
    host: str,
    port: int,
    rest_port: int | None,
    poll_seconds: float,
    batching: bool,
    batching_parameters_file: Path | None,
    intra_op_threads: int,
    inter_op_threads: int,
    ssl_config_file: Path | None,
    linger_seconds: float,
    grace_seconds: float,
    **limits: int | None,
) -> None:
    """Serve a pushed model with TensorFlow Serving's gRPC API, on this machine."""
    _log_to_stderr("serving")
    # What follows takes seconds, of which most go into importing TensorFlow.
    logging.getLogger("serving").info("loading the highest version of %s", model_dir)
    from serving.server import (
        BatchingOptions,
        Limits,
        ModelServer,
        ServerOptions,
        ServingError,
        Threads,
        credentials,
    )

    _interrupt_on_signals()
    given = {name.removeprefix("max_"): most for name, most in limits.items() if most is not None}
    try:
        options = ServerOptions(
            poll_s=poll_seconds,
            limits=Limits(**given),
            batching=BatchingOptions.read(batching_parameters_file)
            if batching_parameters_file
            else (BatchingOptions() if batching else None),
            threads=Threads(intra_op_threads, inter_op_threads),
            rest_port=rest_port,
            tls=credentials(ssl_config_file) if ssl_config_file else None,
            linger_s=linger_seconds,
            grace_s=grace_seconds,
        )
        with ModelServer(model_dir, model_name, host, port, options) as server:
            click.echo(f"serving {model_name} version {server.version} on {server.address}")
            if server.rest_address:
                click.echo(f"REST and metrics on http://{server.rest_address}")
            server.wait()
    except ServingError as error:
        raise PianoError(str(error)) from error
    except KeyboardInterrupt:
        click.echo("stopped")


@piano.command()
@click.option("--address", default="127.0.0.1:8500", show_default=True, help="Of the server.")
@click.option("--logs", "log_dir", type=_FOLDER, required=True, help="Where the list is from.")
@click.option("--split", type=_SPLIT, default="test", show_default=True)
@click.option("--list-id", help="Which list; by default the first with a history.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait.")
def rerank(address: str, log_dir: Path, split: str, list_id: str | None, timeout: float) -> None:
    """Re-rank one logged list over gRPC, and show it before and after."""
    from rich.console import Console

    from piano_tf.data.logs import find_list, read_spec
    from piano_tf.features import LABELS
    from serving.client import RequestError, RerankClient, RerankError, SearchList
    from serving.reranking_table import reranking_table

    read_spec(log_dir)
    row = find_list(log_dir, split, list_id)
    asked = SearchList.from_columns(row)
    try:
        with RerankClient(address, timeout_s=timeout) as client:
            client.wait_until_available(timeout)
            answer = client.rerank(asked)
    except (RequestError, RerankError) as error:
        raise PianoError(str(error)) from error
    Console(soft_wrap=True).print(
        reranking_table(asked, answer, {label: row[label] for label in LABELS})
    )


def _progress() -> Progress:
    """A bar, how many of how many, the time gone and the time left."""
    from rich import progress as parts

    return parts.Progress(
        *parts.Progress.get_default_columns()[:2],
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TimeRemainingColumn(),
    )


def _log_to_stderr(name: str) -> None:
    """Shows what the modules of a package have to say while a command runs."""
    log = logging.getLogger(name)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    # TensorFlow gives the root a handler of its own, which would say everything again.
    log.propagate = False


def _interrupt_on_signals() -> None:
    """Both signals end a long command; a shell starts background ones with interrupts ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def main() -> None:
    """Runs `piano`; what a person did wrong is one sentence and exit status 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up is nobody's news
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is raised too
    try:
        piano()
    except PianoError as error:
        sys.exit(f"error: {error}")
