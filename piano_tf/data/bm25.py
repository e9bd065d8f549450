"""BM25 scores, for a first-stage order where a dataset's own is not to be had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piano_tf.errors import PianoError


class BM25:
    """BM25 over a collection of documents, as the library bm25s computes it.

    score(q, d) = sum over the terms t of q of idf(t) tf / (tf + k1 (1 - b + b |d| / mean |d|)),
    idf(t) = ln(1 + (N - n(t) + 0.5) / (n(t) + 0.5)), where tf is how often t stands in d, |d| the
    number of terms of d, N the number of documents and n(t) that of those with t; k1 = 1.5,
    b = 0.75. A term that q repeats counts each time.

    Source: S. Robertson, H. Zaragoza, The Probabilistic Relevance Framework, 2009; the idf is
    Lucene's, which is never negative.

    Args:
      documents: The terms of each document.

    Raises:
      PianoError: bm25s is not installed.

    >>> BM25([["blue", "train"], ["giant", "steps"]]).scores(["blue"]).argmax()
    0
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise PianoError("bm25s is not installed; expected it, for BM25 scores") from error
        self._documents = len(documents)
        self._index = None
        if any(documents):
            self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
            self._index.index([list(terms) for terms in documents], show_progress=False)

    def scores(self, query: Sequence[str]) -> np.ndarray:
        """float32 scores of all documents [N] for the terms of a query; 0 without a common term."""
        if self._index is None or not query:
            return np.zeros(self._documents, np.float32)
        return self._index.get_scores(list(query))
