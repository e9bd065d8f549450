"""A hundred million tracks and listeners, in tables that a laptop holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from piano_tf import models
from piano_tf.config import Config, EncodingConfig, ModelConfig, ScoreConfig
from piano_tf.data.batches import labels_of
from piano_tf.data.encoding import Encoder
from piano_tf.errors import ConfigError
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import LABELS
from piano_tf.layers.compositional_embedding import table_rows
from piano_tf.losses import RerankingLoss

SPACE = 10_000_000_000  # one in a hundred of 10^8 strings shares its id with another
IDS = 100_000_000
ENCODING = EncodingConfig(
    query_length=3,
    history_length=4,
    tables={
        "item_id": {"buckets": SPACE, "compositional": True},
        "user_id": {"buckets": IDS, "compositional": True},
        "query": {"buckets": 1_000_000, "compositional": True},
    },
)
MODEL = ModelConfig(name="prm", width=8, heads=2, blocks=1, ids=True, pretraining=None)


def test_a_model_of_100_million_ids_is_built_trained_and_exported(
    log_dir: Path, tiny, tmp_path: Path
) -> None:
    encoder = Encoder.fit(log_dir, ENCODING)
    assert encoder.inputs.rows["item_id"] == SPACE + 1
    raw = tiny.raw([tiny.row(number) for number in range(8)])
    batch, labels = encoder(raw), labels_of(raw)
    tf.keras.utils.set_random_seed(0)
    model = models.build(encoder.inputs, MODEL)
    before = {name: values.numpy() for name, values in model(batch).items()}
    tables = 2 * MODEL.width * (SPACE**0.5 + IDS**0.5 + 1_000_000**0.5)
    assert tables < model.count_params() < tables + 10_000

    model.compile("adam", RerankingLoss())
    model.train_on_batch(batch, labels)
    after = model(batch, training=False)
    assert all(np.abs(after[name] - before[name]).max() > 1e-4 for name in LABELS)

    card = ModelCard(
        inputs=encoder.inputs, config=Config(encoding=ENCODING, model=MODEL), score=ScoreConfig()
    )
    module = ServingModule(model, encoder, tiny.spec, card.score)
    loaded = tf.saved_model.load(str(export_model(module, card, tmp_path / "1")))
    found = loaded.signatures["serving_default"](
        **{name: values for name, values in raw.items() if name not in LABELS}
    )
    for name in LABELS:
        np.testing.assert_allclose(found[name], tf.sigmoid(after[name]), rtol=1e-4, atol=1e-6)


def test_configuration_is_immutable_and_exact() -> None:
    config = Config(encoding=ENCODING, model=MODEL)
    assert Config.from_json(config.model_dump_json()) == config
    assert len({ENCODING, EncodingConfig.from_json(ENCODING.model_dump_json())}) == 1


@pytest.mark.parametrize("table", ["item_id", "query"])
def test_pretrained_vectors_are_full_tables(table: str) -> None:
    text = f'{{"encoding": {{"tables": {{"{table}": {{"compositional": true}}}}}}}}'
    with pytest.raises(ConfigError, match=rf"encoding\.tables\.{table} is compositional, and "):
        Config.from_json(text)


@pytest.mark.parametrize("power", [8, 10, 12])
def test_the_memory_table_says_what_tables_take(power: int) -> None:
    rows = sum(table_rows(10**power))
    megabytes = rows * 64 * 4 / 1e6
    shared = 100 * -np.expm1(-IDS / 10**power)
    line = f"| compositional, 10^{power} buckets | {rows:,} | {megabytes:.3g} MB | {shared:.2g} % |"
    assert line in (Path(__file__).parents[2] / "docs" / "hardware.md").read_text()
