"""An encoded batch of tiny lists for every test of a layer."""

from __future__ import annotations

import pytest
import tensorflow as tf

from piano_tf.data.encoding import Encoder


@pytest.fixture(scope="session")
def batch(tiny, encoder: Encoder) -> dict[str, tf.Tensor]:
    """Lists of 1 to 6 candidates with histories of 0 to 4 entries."""
    return encoder(tiny.raw(tiny.rows(6)))
