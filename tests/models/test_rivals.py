"""What is special to each rival: its formula again in NumPy, and what it can and cannot see."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from piano_tf import layers, models
from piano_tf.config import ModelConfig, ScoreConfig
from piano_tf.data.encoding import Encoder
from piano_tf.features import LABELS, Axis
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.masks import mask_of
from piano_tf.models import Reranker
from piano_tf.rerank import order_of, score

Batch = dict[str, tf.Tensor]
Build = Callable[..., Reranker]
B, N, H, D = 3, 5, 4, 8
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
POINTWISE = ("dnn", "din", "esmm", "mmoe", "ple")
LISTWISE = ("piano", "prm", "dlcm", "setrank", "mir", "rankformer")
INDEPENDENT = ("first_stage", *POINTWISE, "dlcm", "prm", "setrank", "mir")


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> Batch:
    """Lists of 1 to 6 candidates with histories of 0 to 4 entries."""
    return encoder(tiny.raw(tiny.rows(12)))


@pytest.fixture(scope="module")
def build(encoder: Encoder, batch: Batch, tiny_model: ModelConfig) -> Build:
    """A fresh re-ranker with weights of some size, those of a wide layer smaller."""

    def built(name: str, **sizes: object) -> Reranker:
        model = models.build(encoder.inputs, tiny_model.model_copy(update={"name": name, **sizes}))
        model(batch)
        rng = np.random.default_rng(5)
        for weight in model.trainable_weights:
            fan_in = weight.shape[0] if weight.shape.rank > 1 else 1
            weight.assign(rng.normal(0, min(0.6, 1.5 * fan_in**-0.5), weight.shape))
        return model

    return built


def normal(rng: np.random.Generator, *shape: int) -> tf.Tensor:
    return tf.constant(rng.normal(size=shape), tf.float32)


@pytest.fixture
def lists() -> layers.ListInputs:
    """What the trunk gives, as noise: lists of 5, 3 and 1, histories of 4, 2 and 0."""
    rng = np.random.default_rng(8)
    past_mask = tf.sequence_mask([4, 2, 0], H)
    return layers.ListInputs(
        items=normal(rng, B, N, D),
        mask=tf.sequence_mask([5, 3, 1], N),
        rank=tf.tile(tf.range(N)[tf.newaxis], [B, 1]),
        query=normal(rng, B, D),
        user=normal(rng, B, D),
        past_items=normal(rng, B, H, D),
        past_queries=normal(rng, B, H, D),
        past_mask=past_mask,
        past_action=tf.cast(past_mask, tf.int64),
        past_age=tf.constant(rng.uniform(0, 40, size=[B, H]), tf.float32),
        pretrained=Pretrained(
            *(normal(rng, B, *shape, 3) for shape in ([N], [H], [N], [H], [], [H]))
        ),
    )


@pytest.fixture
def run(lists: layers.ListInputs) -> Callable[..., Batch]:
    """Runs a model on `lists` in the place of what its trunk would give, parts replaced."""

    def outputs_of(model: Reranker, batch: Batch, **parts: tf.Tensor) -> Batch:
        given_lists = lists._replace(**parts)
        same = {  # of the same sizes
            name: values[:B, :N] if name.startswith(("item_", "initial_")) else values[:B]
            for name, values in batch.items()
        }
        with (
            mock.patch.object(
                layers.ListInputEncoder, "call", lambda self, batch, training=None: given_lists
            ),
            mock.patch.object(models.base, "mask_of", lambda batch, axis: given_lists.mask),
        ):
            return model(same)

    return outputs_of


def weights_of(layer: tf.keras.layers.Layer) -> dict[str, np.ndarray]:
    """Name within the layer -> value."""
    own = f"{layer.name}/"
    return {w.name.split(":")[0].split(own)[-1]: w.numpy() for w in layer.weights}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


# --- who sees what ---


@pytest.mark.parametrize("name", [*POINTWISE, *LISTWISE])
def test_listwise_models_see_the_other_candidates_and_pointwise_ones_do_not(
    name: str, build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    model = build(name)
    other = normal(np.random.default_rng(1), B, 1, D)
    changed = tf.concat([lists.items[:, :2], other, lists.items[:, 3:]], axis=1)
    gap = np.abs(run(model, batch, items=changed)["click"] - run(model, batch)["click"])
    assert gap[0, 2] > 1e-3  # the one that changed
    rest = np.delete(gap[0], 2)
    if name in POINTWISE:
        np.testing.assert_array_equal(rest, 0)
    else:
        assert (rest > 1e-6).all()


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_model_without_list_head_takes_items_as_independent(
    name: str, build: Build, batch: Batch
) -> None:
    outputs, mask = build(name)(batch), mask_of(batch, Axis.ITEM).numpy()
    for label in LABELS:
        p = sigmoid(outputs[label])
        expected = 1 - np.where(mask, 1 - p, 1).prod(axis=1)
        np.testing.assert_allclose(sigmoid(outputs[f"list_{label}"]), expected, **CLOSE)


@pytest.mark.parametrize("name", ["setrank", "mir"])
def test_sets_of_candidates_know_no_order(
    name: str, build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    """Permuting the candidates permutes the scores, and initial ranks say nothing."""
    model, order = build(name), np.array([3, 0, 4, 1, 2])
    assert not [weight.name for weight in model.weights if "position" in weight.name]
    whole = tf.ones_like(lists.mask)
    expected = run(model, batch, mask=whole)
    found = run(model, batch, mask=whole, items=tf.gather(lists.items, order, axis=1))
    turned = run(model, batch, mask=whole, rank=lists.rank[:, ::-1])
    assert np.ptp(expected["click"]) > 0.1
    for label in LABELS:
        wanted = expected[label].numpy()[:, order]
        np.testing.assert_allclose(found[label], wanted, **CLOSE)
        np.testing.assert_allclose(found[f"list_{label}"], expected[f"list_{label}"], **CLOSE)
        np.testing.assert_array_equal(turned[label], expected[label])


@pytest.mark.parametrize("name", [*POINTWISE, "prm", "rankformer"])
def test_the_others_know_the_initial_rank(
    name: str, build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    model = build(name)
    turned = run(model, batch, rank=lists.rank[:, ::-1])
    assert np.abs(turned["click"] - run(model, batch)["click"])[0].max() > 1e-3


# --- first stage ---


@given(
    st.floats(0, 100),
    st.floats(0, 100),
    st.lists(st.floats(-8, 4, width=32), min_size=12, max_size=12),
)
def test_no_score_takes_the_first_stage_from_its_order(
    a: float, b: float, weights: list[float]
) -> None:
    model = _first_stage(max_rank=6)
    model.first.assign(weights[:2])
    model.steps.assign(np.reshape(weights[2:], [2, 5]))
    batch = {"item_id": tf.constant([[7, 7, 7, 7, 7, 7, 7, 7], [7, 7, 7, 0, 0, 0, 0, 0]])}
    scores = score(model(batch), ScoreConfig(click=a, conversion=b))
    np.testing.assert_array_equal(
        order_of(scores, mask_of(batch, Axis.ITEM)), np.tile(np.arange(8), [2, 1])
    )


def test_the_first_stage_learns_the_rates_of_its_ranks() -> None:
    """Of falling rates, the maximum-likelihood estimate is each rank's own share."""
    rng = np.random.default_rng(0)
    click_rate, given_rate = np.array([0.5, 0.3, 0.2, 0.1]), np.array([0.6, 0.5, 0.3, 0.2])
    click = (rng.random([4000, 4]) < click_rate).astype(np.float32)
    both = click * (rng.random([4000, 4]) < given_rate)
    model = _first_stage(max_rank=4)
    batch = {"item_id": tf.ones([1, 4], tf.int64)}
    optimizer = tf.keras.optimizers.Adam(0.1)
    shares = {"click": click.mean(axis=0), "conversion": both.mean(axis=0)}
    for _ in range(400):
        with tf.GradientTape() as tape:
            outputs = model(batch)
            loss = tf.add_n(
                [
                    tf.reduce_sum(
                        tf.nn.sigmoid_cross_entropy_with_logits(share[np.newaxis], outputs[label])
                    )
                    for label, share in shares.items()
                ]
            )
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_weights), model.trainable_weights, strict=True)
        )
    for label, share in shares.items():
        np.testing.assert_allclose(sigmoid(model(batch)[label])[0], share, atol=5e-3)


def _first_stage(max_rank: int) -> models.FirstStage:
    inputs = {"features": {"dataset": "shop"}, "encoding": {}, "rows": {}}
    return models.FirstStage(inputs, {"name": "first_stage", "max_rank": max_rank})


def test_the_first_stage_has_no_trunk(build: Build) -> None:
    model = build("first_stage")
    names = {weight.name for weight in model.weights}
    assert names - {"slope:0", "bend:0", "intercept:0"} == {"first:0", "steps:0"}
    model.assign_vectors({})  # nowhere to put them


# --- pointwise models ---


def test_the_context_is_its_formula(lists: layers.ListInputs) -> None:
    layer = layers.CandidateContext(D, max_rank=3)
    found = layer(lists).numpy()
    position = layer.weights[0].numpy()
    for b in range(B):
        for i in range(N):
            x, u, q = lists.items[b, i], lists.user[b], lists.query[b]
            expected = np.concatenate([x, u, q, x * u, x * q, position[min(i, 2)]])
            np.testing.assert_allclose(found[b, i], expected, rtol=1e-6)
    np.testing.assert_array_equal(layers.CandidateContext(D)(lists), found[..., : 5 * D])


def test_din_is_its_activation_unit(lists: layers.ListInputs) -> None:
    layer = layers.TargetAttention(D)
    found, weights = layer(lists.items, lists.past_items, lists.past_mask)
    w = weights_of(layer)
    kernel = np.concatenate([w[f"from_{part}/kernel"] for part in ("target", "past", "product")])
    items, past = lists.items.numpy(), lists.past_items.numpy()
    for b in range(B):
        for i in range(N):
            expected = np.zeros(D)
            for t in range([4, 2, 0][b]):
                x, h = items[b, i], past[b, t]
                hidden = relu(np.concatenate([x, h, x * h]) @ kernel + w["from_target/bias"])
                a = hidden @ w["activation_weight/kernel"] + w["activation_weight/bias"]
                np.testing.assert_allclose(weights[b, i, t], a[0], **CLOSE)
                expected += a * h
            np.testing.assert_allclose(found[b, i], expected, **CLOSE)
    assert (weights.numpy()[~np.broadcast_to(lists.past_mask[:, None], [B, N, H])] == 0).all()


def test_din_says_more_where_more_of_the_past_bears_on_a_candidate(
    lists: layers.ListInputs,
) -> None:
    """Weights that are not normalised: twice the same history, twice the interest."""
    layer = layers.TargetAttention(D)
    once, _ = layer(lists.items, lists.past_items, lists.past_mask)
    twice, _ = layer(
        lists.items, tf.tile(lists.past_items, [1, 2, 1]), tf.tile(lists.past_mask, [1, 2])
    )
    np.testing.assert_allclose(twice, 2 * once, **CLOSE)


def test_din_knows_past_items_and_not_their_queries(
    build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    model = build("din")
    before = run(model, batch)["click"]
    np.testing.assert_array_equal(
        run(model, batch, past_queries=-lists.past_queries)["click"], before
    )
    assert np.abs(run(model, batch, past_items=-lists.past_items)["click"] - before)[0].max() > 1e-3


@pytest.mark.parametrize("name", ["esmm", "mmoe", "ple"])
def test_towers_are_of_one_task_each(name: str, build: Build, batch: Batch) -> None:
    """p(click) does not depend on conversion's tower; p(click and conversion) on both."""
    model = build(name)
    reached = {}
    for label in LABELS:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(batch)[label])
        towers = {
            task: getattr(model, f"{task}_tower").trainable_weights
            for task in ("click", "conversion")
        }
        found = tape.gradient(total, towers, unconnected_gradients="zero")
        reached[label] = {task for task, g in found.items() if any(np.any(part) for part in g)}
    assert reached == {"click": {"click"}, "conversion": {"click", "conversion"}}


def test_esmm_is_the_product_over_everything_shown(build: Build, batch: Batch) -> None:
    model = build("esmm")
    context = model.context(model.encoder(batch))
    towers = model.click_tower(context), model.conversion_tower(context)
    w = weights_of(model.head)
    (click, given_click) = (
        relu(x.numpy() @ w[f"{hidden}/kernel"] + w[f"{hidden}/bias"]) @ w[f"{out}/kernel"]
        + w[f"{out}/bias"]
        for x, hidden, out in (
            (towers[0], "click_hidden", "click"),
            (towers[1], "conversion_hidden", "conversion_given_click"),
        )
    )
    outputs = model(batch)
    np.testing.assert_allclose(outputs["click"], click[..., 0], **CLOSE)
    expected = sigmoid(click[..., 0]) * sigmoid(given_click[..., 0])
    np.testing.assert_allclose(sigmoid(outputs["conversion"]), expected, **CLOSE)


@pytest.mark.parametrize("specific", [0, 2])
def test_a_mixture_of_experts_is_its_formula(specific: int) -> None:
    rng = np.random.default_rng(2)
    layer = layers.MixtureOfExperts(6, tasks=2, shared=3, specific=specific, shared_output=True)
    inputs, shared = [normal(rng, B, N, D), normal(rng, B, N, D)], normal(rng, B, N, D)
    found, found_shared = layer(inputs, shared)
    w = weights_of(layer)

    def experts(name: str, count: int, x: np.ndarray) -> list[np.ndarray]:
        names = [f"{name}_expert_{number}" for number in range(count)]
        return [relu(x @ w[f"{n}/kernel"] + w[f"{n}/bias"]) for n in names]

    def mixed(gate: str, x: np.ndarray, of: list[np.ndarray]) -> np.ndarray:
        share = softmax(x @ w[f"{gate}/kernel"] + w[f"{gate}/bias"])
        assert len(share) == len(of)
        return sum(s * expert for s, expert in zip(share, of, strict=True))

    for b in range(B):
        for i in range(N):
            x, s = [one[b, i].numpy() for one in inputs], shared[b, i].numpy()
            common = experts("shared", 3, s)
            own = [experts(f"task_{k}", specific, x[k]) for k in range(2)]
            for k in range(2):
                expected = mixed(f"task_{k}_gate", x[k], [*own[k], *common])
                np.testing.assert_allclose(found[k][b, i], expected, **CLOSE)
            expected = mixed("shared_gate", s, [*own[0], *own[1], *common])
            np.testing.assert_allclose(found_shared[b, i], expected, **CLOSE)


def test_mmoe_shares_every_expert_and_ple_keeps_some_apart(build: Build, batch: Batch) -> None:
    """Which experts of the last level p(click) depends on."""

    def reached(name: str) -> dict[str, bool]:
        model = build(name, experts=2)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(batch)["click"])
        kernels = {w.name: w for w in model.experts.trainable_weights if "expert_" in w.name}
        found = tape.gradient(total, kernels, unconnected_gradients="zero")
        return {
            name.split("/experts/")[1].split("/")[0]: bool(np.any(gradient))
            for name, gradient in found.items()
            if "kernel" in name
        }

    assert reached("mmoe") == {"shared_expert_0": True, "shared_expert_1": True}
    of = reached("ple")
    assert {name for name, does in of.items() if not does} == {"task_1_expert_0", "task_1_expert_1"}
    assert len(of) == 6


def test_ple_reads_two_levels(build: Build) -> None:
    model = build("ple", experts=2)
    assert (model.extraction.shared_output, model.experts.shared_output) == (True, False)
    assert {(m.shared, m.specific) for m in (model.extraction, model.experts)} == {(2, 2)}


# --- DLCM ---


def gru(w: dict[str, np.ndarray], inputs: list[np.ndarray]) -> list[np.ndarray]:
    """States of Keras's GRU (reset after the product), a step at a time."""
    kernel, recurrent, bias = (
        w["gru_cell/kernel"],
        w["gru_cell/recurrent_kernel"],
        w["gru_cell/bias"],
    )
    state, states = np.zeros(recurrent.shape[0]), []
    for x in inputs:
        a_z, a_r, a_h = np.split(x @ kernel + bias[0], 3)
        b_z, b_r, b_h = np.split(state @ recurrent + bias[1], 3)
        z, r = sigmoid(a_z + b_z), sigmoid(a_r + b_r)
        state = z * state + (1 - z) * np.tanh(a_h + r * b_h)
        states.append(state)
    return states


def test_dlcm_reads_from_the_last_rank_to_the_first(
    build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    """The whole of the model after its trunk, in NumPy, without any padding."""
    model = build("dlcm")
    outputs = run(model, batch)
    abstract = [dense.get_weights() for dense in model.abstraction]
    w = weights_of(model.gru)
    heads = [weights_of(head) for head in (model.click, model.conversion_given_click)]
    context = layers.CandidateContext(D)(lists).numpy()
    for b, length in enumerate([5, 3, 1]):
        inputs = []
        for c in context[b, :length]:
            z = c
            for kernel, bias in abstract:
                z = z @ kernel + bias
                z = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
            inputs.append(np.concatenate([c, z]))
        states = gru(w, inputs[::-1])
        end, states = states[-1], states[::-1]
        logits = []
        for head in heads:
            wanted = np.tanh(end @ head["projection/kernel"] + head["projection/bias"])
            against = [wanted.reshape(-1, D) @ o for o in states]
            logits.append([a @ head["score/kernel"][:, 0] + head["score/bias"][0] for a in against])
        np.testing.assert_allclose(outputs["click"][b, :length], logits[0], **CLOSE)
        both = sigmoid(logits[0]) * sigmoid(logits[1])
        np.testing.assert_allclose(sigmoid(outputs["conversion"][b, :length]), both, **CLOSE)


def test_padding_does_not_enter_the_state(build: Build, lists: layers.ListInputs) -> None:
    model = build("dlcm")
    width = model.gru.cell.kernel.shape[0]
    vectors = normal(np.random.default_rng(0), B, N, width)
    states, end = model.read(vectors, lists.mask)
    for b, length in enumerate([5, 3, 1]):
        alone, at_end = model.read(vectors[b : b + 1, :length], lists.mask[b : b + 1, :length])
        np.testing.assert_allclose(states[b, :length], alone[0], **CLOSE)
        np.testing.assert_allclose(end[b], at_end[0], **CLOSE)
        np.testing.assert_allclose(end[b], states[b, 0], **CLOSE)  # the state after rank 1


# --- MIR ---


@pytest.fixture
def co_attention(lists: layers.ListInputs) -> layers.CoAttention:
    layer = layers.CoAttention(D, parts=2)
    _attend(layer, lists)
    rng = np.random.default_rng(6)
    layer.set_weights([rng.normal(0, 0.5, weight.shape) for weight in layer.weights])
    return layer


def _attend(layer: layers.CoAttention, lists: layers.ListInputs, **parts: tf.Tensor) -> list:
    given_lists = lists._replace(**parts)
    found = layer(
        candidates=given_lists.items,
        past=given_lists.past_items,
        user=given_lists.user,
        age=given_lists.past_age,
        mask=given_lists.mask,
        past_mask=given_lists.past_mask,
    )
    return [values.numpy() for values in found]


def test_co_attention_is_its_formula(co_attention, lists: layers.ListInputs) -> None:
    found, seen, alpha = _attend(co_attention, lists)
    w = weights_of(co_attention)
    items, past = lists.items.numpy(), lists.past_items.numpy()
    for b, (n, h) in enumerate([(5, 4), (3, 2), (1, 0)]):
        theta = np.logaddexp(0, lists.user[b].numpy() @ w["decay/kernel"] + w["decay/bias"])[0]
        affinity = np.zeros([n, h])
        for i in range(n):
            for t in range(h):
                affinity[i, t] = items[b, i] @ w["item_affinity/kernel"] @ past[b, t] / np.sqrt(D)
                for f in range(2):
                    for g in range(2):
                        of_features = items[b, i].reshape(2, -1)[f] @ past[b, t].reshape(2, -1)[g]
                        affinity[i, t] += w["feature_affinity"][f, g] * of_features / np.sqrt(D / 2)
        beta = np.array([softmax(affinity[:, t]) for t in range(h)])
        for i in range(n):
            expected = np.zeros([2, D])
            if h:
                share = np.exp(affinity[i]) * np.exp(-theta * np.log1p(lists.past_age[b, :h]))
                share /= share.sum()
                np.testing.assert_allclose(alpha[b, i, :h], share, **CLOSE)
                expected[0] = share @ past[b, :h]
                expected[1] = share @ (beta @ items[b, :n])
            np.testing.assert_allclose(found[b, i], expected[0], **CLOSE)
            np.testing.assert_allclose(seen[b, i], expected[1], **CLOSE)
        assert (alpha[b, :, h:] == 0).all()


def test_what_is_long_ago_counts_less(co_attention, lists: layers.ListInputs) -> None:
    """For every listener and every candidate; in the released code it may count more."""
    _, _, before = _attend(co_attention, lists)
    older = lists.past_age + tf.constant([0.0, 30.0, 0.0, 0.0])
    _, _, after = _attend(co_attention, lists, past_age=older)
    assert (after[:2, :, 1] < before[:2, :, 1]).all()
    same = tf.repeat(lists.past_items[:, :1], H, axis=1)
    _, _, alpha = _attend(
        co_attention, lists, past_items=same, past_age=tf.range(4.0) * tf.ones([B, 1])
    )
    assert (np.diff(alpha[0], axis=1) < 0).all()  # equal entries, each older than the last


def test_the_decay_is_personal(co_attention, lists: layers.ListInputs) -> None:
    _, _, before = _attend(co_attention, lists)
    _, _, after = _attend(co_attention, lists, user=-lists.user)
    assert np.abs(after - before)[0].max() > 1e-3


def test_mir_reads_its_history_as_a_list(
    build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    """The order of past items matters even where their ages are equal."""
    model, whole = build("mir"), tf.ones_like(lists.past_mask)
    ages = tf.ones_like(lists.past_age)
    one = run(model, batch, past_mask=whole, past_age=ages)["click"]
    turned = lists.past_items[:, ::-1]
    other = run(model, batch, past_mask=whole, past_age=ages, past_items=turned)["click"]
    assert np.abs(one - other)[0].max() > 1e-4


# --- RankFormer ---


def test_rankformer_predicts_the_list_from_its_token(
    build: Build, run, batch: Batch, lists: layers.ListInputs
) -> None:
    model = build("rankformer")
    before = run(model, batch)
    independent = models.base.independent_list_logit(before["click"], lists.mask)
    assert np.abs(before["list_click"] - independent).max() > 0.01
    model.token.assign(-model.token)
    after = run(model, batch)
    for name in before:  # the token stands beside every item too
        assert np.abs(after[name] - before[name]).max() > 1e-3, name


def test_rankformers_token_is_not_an_item(build: Build, run, batch: Batch) -> None:
    """What its list head says depends on the token's vector and not on the items' own heads."""
    model = build("rankformer")
    before = run(model, batch)
    for weight in model.head.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    after = run(model, batch)
    assert np.ptp(after["click"]) == 0
    np.testing.assert_array_equal(after["list_click"], before["list_click"])
