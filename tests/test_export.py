"""The exported SavedModel against the model it was made of, from raw strings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.config import Config, ModelConfig, ScoreConfig, SelectionConfig
from piano_tf.data.encoding import Encoder
from piano_tf.errors import PianoError
from piano_tf.evaluation.predictions import Predictions
from piano_tf.experiment.policies import ListSelection, by_score, combined
from piano_tf.explanation import leave_one_out
from piano_tf.export import (
    CARD_FILE,
    ModelCard,
    ServingModule,
    export_model,
    parse_examples,
    require_exportable,
)
from piano_tf.features import LABELS, Axis, FeatureSpec
from piano_tf.masks import mask_of
from piano_tf.models import build
from piano_tf.rerank import list_value, order_of, score

Row = dict[str, Any]
SCORE = ScoreConfig(click=1.0, conversion=1.5)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=["dlcm", "mir", "piano", "prm"])
def name(request: pytest.FixtureRequest) -> str:
    """One re-ranker of each kind of operation, for an export takes long."""
    return request.param


@pytest.fixture(scope="module")
def module(fitted, encoder: Encoder, tiny) -> Callable[[str], ServingModule]:
    return lambda name: ServingModule(fitted(name).model, encoder, tiny.spec, SCORE)


@pytest.fixture(scope="module")
def card(encoder: Encoder) -> ModelCard:
    return ModelCard(inputs=encoder.inputs, config=Config(), score=SCORE)


@pytest.fixture(scope="module")
def exported(
    module, card: ModelCard, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folder of each re-ranker's SavedModel."""
    folder = tmp_path_factory.mktemp("exported")
    known: dict[str, Path] = {}

    def exported_by(name: str) -> Path:
        if name not in known:
            known[name] = export_model(module(name), card, folder / name / "1")
        return known[name]

    return exported_by


@pytest.fixture(scope="module")
def loaded(exported) -> Callable[[str], dict[str, Callable]]:
    """Signatures of each re-ranker's SavedModel."""
    known: dict[str, Any] = {}

    def loaded_by(name: str) -> dict[str, Callable]:
        if name not in known:
            known[name] = tf.saved_model.load(str(exported(name)))  # held, or its tables go
        return known[name].signatures

    return loaded_by


@pytest.fixture
def predict(loaded, name: str) -> Callable[..., dict[str, np.ndarray]]:
    """The default signature of each re-ranker in turn, on raw columns."""

    def predicted(raw: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        return {k: v.numpy() for k, v in loaded(name)["serving_default"](**raw).items()}

    return predicted


@pytest.fixture(scope="module")
def rows(tiny) -> list[Row]:
    """Lists of 1 to 6 candidates with 0 to 4 entries of history, and one nobody has seen."""
    new = tiny.row(77, query="聞いたことない ПЕСНЯ 🎵", user_id="stranger")
    new["item_id"] = [f"new-{place}" for place in range(4)]
    return [*tiny.rows(7), new]


@pytest.fixture(scope="module")
def raw(tiny, rows: list[Row]) -> dict[str, tf.Tensor]:
    return tiny.raw(rows, labels=False)


def example_of(row: Row, *, sparse: bool) -> bytes:
    """A tf.Example; with `sparse` as TFX writes it, without scalars that are 0 or ""."""
    features = {}
    for name, value in row.items():
        if name in LABELS or (sparse and value in (0, "")):
            continue
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], str):
            encoded = [text.encode() for text in values]
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        elif name == "timestamp":
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        elif values:
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            feature = tf.train.Feature()
        features[name] = feature
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


# --- what the signatures answer ---


def test_the_export_predicts_what_the_model_predicts(predict, fitted, name, encoder, raw) -> None:
    outputs = fitted(name).model.predict_on_batch(encoder(raw))
    mask = mask_of(raw, Axis.ITEM).numpy()
    scores = score({label: tf.constant(outputs[label]) for label in LABELS}, SCORE)
    found = predict(raw)
    assert set(found) == {"score", "order", *LABELS, *(f"list_{label}" for label in LABELS)}
    for label in LABELS:
        p = 1 / (1 + np.exp(-outputs[label]))
        np.testing.assert_allclose(found[label], np.where(mask, p, 0), **CLOSE)
        lists = 1 / (1 + np.exp(-outputs[f"list_{label}"]))
        np.testing.assert_allclose(found[f"list_{label}"], lists, **CLOSE)
    np.testing.assert_allclose(found["score"][mask], scores.numpy()[mask], rtol=1e-5, atol=1e-4)
    assert (found["score"][~mask] == np.finfo(np.float32).min).all()
    expected = order_of(tf.constant(found["score"]), tf.constant(mask))
    np.testing.assert_array_equal(found["order"], expected)
    assert np.ptp(found["click"][mask]) > 0.1


def test_the_order_is_best_first_with_padding_last(predict, raw) -> None:
    found, mask = predict(raw), mask_of(raw, Axis.ITEM).numpy()
    for order, scores, real in zip(found["order"], found["score"], mask, strict=True):
        assert sorted(order) == list(range(len(real)))
        assert (np.diff(scores[order]) <= 0).all()
        assert real[order[: real.sum()]].all()


@pytest.mark.parametrize("sparse", [False, True])
def test_both_signatures_answer_the_same(predict, loaded, name, rows, raw, sparse: bool) -> None:
    examples = tf.constant([example_of(row, sparse=sparse) for row in rows])
    found = loaded(name)["serve_examples"](examples=examples)
    for output, values in predict(raw).items():
        np.testing.assert_allclose(found[output], values, err_msg=output, **CLOSE)


def test_padding_changes_nothing_but_its_own_places(predict, raw, pad_more) -> None:
    before, after = predict(raw), predict(pad_more(raw, items=2, history=3))
    width = raw["item_id"].shape[1]
    for output, values in before.items():
        there = after[output][:, :width] if values.ndim == 2 else after[output]
        np.testing.assert_allclose(there, values, err_msg=output, **CLOSE)
    assert not after["click"][:, width:].any()


def test_a_request_without_history(predict, tiny) -> None:
    raw = tiny.raw([tiny.row(1, history=0), tiny.row(2, history=0)], labels=False)
    assert raw["history_item_id"].shape == (2, 0)
    found = predict(raw)
    assert all(np.isfinite(values).all() for values in found.values())
    beside = predict(
        tiny.raw([tiny.row(1, history=0), tiny.row(2, history=0), tiny.row(3)], labels=False)
    )
    for output, values in found.items():
        np.testing.assert_allclose(beside[output][:2], values, err_msg=output, **CLOSE)


def test_examples_without_history(predict, loaded, name: str, tiny) -> None:
    rows = [tiny.row(1, history=0)]
    found = loaded(name)["serve_examples"](examples=[example_of(row, sparse=True) for row in rows])
    for output, values in predict(tiny.raw(rows, labels=False)).items():
        np.testing.assert_allclose(found[output], values, err_msg=output, **CLOSE)


def test_one_candidate(predict, tiny) -> None:
    found = predict(tiny.raw([tiny.row(1, candidates=1)], labels=False))
    assert found["order"].tolist() == [[0]]
    assert 0 < found["conversion"][0, 0] <= found["click"][0, 0] < 1


def test_a_list_of_padding_only(predict, raw) -> None:
    blank = dict(raw)
    for column, values in raw.items():
        if column.startswith(("item_", "initial_score", "history_")):
            blank[column] = tf.zeros_like(values)
    found = predict(blank)
    assert all(np.isfinite(values).all() for values in found.values())
    assert not found["click"].any()
    assert found["order"].tolist() == [list(range(raw["item_id"].shape[1]))] * len(raw["item_id"])


def test_a_query_that_is_not_utf8(predict, raw) -> None:
    broken = {**raw, "query": tf.constant([b"\xff\xfe live"] * len(raw["query"]))}
    assert np.isfinite(predict(broken)["click"]).all()


def test_the_query_is_read(predict, tiny) -> None:
    one, other = (
        predict(tiny.raw([tiny.row(1, query=query)], labels=False))["score"]
        for query in ("Björk live", "Кино live")
    )
    assert np.abs(one - other).max() > 0.01


def test_explain_tells_what_the_library_does(
    loaded, fitted, encoder: Encoder, predict, name: str, tiny, raw
) -> None:
    found = {k: v.numpy() for k, v in loaded(name)["explain"](**raw).items()}
    for output, values in predict(raw).items():
        np.testing.assert_allclose(found[output], values, **CLOSE)
    model, batch = fitted(name).model, encoder(raw)
    for output, values in leave_one_out(model, batch, tiny.spec).items():
        np.testing.assert_allclose(found[f"{output}_value"], values, **CLOSE)
        assert np.abs(values).max() > 1e-4
    if name == "piano":
        attention = model.attention(batch).numpy().mean(axis=1)[:, 1:]
        np.testing.assert_allclose(found["history_attention"], attention, **CLOSE)
        assert (found["history_attention"][raw["history_item_id"].numpy() == b""] == 0).all()
        assert attention.max() > 0.01


@pytest.fixture(scope="module")
def many(tiny) -> dict[str, tf.Tensor]:
    """Lists of 1 to 6 candidates side by side, so that most of them end in padding."""
    return tiny.raw(tiny.rows(30), labels=False)


class Asked:
    """Lists as a policy gets them, of raw columns."""

    def __init__(self, raw: dict[str, tf.Tensor], features: FeatureSpec) -> None:
        self._raw = {name: values.numpy() for name, values in raw.items()}
        self._moved = [c.name for c in features.columns(labels=False) if c.axis is Axis.ITEM]
        self.searches = SimpleNamespace(mask=mask_of(raw, Axis.ITEM).numpy())

    def rows(self, order: np.ndarray | None = None) -> dict[str, np.ndarray]:
        if order is None:
            return self._raw
        return self._raw | {
            name: np.take_along_axis(self._raw[name], order, axis=1) for name in self._moved
        }


def test_select_list_chooses_as_the_policy_does(loaded, predict, name, tiny, many) -> None:
    selection = SelectionConfig()
    fields = [field.name for field in dataclasses.fields(Predictions)]

    def predictor(rows: dict[str, np.ndarray]) -> Predictions:
        said = predict({column: tf.constant(values) for column, values in rows.items()})
        return Predictions(**{field: said[field] for field in fields})

    asked = Asked(many, tiny.spec)
    wanted = ListSelection(predictor, selection.sweep, selection.value).order(asked)
    found = {k: v.numpy() for k, v in loaded(name)["select_list"](**many).items()}
    values = found["list_value"]
    assert values.shape == (len(wanted), len(selection.sweep))
    plain = predictor(asked.rows())
    for place, weights in enumerate(selection.sweep):
        order = by_score(combined(plain, *weights), asked.searches.mask)
        again = predictor(asked.rows(order))
        worth = list_value(again.list_click, again.list_conversion, selection.value)
        np.testing.assert_allclose(values[:, place], worth, **CLOSE)
    # Between orders that are worth the same, rounding decides.
    rivals = np.where(np.arange(values.shape[1]) == found["chosen"][:, np.newaxis], -1.0, values)
    clear = values[np.arange(len(values)), found["chosen"]] - rivals.max(axis=1) > 1e-4
    np.testing.assert_array_equal(found["order"][clear], wanted[clear])
    # An order that is the same by several weights is worth the same, and the first one is taken.
    assert (values.max(axis=1) - values[np.arange(len(values)), found["chosen"]] < 2e-6).all()
    if name == "dlcm":  # of which no order is the best for all of these lists
        assert len({*found["chosen"].tolist()}) > 1 and clear.any()


def test_select_list_gives_what_the_default_does(loaded, predict, name, many) -> None:
    found = {k: v.numpy() for k, v in loaded(name)["select_list"](**many).items()}
    plain = predict(many)
    assert found.keys() == plain.keys() | {"list_value", "chosen"}
    mask = mask_of(many, Axis.ITEM).numpy()
    for output in plain.keys() - {"order", "score"}:
        np.testing.assert_allclose(found[output], plain[output], **CLOSE)
    np.testing.assert_array_equal(found["order"], order_of(found["score"], mask))
    for order, real in zip(found["order"], mask, strict=True):
        assert sorted(order) == [*range(len(order))]
        assert sorted(order[: real.sum()]) == [*range(real.sum())], "padding before a candidate"
    assert (found["score"][~mask] == np.finfo(np.float32).min).all()


def test_padding_changes_nothing_of_what_is_selected(loaded, name: str, tiny, many) -> None:
    rows = tiny.rows(6)
    beside = {k: v.numpy() for k, v in loaded(name)["select_list"](**many).items()}
    for place, row in enumerate(rows):
        alone = loaded(name)["select_list"](**tiny.raw([row], labels=False))
        np.testing.assert_allclose(alone["list_value"][0], beside["list_value"][place], **CLOSE)


def test_where_the_order_does_not_count_no_list_is_selected(encoder, tiny) -> None:
    model = build(encoder.inputs, ModelConfig(name="prm", width=4, heads=1, rank="training"))
    module = ServingModule(model, encoder, tiny.spec, SCORE)
    assert set(module.signatures()) == {"serving_default", "serve_examples", "explain"}


# --- how they are declared ---


def test_signatures_take_the_columns_of_the_log_without_labels(loaded, name: str, tiny) -> None:
    signatures = loaded(name)
    assert set(signatures) == {"serving_default", "serve_examples", "explain", "select_list"}
    inputs = signatures["serving_default"].structured_input_signature[1]
    assert set(inputs) == {column.name for column in tiny.spec.columns(labels=False)}
    for column in tiny.spec.columns(labels=False):
        expected = 1 if column.axis is Axis.LIST else 2
        assert inputs[column.name].shape.as_list() == [None] * expected
    (examples,) = signatures["serve_examples"].structured_input_signature[1].values()
    assert examples == tf.TensorSpec([None], tf.string, name="examples")
    outputs = signatures["serving_default"].structured_outputs.keys()
    assert signatures["serve_examples"].structured_outputs.keys() == outputs
    assert signatures["explain"].structured_input_signature[1].keys() == inputs.keys()
    explained = {"list_click_value", "list_conversion_value"}
    explained |= {"history_attention"} if name == "piano" else set()
    assert signatures["explain"].structured_outputs.keys() == outputs | explained
    assert signatures["select_list"].structured_input_signature[1].keys() == inputs.keys()
    # By this a server knows how many passes it costs.
    assert signatures["select_list"].output_shapes["list_value"].as_list() == [None, 5]


def test_scalars_missing_from_an_example_are_0_or_empty(tiny) -> None:
    row = tiny.row(0, user_plays=0.0, user_country="", query="", timestamp=0)
    sparse = example_of(row, sparse=True)
    assert b"user_plays" not in sparse and b"timestamp" not in sparse
    found = parse_examples(tf.constant([sparse]), tiny.spec)
    for column, values in tiny.raw([row], labels=False).items():
        assert found[column].dtype == values.dtype
        np.testing.assert_array_equal(found[column], values, err_msg=column)


def test_examples_are_padded_like_batches(tiny, rows: list[Row], raw) -> None:
    found = parse_examples(tf.constant([example_of(row, sparse=False) for row in rows]), tiny.spec)
    assert found.keys() == raw.keys()
    for column, values in raw.items():
        np.testing.assert_array_equal(found[column], values, err_msg=column)


@pytest.mark.parametrize("column", ["item_popularity", "history_age", "item_id"])
def test_a_column_that_lacks_values_is_named(tiny, column: str) -> None:
    rows = [tiny.row(1, candidates=3), tiny.row(2, candidates=4)]
    rows[0][column] = rows[0][column][:-1]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"column {column} of an example|{column}$"
    ):
        parse_examples(tf.constant([example_of(row, sparse=False) for row in rows]), tiny.spec)


# --- what is written ---


def test_the_card_says_what_was_exported(exported, card: ModelCard) -> None:
    folder = exported("piano")
    assert ModelCard.load(folder / CARD_FILE) == card
    assert (folder / "saved_model.pb").is_file()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_export_is_never_overwritten(module, card: ModelCard, tmp_path: Path) -> None:
    path = tmp_path / "7"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"the one in service")
    with pytest.raises(PianoError, match="exists already") as fault:
        export_model(module("prm"), card, path)
    assert str(path) in str(fault.value)
    assert [p.name for p in tmp_path.rglob("*")] == ["7", "saved_model.pb"]
    assert (path / "saved_model.pb").read_bytes() == b"the one in service"


def test_a_file_in_place_of_a_folder_is_never_overwritten(module, card, tmp_path: Path) -> None:
    path = tmp_path / "7"
    path.write_text("years of work")
    with pytest.raises(PianoError) as fault:
        export_model(module("prm"), card, path)
    assert str(path) in str(fault.value)
    assert path.read_text() == "years of work"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=type)
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_export_leaves_nothing(
    module, card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error, existing: bool
) -> None:
    path = tmp_path / "models" / "7"
    if existing:
        path.mkdir(parents=True)  # empty, as Trainer's output folder is

    def broken_off(module: tf.Module, folder: str, signatures: dict) -> None:
        (Path(folder) / "saved_model.pb").write_bytes(b"half of")
        raise error

    fake = module("prm")
    monkeypatch.setattr(ServingModule, "signatures", lambda self: {})
    monkeypatch.setattr(tf.saved_model, "save", broken_off)
    with pytest.raises(type(error)):
        export_model(fake, card, path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == (["7"] if existing else [])
    assert not existing or not any(path.iterdir())


def test_an_empty_folder_may_be_filled(
    module, card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "7"
    path.mkdir()
    monkeypatch.setattr(ServingModule, "signatures", lambda self: {})
    monkeypatch.setattr(
        tf.saved_model,
        "save",
        lambda module, folder, signatures: (Path(folder) / "saved_model.pb").write_bytes(b"all"),
    )
    assert export_model(module("prm"), card, path) == path
    assert (path / "saved_model.pb").read_bytes() == b"all"
    assert [p.name for p in tmp_path.iterdir()] == ["7"]


def test_trees_are_not_exported_and_the_error_says_so() -> None:
    with pytest.raises(PianoError, match=r"model.name: 'lambdamart' is no Keras model.*piano, "):
        require_exportable(ModelConfig(name="lambdamart"))
