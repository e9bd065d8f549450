"""The numerical laws of every re-ranker that trains in half precision or is compiled by XLA.

PIANO is held to them in every setting; each rival in float16 without XLA, whose tolerance is the
tightest of the half precisions, and in bfloat16 with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from permuted_lists import READS_IN_ORDER, moved_inputs, moved_outputs, places_of, ranks

from piano_tf import models
from piano_tf.config import ModelConfig
from piano_tf.data.encoding import Batch, Encoder
from piano_tf.features import LABELS, OUTPUTS, Axis
from piano_tf.hardware import precision
from piano_tf.losses import RerankingLoss
from piano_tf.masks import mask_of
from piano_tf.models import REGISTRY

LISTS = 8


class Setting(NamedTuple):
    """How a model computes.

    Attributes:
      policy: Keras's precision policy.
      xla: Whether it is compiled.
      tolerance: Of logits, which are of size 1: bfloat16 has 8 bits, float16 11, and
        both round at every layer.
    """

    policy: str | None
    xla: bool
    tolerance: float

    def __str__(self) -> str:
        return f"{self.policy or 'float32'}{'-xla' * self.xla}"


BFLOAT16, BFLOAT16_XLA, FLOAT16, FLOAT16_XLA = (
    Setting(policy, xla, tolerance)
    for policy, tolerance in (("mixed_bfloat16", 0.02), ("mixed_float16", 0.003))
    for xla in (False, True)
)
COVERED = [
    *(
        ("piano", setting)
        for setting in (Setting(None, True, 1e-4), BFLOAT16, BFLOAT16_XLA, FLOAT16, FLOAT16_XLA)
    ),
    *(
        (name, setting)
        for name in REGISTRY
        if name != "piano"
        for setting in (FLOAT16, BFLOAT16_XLA)
    ),
]

# By how much their weights are larger than the others', or too little would be shown of a list.
LOUDER = {"ple": 1.5, "setrank": 2.0}


class Computed(NamedTuple):
    """A model's answers in a setting, and in float32 without XLA.

    Attributes:
      name: Of the model.
      answer: In the setting.
      made: The same, compiled once more where it is compiled.
      plain: In float32.
      tolerance: The setting's.
    """

    name: str
    answer: Callable[[Batch], Batch]
    made: Callable[[], Callable[[Batch], Batch]]
    plain: Callable[[Batch], Batch]
    tolerance: float


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> Batch:
    return encoder(tiny.raw(tiny.rows(LISTS)))


@pytest.fixture(scope="module", params=COVERED, ids=lambda one: f"{one[0]}-{one[1]}")
def computed(request, encoder: Encoder, batch: Batch, tiny_model: ModelConfig) -> Computed:
    name, setting = request.param
    config = tiny_model.model_copy(update={"name": name})
    tf.keras.utils.set_random_seed(0)
    plain = models.build(encoder.inputs, config)
    plain(batch)
    rng = np.random.default_rng(1)
    for weight in plain.trainable_weights:
        fan_in = weight.shape[0] if weight.shape.rank > 1 else 1
        scale = LOUDER.get(name, 1.0) * min(0.4, fan_in**-0.5)
        weight.assign(rng.normal(0, scale, weight.shape))
    with precision(setting.policy):
        model = models.build(encoder.inputs, config)
        model(batch)
    model.set_weights(plain.get_weights())

    def made() -> Callable[[Batch], Batch]:
        return tf.function(lambda given: model(given), jit_compile=True) if setting.xla else model

    return Computed(name, made(), made, plain, setting.tolerance)


def assert_close(found: Batch, expected: Batch, mask: tf.Tensor, tolerance: float) -> None:
    """Where a list is real; `found` may be wider."""
    for name in OUTPUTS:
        one, other = found[name].numpy(), expected[name].numpy()
        if one.ndim == 2:
            one = one[:, : other.shape[1]][mask]
            other = other[mask]
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=name)


def test_outputs_are_float32_and_near_those_of_float32(computed: Computed, batch: Batch) -> None:
    found, mask = computed.answer(batch), mask_of(batch, Axis.ITEM).numpy()
    assert all(values.dtype == tf.float32 for values in found.values())
    assert np.ptp(found["click"].numpy()[mask]) > 5 * computed.tolerance  # or nothing is shown
    assert_close(found, computed.plain(batch), mask, computed.tolerance)


def test_padding_changes_nothing(computed: Computed, batch: Batch) -> None:
    def wider(name: str, values: tf.Tensor) -> tf.Tensor:
        if values.shape.rank == 1 or name == "query":
            return values
        return tf.pad(values, [[0, 0], [0, 2], *[[0, 0]] * (values.shape.rank - 2)])

    more = {name: wider(name, values) for name, values in batch.items()}
    mask = mask_of(batch, Axis.ITEM).numpy()
    assert_close(computed.answer(more), computed.answer(batch), mask, computed.tolerance)


def test_other_lists_change_nothing(computed: Computed, batch: Batch) -> None:
    order = np.arange(LISTS)[::-1]
    turned = {name: tf.gather(values, order) for name, values in batch.items()}
    expected = {name: tf.gather(v, order) for name, v in computed.answer(batch).items()}
    mask = mask_of(turned, Axis.ITEM).numpy()
    assert_close(computed.answer(turned), expected, mask, computed.tolerance)


def test_permuting_candidates_with_their_ranks_permutes_the_scores(computed, batch: Batch) -> None:
    if computed.name in READS_IN_ORDER:
        pytest.skip(f"{computed.name}: {READS_IN_ORDER[computed.name]}")
    places = places_of((4, 2, 0, 5, 1, 3), mask_of(batch, Axis.ITEM))
    moved = moved_inputs(batch, places)
    with ranks(places):
        found = computed.made()(moved)
    expected = moved_outputs(computed.answer(batch), places)
    assert_close(found, expected, mask_of(moved, Axis.ITEM).numpy(), computed.tolerance)


def test_one_unseen_candidate_of_a_listener_without_history(computed, encoder, tiny) -> None:
    row = tiny.row(1, candidates=1, history=0) | {"item_id": ["new"], "query": "unheard of"}
    one = encoder(tiny.raw([row]))
    assert one["history_item_id"].shape == (1, 0)
    mask = mask_of(one, Axis.ITEM).numpy()
    assert_close(computed.answer(one), computed.plain(one), mask, computed.tolerance)


def test_conversion_is_never_likelier_than_click(computed: Computed, batch: Batch) -> None:
    found, mask = computed.answer(batch), mask_of(batch, Axis.ITEM).numpy()
    assert (found["conversion"].numpy()[mask] <= found["click"].numpy()[mask] + 1e-5).all()
    assert (found["list_conversion"].numpy() <= found["list_click"].numpy() + 1e-5).all()


def test_a_list_of_padding_only_is_finite_and_teaches_nothing(computed, batch: Batch) -> None:
    blank = {name: tf.zeros_like(values) for name, values in batch.items()}
    blank |= {name: batch[name] for name in ("user_id", "query")}
    found = computed.answer(blank)
    assert all(np.isfinite(values).all() for values in found.values())
    mask = mask_of(blank, Axis.ITEM)
    labels = {label: tf.zeros(mask.shape) for label in LABELS}
    assert RerankingLoss()(labels, found, mask) == 0
