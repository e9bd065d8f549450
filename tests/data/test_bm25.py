"""BM25 scores against their formula, and where there is nothing to score."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bm25_reference import bm25

from piano_tf.data.bm25 import BM25
from piano_tf.errors import PianoError


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    documents = [rng.choice(list("abcdefgh"), rng.integers(0, 9)).tolist() for _ in range(30)]
    scorer = BM25(documents)
    for query in (["a"], ["a", "h"], ["c", "c", "d"], ["a", "unknown"], list("abcdefgh")):
        got = scorer.scores(query)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, bm25(documents, query), rtol=1e-5)
        assert got.any()


@pytest.mark.parametrize(
    ("documents", "query"),
    [([["a"], ["b"]], []), ([["a"], []], ["unknown"]), ([[], []], ["a"]), ([], ["a"])],
)
def test_nothing_in_common_scores_0(documents: list[list[str]], query: list[str]) -> None:
    assert BM25(documents).scores(query).tolist() == [0.0] * len(documents)


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(PianoError, match="bm25s is not installed"):
        BM25([["a"]])
