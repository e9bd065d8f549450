"""Every layer through one harness, and each against what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf import layers
from piano_tf.data.encoding import Encoder
from piano_tf.features import Axis
from piano_tf.layers.qdir import age_bucket
from piano_tf.masks import mask_of

B, N, H, D, HEADS = 3, 5, 4, 8, 2
RNG = np.random.default_rng(3)


def normal(*shape: int) -> tf.Tensor:
    return tf.constant(RNG.normal(size=shape), tf.float32)


def mask_for(lengths: list[int], width: int) -> tf.Tensor:
    return tf.sequence_mask(lengths, width)


def randomised(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """The layer with weights far from their start, for laws that zeros would fulfil."""
    rng = np.random.default_rng(4)
    layer.set_weights([rng.normal(0, 0.6, weight.shape) for weight in layer.weights])
    return layer


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


# --- the harness, over all layers ---

ITEMS = mask_for([5, 3, 1], N)
HISTORY = mask_for([4, 2, 0], H)
QDIR_INPUTS = {
    "query": normal(B, D),
    "user": normal(B, D),
    "history_query": normal(B, H, D),
    "history_item": normal(B, H, D),
    "history_action": tf.constant([[1, 2, 1, 2], [2, 1, 0, 0], [0, 0, 0, 0]], tf.int64),
    "history_age": tf.constant([[0.0, 0.1, 3.0, 900.0], [1.0, 2.0, 0, 0], [0, 0, 0, 0]]),
    "history_mask": HISTORY,
}
LIST_INPUTS = {
    "items": normal(B, N, D),
    "query": normal(B, D),
    "interest": normal(B, D),
    "node": normal(B, D),
    "rank": tf.tile(tf.range(N)[tf.newaxis], [B, 1]),
    "mask": ITEMS,
}
# A bias on attention keys adds the same to all logits of a query, which softmax does not see.
KEY_BIAS = ("key/bias",)


def test_qdir_is_a_layer() -> None:
    check_layer(
        layers.QueryDrivenInterestRefiner,
        {"units": D, "heads": HEADS},
        QDIR_INPUTS,
        weights=2 + 4 + 2 + 2 + 2,  # tables, projections, gate, norm, null slot
    )


def test_list_encoder_is_a_layer() -> None:
    check_layer(
        layers.ListEncoder,
        {"units": D, "heads": HEADS, "blocks": 2, "dropout": 0.1, "max_rank": N},
        LIST_INPUTS,
        weights=2 + 1 + 2 * 16 + 2,  # projection, positions, blocks, norm
        without_gradient=KEY_BIAS,
    )


@pytest.mark.parametrize("pre_norm", [True, False])
def test_self_attention_block_is_a_layer(pre_norm: bool) -> None:
    check_layer(
        layers.SelfAttentionBlock,
        {"units": D, "heads": HEADS, "dropout": 0.2, "pre_norm": pre_norm},
        {"vectors": normal(B, N, D), "mask": ITEMS},
        weights=8 + 4 + 4,  # attention, network, norms
        without_gradient=KEY_BIAS,
    )


def test_ian_is_a_layer() -> None:
    def call(layer, interest, items):
        node = layer.start(interest)
        return node, layer(node, items)

    check_layer(
        layers.InformationAggregationNode,
        {"units": D},
        {"interest": normal(B, D), "items": normal(B, N, D)},
        call=call,
        weights=1 + 1 + 1 + 1 + 8,  # token, from interest, scale, shift, head
    )


def test_entire_space_head_is_a_layer() -> None:
    check_layer(layers.EntireSpaceHead, {"units": D}, {"vectors": normal(B, N, D)}, weights=4 * 2)


def test_query_encoder_is_a_layer() -> None:
    tokens = tf.constant([[[1, 2, 0]], [[3, 0, 0]]])
    check_layer(layers.QueryEncoder, {"rows": 4, "units": D}, {"tokens": tokens}, weights=1)


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> dict[str, tf.Tensor]:
    return encoder(tiny.raw(tiny.rows(6)))


def test_item_encoder_is_a_layer(encoder: Encoder, batch) -> None:
    inputs = encoder.inputs.model_dump(mode="json")
    check_layer(
        layers.ItemEncoder,
        {"inputs": inputs, "units": D},
        {"batch": batch},
        weights=2 + 2 + 2,  # ids and artists, projections
    )


def test_user_encoder_is_a_layer(encoder: Encoder, batch) -> None:
    inputs = encoder.inputs.model_dump(mode="json")
    history = normal(*batch["history_item_id"].shape, D)
    check_layer(
        layers.UserEncoder,
        {"inputs": inputs, "units": D},
        {"batch": batch, "history": history, "history_mask": mask_of(batch, Axis.HISTORY)},
        weights=3 + 2,  # users, countries and devices, projection
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.QueryDrivenInterestRefiner(8, 3),
        lambda: layers.SelfAttentionBlock(8, 3),
        lambda: layers.ListEncoder(8, 3, blocks=1),
    ],
)
def test_heads_must_divide_the_width(make) -> None:
    with pytest.raises(ValueError, match="units 8 is not a multiple of heads 3"):
        make()


# --- QDIR ---


@pytest.fixture(scope="module")
def qdir() -> layers.QueryDrivenInterestRefiner:
    layer = layers.QueryDrivenInterestRefiner(D, HEADS)
    layer(**QDIR_INPUTS)
    return randomised(layer)


def test_qdir_attends_to_real_entries_and_the_null_slot_only(qdir) -> None:
    _, attention = qdir(**QDIR_INPUTS, return_attention=True)
    assert attention.shape == (B, HEADS, H + 1)
    np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), np.ones((B, HEADS)), rtol=1e-6)
    entries = attention.numpy()[:, :, 1:]
    real = np.broadcast_to(HISTORY.numpy()[:, np.newaxis], entries.shape)
    assert (entries[~real] == 0).all()
    assert (entries[real] > 0).all()
    assert (attention.numpy()[:, :, 0] > 0).all()


def test_qdir_without_a_history_attends_to_nothing(qdir) -> None:
    nobody = {**QDIR_INPUTS, "history_mask": tf.zeros([B, H], tf.bool)}
    refined, attention = qdir(**nobody, return_attention=True)
    np.testing.assert_array_equal(attention, np.eye(1, H + 1) * np.ones((B, HEADS, 1)))
    assert np.isfinite(refined).all()
    none = {
        name: values[:, :0] if name.startswith("history_") else values
        for name, values in QDIR_INPUTS.items()
    }
    np.testing.assert_allclose(qdir(**none), refined, rtol=1e-5, atol=1e-6)


def test_qdir_is_its_formula(qdir) -> None:
    """The whole of the layer again, in NumPy, an entry and a head at a time."""
    weights = {w.name.split(":")[0].split("/", 1)[-1]: w.numpy() for w in qdir.weights}
    x = {name: values.numpy() for name, values in QDIR_INPUTS.items()}
    width = D // HEADS
    expected = []
    for b in range(B):
        keys, values = [weights["null_key"]], [weights["null_value"]]
        for t in range(H):
            if x["history_mask"][b, t]:
                bucket = min(int(np.log2(1 + 24 * x["history_age"][b, t])), 15)
                key = (
                    x["history_query"][b, t]
                    + weights["action/embeddings"][x["history_action"][b, t]]
                    + weights["age/embeddings"][bucket]
                )
                value = np.concatenate([x["history_query"][b, t], x["history_item"][b, t]])
                keys.append(key @ weights["key/kernel"])
                values.append(value @ weights["value/kernel"])
        asked = x["query"][b] @ weights["query/kernel"]
        found = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            logits = np.array([asked[part] @ key[part] for key in keys]) / np.sqrt(width)
            alpha = np.exp(logits) / np.exp(logits).sum()
            found.append(sum(a * value[part] for a, value in zip(alpha, values, strict=True)))
        c = np.concatenate(found)
        joined = np.concatenate([x["query"][b], c, x["user"][b]])
        gate = 1 / (1 + np.exp(-(joined @ weights["gate/kernel"] + weights["gate/bias"])))
        refined = x["user"][b] + gate * (c @ weights["output/kernel"])
        normed = (refined - refined.mean()) / np.sqrt(refined.var() + 1e-6)
        expected.append(normed * weights["norm/gamma"] + weights["norm/beta"])
    np.testing.assert_allclose(qdir(**QDIR_INPUTS), expected, rtol=1e-4, atol=1e-5)


def test_qdir_sees_no_padding_however_loud(qdir) -> None:
    loud = dict(QDIR_INPUTS)
    for name in ("history_query", "history_item"):
        noise = 1e3 * normal(B, H, D)
        loud[name] = tf.where(HISTORY[..., tf.newaxis], QDIR_INPUTS[name], noise)
    loud["history_age"] = tf.where(HISTORY, QDIR_INPUTS["history_age"], 77.0)
    loud["history_action"] = tf.where(HISTORY, QDIR_INPUTS["history_action"], 2)
    np.testing.assert_allclose(qdir(**loud), qdir(**QDIR_INPUTS), rtol=1e-5, atol=1e-6)
    longer = {
        name: tf.concat([values, values], axis=1) if name.startswith("history_") else values
        for name, values in QDIR_INPUTS.items()
    }
    longer["history_mask"] = tf.pad(HISTORY, [[0, 0], [0, H]])
    np.testing.assert_allclose(qdir(**longer), qdir(**QDIR_INPUTS), rtol=1e-5, atol=1e-6)


def test_qdir_sees_no_padding_however_unlikely_the_real_entries(qdir) -> None:
    """Real logits far below 0: a mask that only lowers a logit, or a padded key, would show."""
    asked = qdir.query_projection(QDIR_INPUTS["query"])
    keys = -50 * asked @ np.linalg.pinv(qdir.key_projection.kernel)  # W_K of it is -50 Q
    far = {
        **QDIR_INPUTS,
        "history_query": tf.where(
            HISTORY[..., tf.newaxis], tf.repeat(keys[:, tf.newaxis], H, axis=1), 0.0
        ),
    }
    _, attention = qdir(**far, return_attention=True)
    assert attention.numpy()[:2, :, 1:].max() < 1e-6  # the real entries are as unlikely as meant
    padding = np.broadcast_to(~HISTORY.numpy()[:, np.newaxis], (B, HEADS, H))
    assert (attention.numpy()[:, :, 1:][padding] == 0).all()
    np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), np.ones((B, HEADS)), rtol=1e-6)


def test_qdir_does_not_mind_the_order_of_the_history(qdir) -> None:
    turned = {
        name: values[:, ::-1] if name.startswith("history_") else values
        for name, values in QDIR_INPUTS.items()
    }
    np.testing.assert_allclose(qdir(**turned), qdir(**QDIR_INPUTS), rtol=1e-5, atol=1e-6)


def test_qdir_answers_the_present_query(qdir) -> None:
    """With the same past, another query looks elsewhere."""
    _, attention = qdir(**QDIR_INPUTS, return_attention=True)
    other = {**QDIR_INPUTS, "query": -QDIR_INPUTS["query"]}
    _, elsewhere = qdir(**other, return_attention=True)
    assert np.abs(attention - elsewhere)[0].max() > 0.1


def test_age_buckets_are_powers_of_two_of_hours() -> None:
    hours = np.array([0, 0.9, 1, 2.9, 3, 6.9, 7, 24, 24 * 365, 1e9])
    expected = np.minimum(np.floor(np.log2(1 + hours + 1e-9)), 15)
    assert age_bucket(tf.constant(hours / 24 + 1e-9)).numpy().tolist() == expected.tolist()


# --- the entire space ---

LOGITS = st.floats(-100, 100, width=32, allow_subnormal=False)


@given(LOGITS, LOGITS)
@settings(max_examples=200)
def test_entire_space_logit_is_the_logit_of_the_product(click: float, given_click: float) -> None:
    log_p = log_sigmoid(np.float64(click)) + log_sigmoid(np.float64(given_click))
    expected = log_p - np.log(-np.expm1(log_p))
    found = layers.entire_space_logit(tf.constant(click), tf.constant(given_click)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found <= np.float32(click) + 1e-5


@given(st.lists(LOGITS, min_size=2, max_size=2))
@settings(max_examples=50)
def test_entire_space_logit_takes_the_two_in_either_order(pair: list[float]) -> None:
    a, b = (tf.constant(x) for x in pair)
    one, other = layers.entire_space_logit(a, b), layers.entire_space_logit(b, a)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("click", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("given_click", [-100.0, 0.0, 100.0])
def test_entire_space_gradients_are_finite_and_those_of_the_formula(click, given_click) -> None:
    a, b = tf.constant(click), tf.constant(given_click)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        logit = layers.entire_space_logit(a, b)
    gradients = np.array(tape.gradient(logit, [a, b]))
    # d logit / d a = (e^-a + e^-(a+b)) / (e^-a + e^-b + e^-(a+b)), and likewise for b.
    parts = np.array([-click, -given_click, -click - given_click], np.float64)
    share = np.exp(parts - parts.max())
    share /= share.sum()
    np.testing.assert_allclose(gradients, share[:2] + share[2], rtol=1e-5, atol=1e-30)


def test_conversion_is_never_likelier_than_click() -> None:
    head = layers.EntireSpaceHead(D)
    vectors = 30 * normal(50, D)
    head(vectors)
    click, conversion = randomised(head)(vectors)
    assert click.shape == conversion.shape == (50,)
    assert (conversion <= click + 1e-5).numpy().all()
    hidden = [
        np.maximum(vectors @ layer.kernel + layer.bias, 0)
        for layer in (head.click_hidden, head.conversion_hidden)
    ]
    a = (hidden[0] @ head.click.kernel + head.click.bias)[:, 0]
    b = (hidden[1] @ head.conversion_given_click.kernel + head.conversion_given_click.bias)[:, 0]
    log_p = log_sigmoid(np.float64(a)) + log_sigmoid(np.float64(b))
    np.testing.assert_allclose(click, a, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(log_sigmoid(conversion.numpy()), log_p, rtol=1e-4, atol=1e-3)


def test_head_is_float32_whatever_the_policy(policy) -> None:
    policy("mixed_float16")
    head = layers.EntireSpaceHead(D)
    for logits in head(tf.ones([2, D], tf.float16)):
        assert logits.dtype == tf.float32


# --- the list encoder and its blocks ---


@pytest.fixture(scope="module")
def list_encoder() -> layers.ListEncoder:
    layer = layers.ListEncoder(D, HEADS, blocks=2, dropout=0.5, max_rank=4)
    layer(**LIST_INPUTS)
    return randomised(layer)


def real_of(found: tuple[tf.Tensor, tf.Tensor]) -> list[np.ndarray]:
    """The node, and what stands at real candidates."""
    node, items = found
    return [node.numpy(), *(row[:size] for row, size in zip(items.numpy(), [5, 3, 1], strict=True))]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_list_encoder_sees_no_padding(list_encoder) -> None:
    expected = real_of(list_encoder(**LIST_INPUTS))
    loud = {**LIST_INPUTS, "rank": tf.where(ITEMS, LIST_INPUTS["rank"], 3)}
    noise = 1e3 * normal(B, N, D)
    loud["items"] = tf.where(ITEMS[..., tf.newaxis], LIST_INPUTS["items"], noise)
    assert_close(real_of(list_encoder(**loud)), expected)
    longer = {
        **LIST_INPUTS,
        "items": tf.concat([LIST_INPUTS["items"], noise], axis=1),
        "rank": tf.concat([LIST_INPUTS["rank"]] * 2, axis=1),
        "mask": tf.pad(ITEMS, [[0, 0], [0, N]]),
    }
    assert_close(real_of(list_encoder(**longer)), expected)


def test_permuting_candidates_with_their_ranks_permutes_what_they_become(list_encoder) -> None:
    order = np.array([3, 0, 4, 1, 2])
    whole = {**LIST_INPUTS, "mask": tf.ones([B, N], tf.bool)}
    node, items = list_encoder(**whole)
    moved = {
        **whole,
        "items": tf.gather(whole["items"], order, axis=1),
        "rank": tf.gather(whole["rank"], order, axis=1),
    }
    same_node, permuted = list_encoder(**moved)
    np.testing.assert_allclose(same_node, node, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(permuted, tf.gather(items, order, axis=1), rtol=1e-4, atol=1e-5)
    # The initial rank does matter: candidates that move without theirs become something else.
    _, others = list_encoder(**{**moved, "rank": whole["rank"]})
    assert np.abs(others - permuted).max() > 0.1


def test_ranks_beyond_the_last_share_its_position(list_encoder) -> None:
    last = list_encoder.max_rank - 1
    shared = {**LIST_INPUTS, "rank": tf.minimum(LIST_INPUTS["rank"], last)}
    for one, other in zip(list_encoder(**LIST_INPUTS), list_encoder(**shared), strict=True):
        np.testing.assert_array_equal(one, other)
    far = {**LIST_INPUTS, "rank": LIST_INPUTS["rank"] + 10_000}
    assert all(np.isfinite(x).all() for x in list_encoder(**far))


def test_the_node_reads_the_list_and_is_read_by_it(list_encoder) -> None:
    node, items = list_encoder(**LIST_INPUTS)
    changed = LIST_INPUTS["items"] + tf.one_hot([N - 1], N)[0][:, tf.newaxis]
    other_node, _ = list_encoder(**{**LIST_INPUTS, "items": changed})
    assert np.abs(node - other_node)[0].max() > 1e-3
    # That candidate is padding in the second list, so that its node does not change.
    np.testing.assert_allclose(node[1], other_node[1], rtol=1e-5, atol=1e-6)
    _, other_items = list_encoder(**{**LIST_INPUTS, "node": -LIST_INPUTS["node"]})
    assert np.abs(items - other_items)[0].max() > 1e-3


def test_dropout_is_for_training_only(list_encoder) -> None:
    def run(**how) -> np.ndarray:
        return list_encoder(**LIST_INPUTS, **how)[0].numpy()

    np.testing.assert_array_equal(run(training=False), run())
    assert np.abs(run(training=True) - run()).max() > 1e-3


@pytest.mark.parametrize("pre_norm", [True, False])
def test_block_against_its_formula(pre_norm: bool) -> None:
    block = layers.SelfAttentionBlock(D, HEADS, pre_norm=pre_norm)
    vectors = normal(B, N, D)
    block(vectors, ITEMS)
    randomised(block)
    found = block(vectors, ITEMS).numpy()
    attention, width = block.attention, D // HEADS

    def norm(layer: tf.keras.layers.Layer, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return scaled * layer.gamma.numpy() + layer.beta.numpy()

    def attend(x: np.ndarray) -> np.ndarray:
        """[S, D] to [S, D], among themselves."""

        def project(dense: tf.keras.layers.Layer) -> np.ndarray:
            return np.einsum("sd,dhk->hsk", x, dense.kernel.numpy()) + dense.bias.numpy()[:, None]

        q, k, v = (
            project(getattr(attention, f"_{name}_dense")) for name in ("query", "key", "value")
        )
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(width)
        alpha = np.exp(logits - logits.max(-1, keepdims=True))
        alpha /= alpha.sum(-1, keepdims=True)
        out = attention._output_dense
        return np.einsum("hsk,hkd->sd", alpha @ v, out.kernel.numpy()) + out.bias.numpy()

    def network(x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(x @ block.hidden.kernel.numpy() + block.hidden.bias.numpy(), 0)
        return (
            hidden @ block.output_projection.kernel.numpy() + block.output_projection.bias.numpy()
        )

    for row, x, size in zip(found, vectors.numpy(), [5, 3, 1], strict=True):
        x = x[:size].astype(np.float64)
        if pre_norm:
            x = x + attend(norm(block.attention_norm, x))
            x = x + network(norm(block.network_norm, x))
        else:
            x = norm(block.attention_norm, x + attend(x))
            x = norm(block.network_norm, x + network(x))
        np.testing.assert_allclose(row[:size], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_block_sees_no_padding_however_large_the_logits(pre_norm: bool) -> None:
    block = layers.SelfAttentionBlock(D, HEADS, pre_norm=pre_norm)
    vectors, noise = 5 * normal(B, N, D), 5 * normal(B, N, D)
    block(vectors, ITEMS)
    randomised(block)
    _, alpha = block.attention(vectors, vectors, return_attention_scores=True)
    assert np.min(alpha) < np.exp(-50)  # some pairs are as unlikely as meant
    expected = block(vectors, ITEMS)
    loud = block(tf.where(ITEMS[..., tf.newaxis], vectors, noise), ITEMS)
    longer = block(tf.concat([vectors, noise], axis=1), tf.pad(ITEMS, [[0, 0], [0, N]]))
    real = ITEMS.numpy()
    for found in (loud, longer[:, :N]):
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-4)


def test_block_over_a_list_of_nothing_but_padding_is_finite() -> None:
    block = layers.SelfAttentionBlock(D, HEADS, pre_norm=False)
    vectors = tf.zeros([1, N, D])
    with tf.GradientTape() as tape:
        out = block(vectors, tf.zeros([1, N], tf.bool))
        total = tf.reduce_sum(out)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in tape.gradient(total, block.trainable_weights))


# --- IAN ---


def test_ian_conditions_every_item_on_the_whole_list() -> None:
    ian = layers.InformationAggregationNode(D)
    node, items = normal(B, D), normal(B, N, D)
    ian(ian.start(node), items)
    randomised(ian)
    conditioned, (click, conversion) = ian(node, items)
    scale = 1 + np.tanh(node @ ian.scale.kernel)
    shift = node @ ian.shift.kernel
    expected = items * scale[:, np.newaxis] + shift[:, np.newaxis]
    np.testing.assert_allclose(conditioned, expected, rtol=1e-4, atol=1e-5)
    assert click.shape == conversion.shape == (B,)
    for found, alone in zip((click, conversion), ian.head(node), strict=True):
        np.testing.assert_array_equal(found, alone)
    assert (conversion <= click + 1e-5).numpy().all()


def test_ian_starts_from_its_token_and_the_interest() -> None:
    ian = layers.InformationAggregationNode(D)
    interest = normal(B, D)
    ian.start(interest)
    expected = ian.token + interest @ ian.from_interest.kernel
    np.testing.assert_allclose(ian.start(interest), expected, rtol=1e-5, atol=1e-6)
    nothing = ian.start(tf.zeros([B, D])).numpy()
    np.testing.assert_array_equal(nothing, np.broadcast_to(ian.token, (B, D)))


# --- encoders ---


def test_query_is_the_mean_of_its_real_tokens() -> None:
    encoder = layers.QueryEncoder(rows=6, units=D)
    tokens = tf.constant([[[5, 1, 5, 0], [0, 0, 0, 0]], [[2, 0, 0, 0], [1, 2, 3, 4]]])
    found = encoder(tokens)
    table = encoder.embedding.embeddings.numpy()
    expected = [
        [(2 * table[5] + table[1]) / 3, np.zeros(D)],
        [table[2], table[1:5].mean(axis=0)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def item_encoder(encoder: Encoder, batch) -> layers.ItemEncoder:
    layer = layers.ItemEncoder(encoder.inputs, D)
    layer(batch)
    return randomised(layer)


def test_items_are_embedded_by_id_and_features(item_encoder, batch) -> None:
    candidates, past = item_encoder(batch)
    tables = {name: table.embeddings.numpy() for name, table in item_encoder.tables.items()}
    assert tables.keys() == {"item_id", "item_artist"}

    def expected(prefix: str, floats: list[str], projection) -> np.ndarray:
        parts = [tables["item_id"][batch[f"{prefix}item_id"]]]
        order = [*floats, "artist", "popularity"]
        for name in order:
            if name == "artist":
                parts.append(tables["item_artist"][batch[f"{prefix}item_artist"]])
            else:
                column = name if name == "initial_score" else f"{prefix}item_{name}"
                parts.append(batch[column].numpy()[..., np.newaxis])
        return np.concatenate(parts, axis=-1) @ projection.kernel + projection.bias

    for found, wanted in (
        (candidates, expected("", ["initial_score"], item_encoder.candidate_projection)),
        (past, expected("history_", [], item_encoder.history_projection)),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_an_item_becomes_does_not_depend_on_its_place(item_encoder, batch) -> None:
    turned = {
        name: values[:, ::-1] if values.shape.rank > 1 else values for name, values in batch.items()
    }
    for found, expected in zip(item_encoder(turned), item_encoder(batch), strict=True):
        np.testing.assert_allclose(found, expected[:, ::-1], rtol=1e-5, atol=1e-6)


def test_a_past_item_without_its_features_keeps_its_id(tiny) -> None:
    """A log may know less of past items than of candidates."""
    spec = tiny.spec.model_copy(update={"history_item": ()})
    rows = {"user_id": 2, "query": 2, "user_country": 2, "context_device": 2}
    inputs = {
        "features": spec.model_dump(mode="json"),
        "encoding": {},
        "rows": {**rows, "item_id": 5, "item_artist": 3},
    }
    layer = layers.ItemEncoder(inputs, D)
    ids = tf.constant([[1, 4, 0]], tf.int64)
    zeros = tf.zeros([1, 3])
    _, past = layer(
        {
            "item_id": ids,
            "initial_score": zeros,
            "item_artist": tf.zeros([1, 3], tf.int64),
            "item_popularity": zeros,
            "history_item_id": ids,
        }
    )
    table, projection = layer.tables["item_id"].embeddings, layer.history_projection
    expected = tf.gather(table, ids) @ projection.kernel + projection.bias
    np.testing.assert_allclose(past, expected, rtol=1e-5, atol=1e-6)


def test_user_is_profile_context_and_the_mean_of_the_past(encoder: Encoder, batch) -> None:
    history = normal(*batch["history_item_id"].shape, D)
    mask = mask_of(batch, Axis.HISTORY)
    layer = layers.UserEncoder(encoder.inputs, D)
    layer(batch, history, mask)
    randomised(layer)
    found = layer(batch, history, mask)
    tables = {name: table.embeddings.numpy() for name, table in layer.tables.items()}
    sizes = mask.numpy().sum(axis=1)
    assert 0 in sizes
    means = [
        row[:size].mean(axis=0) if size else np.zeros(D)
        for row, size in zip(history.numpy(), sizes, strict=True)
    ]
    parts = [
        means,
        tables["user_id"][batch["user_id"]],
        tables["user_country"][batch["user_country"]],
        batch["user_plays"].numpy()[:, np.newaxis],
        tables["context_device"][batch["context_device"]],
        batch["context_hour"].numpy()[:, np.newaxis],
    ]
    expected = np.concatenate(parts, axis=-1) @ layer.projection.kernel + layer.projection.bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_users_past_has_no_padding_in_it(encoder: Encoder, batch) -> None:
    history = normal(*batch["history_item_id"].shape, D)
    mask = mask_of(batch, Axis.HISTORY)
    layer = layers.UserEncoder(encoder.inputs, D)
    loud = tf.where(mask[..., tf.newaxis], history, 1e3)
    np.testing.assert_array_equal(layer(batch, history, mask), layer(batch, loud, mask))


# --- masks ---


def test_the_mask_is_where_ids_are() -> None:
    raw = {"item_id": tf.constant([["a", ""]]), "history_item_id": tf.constant([[""]])}
    encoded = {"item_id": tf.constant([[7, 0]]), "history_item_id": tf.constant([[0]])}
    for one in (raw, encoded):
        assert mask_of(one, Axis.ITEM).numpy().tolist() == [[True, False]]
        assert mask_of(one, Axis.HISTORY).numpy().tolist() == [[False]]
