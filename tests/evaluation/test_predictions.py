"""From a model to arrays: order, padding, what is refused, and what is kept on disk."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from piano_tf import models
from piano_tf.config import ScoreConfig
from piano_tf.data.batches import dataset
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import (
    Predictions,
    ideal_order,
    initial_order,
    predict,
    random_order,
)
from piano_tf.evaluation.ranking import list_metrics, ranks_of
from piano_tf.features import LABELS

BOTH = ScoreConfig(click=1.0, conversion=0.5)


def batch(*lists: list[float]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """A batch whose candidates have these click logits; what stands at padding is nan."""
    width = max(map(len, lists))
    real = np.arange(width) < np.array([len(row) for row in lists])[:, np.newaxis]
    logits = np.full(real.shape, np.nan, np.float32)
    logits[real] = np.concatenate(lists)
    return {"item_id": tf.constant(real, tf.int64), "logit": tf.constant(logits)}, {}


def given(inputs, training: bool):
    """The model: the batch's own logits, a conversion one below, and of the list the first's."""
    assert not training
    logit = inputs["logit"]
    return {
        "click": logit,
        "conversion": logit - 1,
        "list_click": logit[:, 0],
        "list_conversion": logit[:, 0] - 2,
    }


BATCHES = [batch([0.5, -2.0], [3.0]), batch([1.0, -30.0, 2.0])]


def test_lists_keep_their_order_and_padding_is_zero() -> None:
    found = predict(given, BOTH, BATCHES)
    logit = np.array([[0.5, -2, 0], [3, 0, 0], [1, -30, 2]])
    real = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    click, both = -np.logaddexp(0, -logit), -np.logaddexp(0, 1 - logit)
    expected = Predictions(
        score=np.where(real, click + 0.5 * (both - click), 0),
        click=np.where(real, expit(logit), 0),
        conversion=np.where(real, expit(logit - 1), 0),
        list_click=expit([0.5, 3, 1]),
        list_conversion=expit([-1.5, 1, -1]),
    )
    for name, values in vars(expected).items():
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, err_msg=name)


def test_an_eager_model_runs_outside_a_graph_and_says_the_same() -> None:
    class Eager:
        eager = True

        def __call__(self, inputs, training: bool = False):
            logits = given({"logit": inputs["logit"].numpy()}, training)  # fails in a graph
            return {name: values.astype(np.float32) for name, values in logits.items()}

    eager, graph = predict(Eager(), BOTH, BATCHES), predict(given, BOTH, BATCHES)
    for name, values in vars(graph).items():
        np.testing.assert_allclose(getattr(eager, name), values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ("click", "list 2, candidate 1"),
        ("conversion", "list 2, candidate 1"),
        ("list_click", "list 2"),
    ],
)
def test_what_is_not_finite_is_named(output: str, place: str) -> None:
    def broken(inputs, training: bool):
        logits = given(inputs, training)
        low = inputs["logit"] == -30.0
        wrong = low if logits[output].shape.rank == 2 else tf.reduce_any(low, axis=1)
        return {**logits, output: tf.where(wrong, np.inf, logits[output])}

    with pytest.raises(PianoError, match=f"{place}, output '(score|{output})': got (inf|-inf|nan)"):
        predict(broken, BOTH, BATCHES)


def test_no_batches_are_an_error() -> None:
    with pytest.raises(PianoError, match="no lists"):
        predict(given, BOTH, [])


def test_a_reranker_s_predictions_are_its_outputs(log_dir: Path, encoder, tiny_model) -> None:
    model = models.build(encoder.inputs, tiny_model.model_copy(update={"name": "prm"}))
    batches = dataset(log_dir, "test", encoder, batch_size=3)  # the last of one list only
    found = predict(model, BOTH, batches)
    lists = read_lists(log_dir, "test")
    assert found.click.shape == lists.mask.shape and len(found.list_click) == len(lists)
    assert not found.click[~lists.mask].any() and found.click[lists.mask].all()
    done = 0
    for inputs, labels in batches:
        outputs = model(inputs, training=False)
        size, width = inputs["item_id"].shape
        part, real = slice(done, done + size), inputs["item_id"].numpy() != 0
        for name in LABELS:
            np.testing.assert_allclose(
                getattr(found, name)[part, :width][real], expit(outputs[name])[real], rtol=1e-4
            )
            np.testing.assert_allclose(
                getattr(found, f"list_{name}")[part], expit(outputs[f"list_{name}"]), rtol=1e-4
            )
            np.testing.assert_array_equal(lists.labels[name][part, :width], labels[name])
        done += size


# --- on disk ---


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    found = predict(given, BOTH, BATCHES)
    found.save(file)
    found.save(file)  # over the first
    loaded = Predictions.load(file)
    for name, values in vars(found).items():
        np.testing.assert_array_equal(getattr(loaded, name), values)
        assert getattr(loaded, name).dtype == values.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    found = predict(given, BOTH, BATCHES)
    found.save(file)
    before = file.read_bytes()
    with (
        mock.patch("numpy.savez_compressed", side_effect=OSError("the disk is full")),
        pytest.raises(OSError, match="full"),
    ):
        found.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    assert file.read_bytes() == before


def test_a_file_of_something_else_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    with pytest.raises(PianoError, match=r"predictions\.npz: cannot be read"):
        Predictions.load(file)
    for content in (b"", b"nonsense", b"PK\x03\x04nonsense"):
        file.write_bytes(content)
        with pytest.raises(PianoError, match=r"predictions\.npz: cannot be read"):
            Predictions.load(file)
    np.savez(file, click=np.zeros(1))
    with pytest.raises(PianoError, match=r"predictions\.npz: cannot be read"):
        Predictions.load(file)
    np.save(tmp_path / "one.npy", np.zeros(1))
    with pytest.raises(PianoError, match=r"one\.npy: cannot be read"):
        Predictions.load(tmp_path / "one.npy")


def test_folds_stand_one_after_the_other_padded_to_the_widest() -> None:
    parts = [predict(given, BOTH, [part]) for part in BATCHES]
    assert parts[0].click.shape == (2, 2)
    whole, both = predict(given, BOTH, BATCHES), Predictions.concatenate(parts)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(both, name), values, err_msg=name)


# --- the reference orders ---


def test_the_initial_order_is_that_of_the_columns(log_dir: Path) -> None:
    lists = read_lists(log_dir, "train")
    ranks = ranks_of(initial_order(lists), lists.mask)
    np.testing.assert_array_equal(ranks, np.broadcast_to(np.arange(6), lists.mask.shape))


@pytest.mark.parametrize("label", LABELS)
def test_the_ideal_order_is_best_at_every_depth(log_dir: Path, label: str) -> None:
    lists = read_lists(log_dir, "train")
    found = list_metrics(lists, ideal_order(lists, label))
    for name, values in found.items():
        if name.startswith(label):
            np.testing.assert_allclose(values[lists.any(label)], 1, err_msg=name)
            assert np.isnan(values[~lists.any(label)]).all()


def test_the_random_order_is_its_seed_s_and_favours_no_rank(log_dir: Path) -> None:
    lists = read_lists(log_dir, "train")
    np.testing.assert_array_equal(random_order(lists, 1), random_order(lists, 1))
    ranks = np.stack([ranks_of(random_order(lists, seed), lists.mask) for seed in range(400)])
    length = lists.mask.sum(axis=1, keepdims=True)
    # The mean of a uniform rank, within five standard errors.
    error = 5 * np.sqrt((length**2 - 1) / 12 / len(ranks))
    off = np.abs(ranks.mean(axis=0) - (length - 1) / 2)
    assert (off <= error + 1e-9)[lists.mask].all()
