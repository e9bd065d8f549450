"""Days of a simulated world under a policy: who searched, what they were shown, what they did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from piano_tf.experiment.policies import FirstStage, Policy, Request
from piano_tf.simulation.draws import Ints
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.past import Past
from piano_tf.simulation.searches import Searches, searches_of
from piano_tf.simulation.world import World

SCHEMA = pa.schema(
    [
        ("list", pa.int64()),
        ("day", pa.int32()),
        ("listener", pa.int32()),
        ("kind", pa.int8()),
        ("history", pa.int32()),
        ("clicks", pa.int16()),
        ("conversions", pa.int16()),
        ("any_click", pa.bool_()),
        ("any_conversion", pa.bool_()),
        ("expected_clicks", pa.float64()),
        ("expected_conversions", pa.float64()),
        ("expected_any_click", pa.float64()),
        ("expected_any_conversion", pa.float64()),
    ]
)
"""One row per list: `kind` is of `piano_tf.simulation.queries.Kind`, `history` the number of past
acts known at the time; `expected_...` are the world's probabilities of what was shown, known to no
policy, the others what happened."""

_AT_ONCE = 256  # lists


def past_of_the_log(world: World) -> tuple[Past, pa.Table]:
    """What listeners can be remembered by at the end of the log, and what they did during it.

    The log's days again, as `piano_tf.simulation.logs.simulate` has them.
    """
    past = Past(world.config.history)
    table = run(world, FirstStage(), past, range(world.config.days), randomised=True)
    return past, table


def run(
    world: World,
    policy: Policy,
    past: Past,
    days: range,
    *,
    randomised: bool = False,
    progress: Callable[[int], None] | None = None,
) -> pa.Table:
    """Lets a policy decide what every listener is shown.

    A listener's lists of one day come one after the other, so that the policy knows of each what
    the listener did with the one before. What decides on acts at each rank is the same for every
    policy (`Searches.chance`): where two show the same, the same happens.

    Args:
      world: Where.
      policy: Decides.
      past: What listeners did before; what they do is added.
      days: Of the world, later than all in `past`.
      randomised: Whether lists that the log shows in random order are shown so here too; else they
        are the policy's as all others.
      progress: Called with the number of lists that were shown, now and then.

    Returns:
      A table of `SCHEMA`, in order of time.
    """
    columns = ListColumns(world)
    parts = [pa.Table.from_batches([], SCHEMA)]
    for day in days:
        searches = searches_of(world, day, randomised=randomised)
        rounds = _rounds(searches.listener)
        found: list[pa.RecordBatch] = []
        for number in range(1 + rounds.max(initial=-1)):
            of_round = np.flatnonzero(rounds == number)
            for first in range(0, len(of_round), _AT_ONCE):
                some = searches.rows(of_round[first : first + _AT_ONCE])
                found.append(_show(world, policy, past, columns, some))
                if progress is not None:
                    progress(len(some.number))
        past.forget()
        parts.append(pa.Table.from_batches(found, SCHEMA).sort_by("list"))
    return pa.concat_tables(parts).combine_chunks()


def _rounds(listener: Ints) -> Ints:
    """[B] how many lists of the same listener come before each."""
    order = np.argsort(listener, kind="stable")
    ordered = listener[order]
    found = np.empty_like(listener)
    found[order] = np.arange(len(listener)) - np.searchsorted(ordered, ordered)
    return found


def _show(
    world: World, policy: Policy, past: Past, columns: ListColumns, searches: Searches
) -> pa.RecordBatch:
    history = past.of(searches)
    shown = searches.ordered(policy.order(Request(searches, history, columns)))
    appeal = shown.appeal(world)
    acts, expected = world.behaviour.act(shown.chance, appeal), world.behaviour.expected(appeal)
    past.add(shown, acts)
    queries = world.queries
    return pa.RecordBatch.from_pydict(
        {
            "list": searches.number,
            "day": np.full(len(searches.number), searches.day),
            "listener": searches.listener,
            "kind": queries.kind[queries.spelt_right(searches.query)],
            "history": history.length,
            "clicks": acts.click.sum(axis=1),
            "conversions": acts.conversion.sum(axis=1),
            "any_click": acts.click.any(axis=1),
            "any_conversion": acts.conversion.any(axis=1),
            "expected_clicks": expected.click.sum(axis=1),
            "expected_conversions": expected.conversion.sum(axis=1),
            "expected_any_click": expected.list_click,
            "expected_any_conversion": expected.list_conversion,
        },
        SCHEMA,
    )
