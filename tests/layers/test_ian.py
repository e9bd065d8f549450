"""IAN: its start, its predictions, and each way it conditions the items."""

from __future__ import annotations

import numpy as np
import pytest
from layer_samples import B, D, N, dense, normal_of, randomised

from piano_tf.layers import InformationAggregationNode

normal = normal_of(10)


def made(conditioning: str) -> InformationAggregationNode:
    ian = InformationAggregationNode(D, conditioning)
    ian(ian.start(normal(B, D)), normal(B, N, D))
    return randomised(ian)


@pytest.mark.parametrize("conditioning", ["film", "concat", "none"])
def test_it_conditions_every_item_on_the_whole_list(conditioning: str) -> None:
    ian, node, items = made(conditioning), normal(B, D), normal(B, N, D)
    conditioned, _ = ian(node, items)
    z, z_0 = items.numpy(), np.repeat(node.numpy()[:, np.newaxis], N, axis=1)
    if conditioning == "film":
        expected = z * (1 + np.tanh(dense(z_0, ian.scale))) + dense(z_0, ian.shift)
    elif conditioning == "concat":
        expected = np.concatenate([z, z_0], axis=-1)
    else:
        expected = z
    np.testing.assert_allclose(conditioned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditioning", ["film", "concat", "none"])
def test_what_it_predicts_for_the_list_is_read_from_the_node_alone(conditioning: str) -> None:
    ian, node = made(conditioning), normal(B, D)
    _, (click, conversion) = ian(node, normal(B, N, D))
    assert click.shape == conversion.shape == (B,)
    for found, alone in zip((click, conversion), ian.head(node), strict=True):
        np.testing.assert_array_equal(found, alone)
    assert (conversion <= click + 1e-5).numpy().all()


def test_only_film_scales_and_shifts() -> None:
    film, concat, none = (
        {weight.name.split("/")[1] for weight in made(conditioning).weights[1:]}
        for conditioning in ("film", "concat", "none")
    )
    assert film - none == {"scale", "shift"}
    assert concat == none


def test_it_starts_from_its_token_and_the_interest() -> None:
    ian = InformationAggregationNode(D)
    interest = normal(B, D)
    ian.start(interest)
    expected = ian.token + interest @ ian.from_interest.kernel
    np.testing.assert_allclose(ian.start(interest), expected, rtol=1e-5, atol=1e-6)
    alone = InformationAggregationNode(D, personal=False)
    np.testing.assert_array_equal(alone.start(interest), np.broadcast_to(alone.token, (B, D)))
    assert not hasattr(alone, "from_interest")
