"""`piano abtest`: policies in a simulated world, from its log's last day on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from piano_tf.errors import PianoError
from piano_tf.evaluation.config import slug_of
from piano_tf.experiment.config import ExperimentConfig, PolicyConfig
from piano_tf.experiment.policies import FirstStage, ListSelection, Policy, Sorted
from piano_tf.experiment.results import Experiment, write_experiment
from piano_tf.experiment.served import exported, served
from piano_tf.experiment.traffic import past_of_the_log, run
from piano_tf.export import CARD_FILE, ModelCard, counts_order
from piano_tf.files import replacing, require_room
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.searches import count_before
from piano_tf.simulation.world import World

Progress = Callable[[int, int, str], None]
"""Called with lists shown so far, lists to show in all, and which policy shows them."""


def abtest(config: ExperimentConfig, *, progress: Progress | None = None) -> Path:
    """Runs an experiment, and writes what came out.

    Every policy shows lists to every listener, in a world of its own that starts where the log
    ended; histories go on by what the listeners did there. The experiment proper is the part of it
    in which each listener meets the policy that the hash of their id assigns.

    Args:
      config: What to compare.
      progress: Is told how far it is.

    Returns:
      The Markdown file of the results, in `config.output` beside `lists/`, `results.parquet` and
      a plot.

    Raises:
      PianoError: The world has fewer days than asked for, the output folder cannot be made, or a
        policy's model cannot be had.
      ConfigError: The world's file does not hold one.
    """
    settings = SimulationConfig.load(config.world)
    days = settings.days_after if config.days is None else config.days
    if not 1 <= days <= settings.days_after:
        raise PianoError(
            f"days: got {days}, expected 1 to {settings.days_after}, the days after the log in "
            f"{config.world}"
        )
    output = Path(config.output)
    require_room(output)
    models = Path(config.models)
    policies = {name: policy_of(policy, models) for name, policy in config.policies.items()}
    world = World(settings)
    past, before = past_of_the_log(world)
    span = range(settings.days, settings.days + days)
    per_policy = count_before(world, span.stop) - count_before(world, span.start)
    (output / "lists").mkdir(parents=True, exist_ok=True)
    tables: dict[str, pa.Table] = {}
    for name, policy in policies.items():
        shown = len(tables) * per_policy

        def tell(lists: int, name: str = name) -> None:
            nonlocal shown
            shown += lists
            if progress is not None:
                progress(shown, per_policy * len(policies), name)

        tables[name] = run(world, policy, copy.deepcopy(past), span, progress=tell)
        with replacing(output / "lists" / f"{slug_of(name)}.parquet") as partial:
            pq.write_table(tables[name], partial)
    experiment = Experiment(
        listeners=world.listeners.ids,
        tables=tables,
        before=before,
        assigned=config.assigned,
        control=config.control,
        reference=config.reference,
        first_day=span.start,
        days=days,
        salt=config.salt,
        seed=config.seed,
        aa=config.aa,
    )
    return write_experiment(experiment, output)


def policy_of(config: PolicyConfig, models: Path) -> Policy:
    """What decides, as configured.

    Args:
      config: Which.
      models: Folder that models are in.

    Raises:
      PianoError: Its model cannot be loaded, or its server not be reached, or a list's order does
        not count to a model that is to choose among orders.
    """
    if config.model is not None:
        predictor = exported(models / config.model)
        if config.selection is not None:
            _require_that_order_counts(models / config.model)
    elif config.server is not None:
        predictor = served(config.server)
    else:
        return FirstStage()
    if config.selection is not None:
        return ListSelection(predictor, config.selection.sweep, config.selection.value)
    return Sorted(predictor, config.weights)


def _require_that_order_counts(model_dir: Path) -> None:
    if not counts_order(ModelCard.load(model_dir / CARD_FILE).config.model):
        raise PianoError(
            f"{model_dir}: expects the same of a list in any order, for it knew ranks in training "
            "only; list selection needs a model with model.rank 'always'"
        )
