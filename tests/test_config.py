"""Configuration as a contract: typed, frozen, exact as JSON, and strict about keys."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.config import (
    Config,
    EncodingConfig,
    Frozen,
    LossConfig,
    ModelConfig,
    PIANOConfig,
    PretrainingConfig,
    ScoreConfig,
    TrainingConfig,
)
from piano_tf.errors import ConfigError

weights = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=1, max_value=10**9)
rates = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
SWITCHES = [name for name, field in PIANOConfig.model_fields.items() if field.annotation is bool]
pretrainings = st.builds(
    PretrainingConfig,
    method=st.sampled_from(["factorisation", "two_tower"]),
    width=counts,
    folds=st.integers(min_value=2, max_value=100),
    epochs=counts,
    batch_size=st.integers(min_value=2, max_value=10**9),
    learning_rate=rates,
    temperature=rates,
)
configs = st.builds(
    Config,
    encoding=st.builds(
        EncodingConfig,
        query_length=counts,
        history_length=counts,
        vocabulary_size=st.none() | counts,
        oov_buckets=counts,
    ),
    model=st.builds(
        lambda heads, times, inputs, **sizes: ModelConfig(
            width=heads * times, heads=heads, ids=inputs[0], pretraining=inputs[1], **sizes
        ),
        st.integers(1, 16),
        st.integers(1, 64),
        # A query has a vector of its own, or a pre-trained one, or both.
        st.tuples(st.just(True), st.none()) | st.tuples(st.booleans(), pretrainings),
        name=st.text(),
        blocks=counts,
        experts=counts,
        dropout=st.floats(0, 1, exclude_max=True),
        max_rank=counts,
        match=st.booleans(),
        piano=st.builds(
            PIANOConfig,
            keys=st.sampled_from(["query", "item", "none"]),
            conditioning=st.sampled_from(["film", "concat", "none"]),
            **dict.fromkeys(SWITCHES, st.booleans()),
        ),
    ),
    loss=st.one_of(
        [
            st.builds(
                LossConfig,
                listwise=st.just("softmax_loss"),
                conversion=weights,
                calibration=weights,
                list_level=weights,
                consistency=weights if target == "any" else st.just(0.0),
                list_target=st.just(target),
            )
            for target in get_args(LossConfig.model_fields["list_target"].annotation)
        ]
    ),
    training=st.builds(
        TrainingConfig,
        batch_size=counts,
        epochs=counts,
        learning_rate=weights,
        patience=counts,
        seed=st.integers(0, 2**32 - 1),
    ),
)


@given(configs)
@settings(max_examples=50)
def test_json_round_trip_is_exact(config: Config) -> None:
    assert Config.from_json(config.model_dump_json()) == config


@given(st.builds(ScoreConfig, click=st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=25)
def test_score_weights_survive_json(score: ScoreConfig) -> None:
    assert ScoreConfig.from_json(score.model_dump_json()) == score


@pytest.mark.parametrize("section", list(Config.model_fields))
def test_unknown_key_is_named_with_its_section_and_value(section: str) -> None:
    with pytest.raises(ConfigError) as fault:
        Config.from_json(f'{{"{section}": {{"wdith": 64}}}}')
    keys = ", ".join(Config.model_fields[section].annotation.model_fields)
    assert str(fault.value) == f"{section}.wdith: got 64; expected one of {keys}"


def test_unknown_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"optimiser: got \{\}"):
        Config.from_json('{"optimiser": {}}')


@pytest.mark.parametrize(
    ("json", "key", "got"),
    [
        ('{"model": {"width": "wide"}}', "model.width", "'wide'"),
        ('{"model": {"width": 0}}', "model.width", "0"),
        ('{"model": {"dropout": 1.0}}', "model.dropout", "1.0"),
        ('{"model": {"width": 6, "heads": 4}}', "model", "{'width': 6, 'heads': 4}"),
        ('{"loss": {"conversion": -1}}', "loss.conversion", "-1"),
        ('{"loss": {"conversion": 1e999}}', "loss.conversion", "inf"),
        ('{"loss": {"list_target": "most"}}', "loss.list_target", "'most'"),
        ('{"encoding": {"oov_buckets": 0}}', "encoding.oov_buckets", "0"),
        ('{"training": {"epochs": 2.5}}', "training.epochs", "2.5"),
        ('{"training": 3}', "training", "3"),
        ('{"model": {"experts": 0}}', "model.experts", "0"),
        ('{"model": {"pretraining": {"folds": 1}}}', "model.pretraining.folds", "1"),
        ('{"model": {"pretraining": {"method": "svd"}}}', "model.pretraining.method", "'svd'"),
        ('{"model": {"piano": {"keys": "user"}}}', "model.piano.keys", "'user'"),
        ('{"model": {"piano": {"token": 3}}}', "model.piano.token", "3"),
        (
            '{"model": {"ids": false, "pretraining": null}}',
            "model",
            "{'ids': False, 'pretraining': None}",
        ),
    ],
)
def test_wrong_value_is_one_sentence_with_key_and_value(json: str, key: str, got: str) -> None:
    with pytest.raises(ConfigError) as fault:
        Config.from_json(json)
    assert str(fault.value).startswith(f"{key}: got {got}; ")
    assert "\n" not in str(fault.value)


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ConfigError, match="width 6 is not a multiple of heads 4"):
        ModelConfig.from_json('{"width": 6, "heads": 4}')


@pytest.mark.parametrize("text", ["", "{", "[]", b"\xff"])
def test_text_that_is_no_configuration_is_one_sentence(text: str | bytes) -> None:
    with pytest.raises(ConfigError) as fault:
        Config.from_json(text)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_that_cannot_seed_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"[Ss]eed"):
        np.random.seed(seed)  # what Keras does with it
    with pytest.raises(ConfigError, match=r"training\.seed"):
        Config.from_json(f'{{"training": {{"seed": {seed}}}}}')


def test_files_are_named_in_faults(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError) as missing:
        Config.load(path)
    assert str(missing.value) == f"{path}: no such file; expected JSON of Config"
    path.write_text('{"model": {"depth": 2}}')
    with pytest.raises(ConfigError) as wrong:
        Config.load(path)
    assert str(wrong.value).startswith(f"{path}: model.depth: got 2; expected one of name, width")
    path.write_text('{"model": {"blocks": 2}}')
    assert Config.load(path) == Config(model=ModelConfig(blocks=2))


def test_folder_in_place_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        Config.load(tmp_path)
    assert str(fault.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        EncodingConfig(),
        ModelConfig(),
        PIANOConfig(),
        PretrainingConfig(),
        LossConfig(),
        TrainingConfig(),
    ],
)
def test_frozen(config: Frozen) -> None:
    before = config.model_copy()
    for name in type(config).model_fields:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))
    assert config == before
    assert hash(config) == hash(before)


def test_a_model_without_vectors_of_its_own_needs_pretrained_ones() -> None:
    for ids in (True, False):
        assert ModelConfig(ids=ids).pretraining is not None
    assert ModelConfig.from_json('{"ids": true, "pretraining": null}').pretraining is None
    with pytest.raises(ConfigError, match="ids false and pretraining null"):
        ModelConfig.from_json('{"ids": false, "pretraining": null}')


def test_what_is_left_out_is_the_default() -> None:
    assert Config.from_json('{"model": {"blocks": 3}}') == Config(model=ModelConfig(blocks=3))
