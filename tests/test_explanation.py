"""Leave-one-out values against lists from which a candidate was really taken out."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from piano_tf import models
from piano_tf.explanation import leave_one_out
from piano_tf.features import LIST_CLICK, LIST_CONVERSION, Axis


def test_one_pass_is_made_at_a_time(tiny, encoder, tiny_model) -> None:
    """The memory of a pass is not taken several times over."""
    batch = encoder(tiny.raw([tiny.row(1, candidates=4, history=2)]))
    model = models.build(encoder.inputs, tiny_model)
    model(batch)
    traced = tf.function(lambda: leave_one_out(model, batch, tiny.spec)).get_concrete_function()
    loops = [op for op in traced.graph.get_operations() if op.type in ("While", "StatelessWhile")]
    assert [op.get_attr("parallel_iterations") for op in loops] == [1]


def test_values_are_what_the_list_loses_without_each_candidate(tiny, encoder, tiny_model) -> None:
    rows = [tiny.row(1, candidates=4, history=2), tiny.row(2, candidates=2, history=0)]
    batch = encoder(tiny.raw(rows))
    model = models.build(encoder.inputs, tiny_model)
    whole = model(batch)
    found = leave_one_out(model, batch, tiny.spec)
    of_items = [c.name for c in tiny.spec.columns() if c.axis is Axis.ITEM]
    for number, row in enumerate(rows):
        for place in range(len(row["item_id"])):
            fewer = {
                name: values[:place] + values[place + 1 :] if name in of_items else values
                for name, values in row.items()
            }
            without = model(encoder(tiny.raw([fewer])))
            for name in (LIST_CLICK, LIST_CONVERSION):
                expected = tf.sigmoid(whole[name][number]) - tf.sigmoid(without[name][0])
                np.testing.assert_allclose(found[name][number, place], expected, atol=1e-5)
    for name in (LIST_CLICK, LIST_CONVERSION):
        assert found[name].shape == (2, 4)
        assert np.abs(found[name][0]).max() > 1e-4  # the candidates do matter
        assert (found[name][1, 2:] == 0).numpy().all()
