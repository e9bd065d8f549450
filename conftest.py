"""Settings of every test and doctest."""

import os

# Before TensorFlow is imported: its start-up notices are nobody's news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict) -> None:
    """Names that every doctest may use without importing them."""
    import numpy as np
    import tensorflow as tf

    doctest_namespace["np"] = np
    doctest_namespace["tf"] = tf
